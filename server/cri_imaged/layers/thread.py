"""Threads for processes that were forked: each fork pays for what `threading` sets right in it."""

from __future__ import annotations

import _thread
from collections.abc import Callable


class Thread:
    """A thread that runs one function. No exit of the process waits for it."""

    def __init__(self, run: Callable[[], None]) -> None:
        self._run = run
        self._running = _thread.allocate_lock()

    def start(self, *, stack_bytes: int = 0) -> None:
        """Begin, once; `stack_bytes`: 0 for the system's own size."""
        self._running.acquire()
        before = _thread.stack_size(stack_bytes)
        try:
            _thread.start_new_thread(self._main, ())
        finally:
            _thread.stack_size(before)

    def join(self) -> None:
        """Wait until it has ended."""
        with self._running:
            pass

    def _main(self) -> None:
        try:
            self._run()
        finally:
            self._running.release()
