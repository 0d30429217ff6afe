"""A daemon to be harmed, and a registry for it that is slow or wrong when told."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.images import CONFIG, MANIFEST
from tests.support.killpoints import Order
from tests.support.mounts import share
from tests.support.oracle import Sample, no_process_is_left
from tests.support.process import Process, wait_until
from tests.support.registry import FaultRegistry

CHECKOUT = Path(__file__).parents[2]


@dataclass
class Victim(Daemon):
    """A daemon that obeys orders of `tests.support.killpoints`, and may believe that the machine
    was started anew."""

    boot_id: str = ""
    """What the daemon is to read as the boot ID; empty: the true one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._command = self.process.command

    @property
    def order(self) -> Path:
        """The file that orders are given in."""
        return self.directory / "order"

    def start(self) -> None:
        """Start and wait until it answers."""
        self.launch()
        wait_until(self._answers, "the daemon answers", self.process)

    def launch(self) -> None:
        """Start, come what may."""
        command = [sys.executable, "-m", "tests.support.killpoints", str(self.order), "--"]
        command += self._command[1:]
        if self.boot_id:
            fake = self.directory / "boot_id"
            fake.write_text(f"{self.boot_id}\n")
            script = f"""mount --make-rprivate /proc
                mount --bind {fake} /proc/sys/kernel/random/boot_id
                exec "$@" """
            unshare = ["unshare", "--mount", "--propagation=unchanged"]
            share(self.state)  # where the daemon mounts layers, for who mounts views of them
            command = [*unshare, "sh", "-ec", script, "-", *command]
        path = f"{CHECKOUT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        self.process = Process(command, self.directory / "daemon.log", env={"PYTHONPATH": path})
        self.process.start()

    def obey(self, order: Order) -> None:
        """Give an order."""
        order.give(self.order)

    def await_death(self, what: str) -> None:
        """Wait until it has died of an order; nothing of it lives on."""
        wait_until(lambda: not self.process.running, f"the daemon dies: {what}")
        no_process_is_left(self.process.pid)

    def kill(self) -> None:
        """Kill -9; nothing of it lives on."""
        super().kill()
        no_process_is_left(self.process.pid)


class Source:
    """A `FaultRegistry` in a thread of its own."""

    def __init__(self, registry: FaultRegistry) -> None:
        self.registry = registry
        self._places = itertools.count()

    def place(self) -> str:
        """A part of a repository's name that nobody else uses here."""
        return f"place{next(self._places)}"

    def add(self, sample: Sample, name: str) -> str:
        """Serve `sample` as `name` (repository and tag); returns the full reference."""
        repository, _, tag = name.partition(":")
        for each in sample.image.layers:
            self.registry.add_blob(each.blob, each.media_type)
        self.registry.add_blob(sample.image.config, CONFIG)
        self.registry.add_manifest(repository, tag, MANIFEST, sample.image.manifest)
        return f"{self.registry.authority}/{name}"


@contextmanager
def serving() -> Iterator[Source]:
    """Run a registry on loopback."""
    loop = asyncio.new_event_loop()
    registry = FaultRegistry()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(registry.__aenter__(), loop).result()
        yield Source(registry)
        closing = registry.__aexit__(None, None, None)
        asyncio.run_coroutine_threadsafe(closing, loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
