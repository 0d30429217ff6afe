"""An honest pull and a client of ImageFsInfo beside something hostile, measured."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import grpc

from cri_imaged.rpc.runtime.v1 import api_pb2, api_pb2_grpc
from tests.support.daemon import Daemon
from tests.support.memory import processes

PULL_SECONDS = 60.0
_PERIOD = 0.05
_MEMORY_PERIOD = 0.2
CHECKOUT = Path(__file__).parents[2]


class HostileRegistry:
    """A process that serves one case of `hostile.HOSTILE`."""

    def __init__(self, name: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.neighbours.hostile", name],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.pulls: list[str] = json.loads(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def until_asked(self) -> None:
        """Wait until the daemon has begun."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "asked\n"


@contextlib.contextmanager
def pulling(daemon: Daemon, references: list[str]) -> Iterator[list[grpc.Future]]:
    """Pull all of `references` meanwhile; what still runs at the end is cancelled."""
    with daemon.channel() as channel:
        stub = api_pb2_grpc.ImageServiceStub(channel)
        calls = [
            stub.PullImage.future(
                api_pb2.PullImageRequest(image=api_pb2.ImageSpec(image=reference)), timeout=600
            )
            for reference in references
        ]
        try:
            yield calls
        finally:
            for call in calls:
                call.cancel()


@dataclass
class Watch:
    """Asks for ImageFsInfo all the time, and looks at the memory of the daemon's processes."""

    daemon: Daemon
    slowest: float = 0.0
    """Seconds of the slowest answer."""
    memory: int = 0
    """Bytes (Pss) of all processes together, at most."""
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=work) for work in (self._ask, self._weigh)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with self.daemon.channel() as channel:
            stub = api_pb2_grpc.ImageServiceStub(channel)
            while not self._ended.wait(_PERIOD):
                began = time.monotonic()
                with contextlib.suppress(grpc.RpcError):
                    stub.ImageFsInfo(api_pb2.ImageFsInfoRequest(), timeout=10)
                self.slowest = max(self.slowest, time.monotonic() - began)

    def _weigh(self) -> None:
        while not self._ended.wait(_MEMORY_PERIOD):
            self.memory = max(self.memory, sum(map(_pss, processes(self.daemon.process.pid))))


def _pss(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0
