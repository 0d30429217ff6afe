"""A child process with its output in a file, and waiting for things to become true."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tests.support import leaks

Value = TypeVar("Value")

DEADLINE = 60.0
"""Seconds after which waiting is given up: for a hang, not for a slow machine."""


def open_files(pid: int | None = None) -> dict[str, str]:
    """A process's descriptors, this one's without a `pid`, and what each is of. It may open and
    close others meanwhile."""
    folder = f"/proc/{pid or 'self'}/fd"
    found = {}
    for number in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):  # closed since; here, the list's own
            found[number] = os.readlink(f"{folder}/{number}")
    return found


class Process:
    """One program, started and ended by the tests."""

    def __init__(
        self, command: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None
    ) -> None:
        self.command = list(command)
        self.log_path = log
        self._env = {**os.environ, **(env or {})}
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._child is not None, f"{self.command[0]} is not started"
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        assert not self.running, f"{self.command[0]} runs already"
        with self.log_path.open("ab") as log:
            self._child = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._env
            )
        leaks.watch(self.log_path)

    def send(self, number: signal.Signals) -> None:
        assert self._child is not None, f"{self.command[0]} is not started"
        self._child.send_signal(number)

    def stop(self, *, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait; returns the exit code. Kills what does not stop, and fails."""
        if self._child is None:
            return 0
        if self._child.poll() is None:
            self._child.send_signal(number)
        try:
            return self._child.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
            raise AssertionError(f"{self.command} did not stop: {self.log()[-2000:]}") from None
        finally:
            leaks.watch(self.log_path)  # before its directory goes

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""


def wait_until(
    probe: Callable[[], Value | None],
    what: str,
    process: Process | None = None,
    seconds: float = DEADLINE,
) -> Value:
    """Call `probe` until it returns something true, and return that. Fails with `what` after
    `seconds`, or as soon as `process` has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := probe():
            return value
        if process is not None and not process.running:
            raise AssertionError(f"ended before {what}: {process.command}\n{process.log()}")
        time.sleep(0.02)
    log = f"\n{process.log()[-4000:]}" if process is not None else ""
    raise AssertionError(f"not within {seconds:.0f} s: {what}{log}")
