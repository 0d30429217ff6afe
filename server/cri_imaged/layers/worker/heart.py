"""Signs of life of a process that others wait for."""

from __future__ import annotations

import _thread
import contextlib
from collections.abc import Callable
from types import TracebackType

from cri_imaged.layers.thread import Thread

BEAT_SECONDS = 1.0
STOPPED_SECONDS = 10.0
"""Whoever gives no sign for so long does not run: it was stopped, or frozen."""
STUCK_SECONDS = 60.0
"""Whoever makes nothing of bytes that are all there for so long makes nothing of them ever."""
_STACK_BYTES = 256 << 10


class Heart:
    """Beats every second while its context lasts: from a thread, as the process may be held up by
    a disk or a network for longer."""

    def __init__(self, beat: Callable[[], object]) -> None:
        """`beat` writes at most PIPE_BUF bytes to a pipe, so that no other message gets between."""
        self._beat = beat
        self._beating = _thread.allocate_lock()
        self._thread = Thread(self._run)

    def __enter__(self) -> None:
        self._beating.acquire()
        self._thread.start(stack_bytes=_STACK_BYTES)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._beating.release()
        self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            while not self._beating.acquire(timeout=BEAT_SECONDS):
                self._beat()
