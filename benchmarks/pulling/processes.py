"""What a process and all that it started take."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_LOOK_SECONDS = 0.02


class Family:
    """A process and its descendants."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def cpu_seconds(self) -> float:
        """User and system time so far, of those that ended and were waited for too."""
        ticks = 0
        for pid in self._pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))
        return ticks / _TICKS

    def memory(self) -> int:
        """Bytes: the sum of their proportional shares (Pss)."""
        total = 0
        for pid in self._pids():
            with contextlib.suppress(OSError, StopIteration):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                total += 1024 * next(int(li.split()[1]) for li in lines if li.startswith("Pss:"))
        return total

    @contextmanager
    def peak_of_memory(self) -> Iterator[list[int]]:
        """A list of what `memory` was, often, while the context lasts."""
        seen = [self.memory()]
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(_LOOK_SECONDS):
                seen.append(self.memory())

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield seen
        finally:
            ended.set()
            thread.join()

    def _pids(self) -> list[int]:
        pids = [self._pid]
        for pid in pids:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    pids += map(int, children.read_text().split())
        return pids
