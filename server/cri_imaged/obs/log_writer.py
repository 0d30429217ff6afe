"""Writes the log without ever waiting for who reads it.

Where nobody reads (journald hangs, a pager is open at its first page), lines are held up to a
limit, then dropped and counted, and the log says how many as soon as somebody reads again.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections import deque
from typing import Self

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily

from cri_imaged.limits import LOG_HELD_BYTES

_LAST_WORDS = 1.0
"""Seconds that the end of the daemon waits for a reader."""


class LogWriter:
    """A stream whose writes return at once; a thread passes them on to the descriptor `fd`, which
    stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lines: deque[bytes] = deque()
        self._held = 0
        self._untold = 0
        self._changed = threading.Condition()
        self._closing = False
        self.dropped = 0
        """Lines that nobody will ever read."""
        # Its last write may never end; it must not keep the process.
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Wait a moment for the last lines to be read."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(_LAST_WORDS)

    def write(self, text: str) -> int:
        """Take a line, or count it as dropped."""
        line = text.encode(errors="backslashreplace")
        with self._changed:
            if self._held + len(line) > LOG_HELD_BYTES:
                self.dropped += 1
                self._untold += 1
            else:
                self._lines.append(line)
                self._held += len(line)
                self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """Nothing: what was written is passed on in its time."""

    def isatty(self) -> bool:
        """Whether people read it."""
        return os.isatty(self._fd)

    def register(self, registry: CollectorRegistry) -> None:
        """Count dropped lines in `registry`."""
        registry.register(_Dropped(self))

    def _run(self) -> None:
        while chunk := self._next():
            with contextlib.suppress(OSError):  # closed at the other end: there is no one to tell
                view = memoryview(chunk)
                while view:
                    view = view[os.write(self._fd, view) :]
            with self._changed:
                self._held -= len(chunk)

    def _next(self) -> bytes:
        """What to write next; empty at the end."""
        with self._changed:
            while not self._lines and not self._closing:
                self._changed.wait()
            if self._untold:
                told = _told(self._untold)
                self._untold = 0
                self._held += len(told)
                return told
            return self._lines.popleft() if self._lines else b""


class _Dropped:
    """Dropped lines as a metric."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer

    def collect(self) -> list[CounterMetricFamily]:
        """See prometheus_client's `Collector`."""
        return [
            CounterMetricFamily(
                "cri_imaged_log_lines_dropped",
                "Lines of the log that were dropped because nobody read it.",
                value=self._writer.dropped,
            )
        ]


def _told(count: int) -> bytes:
    line = {
        "event": "log lines were dropped: nobody read them",
        "lines": count,
        "level": "warning",
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return json.dumps(line).encode() + b"\n"
