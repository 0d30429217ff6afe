"""How much an interpreter has to do, whatever else the machine does meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Steps:
    """Lines of Python that this thread ran. What they leave to functions in C is not told."""

    count = 0

    def _trace(self, frame: FrameType, event: str, argument: object) -> Callable[..., object]:
        self.count += event == "line"
        return self._trace


@contextmanager
def counted() -> Iterator[Steps]:
    """Count them within the block. Coverage measures nothing of it."""
    steps, before = Steps(), sys.gettrace()
    sys.settrace(steps._trace)
    try:
        yield steps
    finally:
        sys.settrace(before)


def steps_of(function: Callable[..., object], *arguments: object) -> int:
    """How many a call takes."""
    with counted() as steps:
        function(*arguments)
    return steps.count
