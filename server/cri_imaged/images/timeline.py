"""When what happened, for the report on a pull."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

_STAGES = 32
"""Kept of one timeline: work that is begun anew again and again ends somewhere."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What was done, or waited for."""

    name: str
    began: float
    """Seconds since the pull was asked for."""
    seconds: float


class Timeline:
    """One stage after another."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stages: list[tuple[str, float, float | None]] = []

    def enter(self, name: str) -> None:
        """What went on until now has ended, and this begins."""
        self.end()
        if len(self._stages) < _STAGES:
            self._stages.append((name, self._clock(), None))

    def end(self) -> None:
        """What went on until now has ended."""
        if self._stages and self._stages[-1][2] is None:
            name, began, _ = self._stages[-1]
            self._stages[-1] = (name, began, self._clock())

    def since(self, began: float) -> tuple[Stage, ...]:
        """The stages as a pull sees them that was asked for at `began` (of the same clock): what
        another pull had done by then is none of its time."""
        now = self._clock()
        found = []
        for name, start, end in self._stages:
            at = max(start, began)
            found.append(Stage(name, at - began, max((now if end is None else end) - at, 0.0)))
        return tuple(found)
