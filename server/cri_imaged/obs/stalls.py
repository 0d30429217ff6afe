"""Watches the event loop from a thread: what keeps it from its other work is logged with its stack.

A stall is the time of one callback: its work, and what it blocks on. Time that the process waits
for a core is not counted, as no code of ours is to blame for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
import traceback
from typing import Self

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram

log = structlog.get_logger()

STALL_SECONDS = 0.1
PERIOD_SECONDS = 0.1
_STACK_FRAMES = 20
_LAGS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class OwnTime:
    """A clock that stands still while a thread of this process is ready to run and has no core
    (proc(5), schedstat)."""

    def __init__(self, *threads: int) -> None:
        """`threads` by their native IDs."""
        self._fds = []
        with contextlib.suppress(OSError):  # a kernel that does not count it
            for thread in threads:
                path = f"/proc/self/task/{thread}/schedstat"
                self._fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def now(self) -> tuple[float, list[int]]:
        """A point in time, for `since`."""
        waited = []
        with contextlib.suppress(OSError):  # a thread ended
            waited = [int(os.pread(fd, 100, 0).split()[1]) for fd in self._fds]
        return time.monotonic(), waited

    def since(self, then: tuple[float, list[int]]) -> float:
        """Seconds since `then`, without what the thread that waited longest has waited. None below
        0: the two clocks are not read at once."""
        now, waited = self.now()
        waits = (after - before for before, after in zip(then[1], waited, strict=False))
        return max(0.0, now - then[0] - max(waits, default=0) / 1e9)

    def close(self) -> None:
        """Release the descriptors."""
        for fd in self._fds:
            os.close(fd)


class StallWatch:
    """Watches the running loop while it is entered."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._stalls = Counter(
            "cri_imaged_event_loop_stalls",
            f"Times that the event loop was kept busy for over {STALL_SECONDS} s.",
            registry=registry,
        )
        self._seconds = Counter(
            "cri_imaged_event_loop_stalled_seconds",
            "Seconds of these stalls.",
            registry=registry,
        )
        self._lag = Histogram(
            "cri_imaged_event_loop_lag_seconds",
            "How long a new callback waited for its turn, or for a core, several times a second.",
            buckets=_LAGS,
            registry=registry,
        )
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.current_thread()
        self._stop = threading.Event()
        self._answered = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stall-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._answered.set()
        self._thread.join()

    def _run(self) -> None:
        # The loop's thread, and for a measure of how long others of ours wait, this one: any may
        # hold the interpreter that the loop needs.
        own = OwnTime(self._loop_thread.native_id or 0, threading.get_native_id())
        with contextlib.closing(own):
            while not self._stop.wait(PERIOD_SECONDS):
                self._ask(own)

    def _ask(self, own: OwnTime) -> None:
        """Let the loop answer, and tell where that takes long."""
        self._answered.clear()
        asked = own.now()
        self._loop.call_soon_threadsafe(self._answer, asked[0])
        stack = ""
        while not self._answered.wait(STALL_SECONDS) and not self._stop.is_set():
            if not stack and own.since(asked) > STALL_SECONDS:
                stack = self._stack()
                log.warning("event loop is kept busy", stack=stack)
        if stack and not self._stop.is_set():
            seconds = own.since(asked)
            self._stalls.inc()
            self._seconds.inc(seconds)
            log.warning("event loop goes on", stalled_seconds=round(seconds, 3))

    def _answer(self, asked: float) -> None:
        """In the loop."""
        self._lag.observe(time.monotonic() - asked)
        self._answered.set()

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._loop_thread.ident or 0)
        return "".join(traceback.format_stack(frame)[-_STACK_FRAMES:]) if frame else ""
