"""How it stands with what is preloaded, for those who watch a node."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

DEFECT = "a defect of cri-imaged, which is in the daemon's log"
"""The problem where something went wrong that never should."""


class State(enum.Enum):
    """Of one archive, or of one image of the list."""

    WAITING = "waiting"
    """For its turn; an archive, until it is whole."""
    WORKING = "working"
    READY = "ready"
    FAILED = "failed"
    REMOVED = "removed"
    """Somebody has removed what was brought in."""


@dataclass(frozen=True, slots=True)
class Preload:
    """One archive, or one image of the list."""

    name: str
    """The file's, within its folder; or the reference."""
    handler: str
    """The runtime handler that an image of the list is for; empty for the default one, and for
    archives, which are brought in for all."""
    state: State
    images: tuple[str, ...] = ()
    """What is here of it, by name; by ID where an image has none."""
    problem: str = ""
    """What went wrong last, and what to do; an image may be here all the same."""
    since: float = field(default_factory=time.time)
    """Unix seconds."""


class Shown:
    """All of one kind, by name."""

    def __init__(self, is_here: Callable[[str, str], bool] = lambda image, handler: True) -> None:
        """`is_here` tells whether what was brought in of an image for a handler is there still."""
        self._is_here = is_here
        self._preloads: dict[tuple[str, str], Preload] = {}
        self.problem = ""
        """Why nothing of it can be brought in; empty where that is not so."""
        self.begun = False
        """Whether it is known what there is."""

    def __iter__(self) -> Iterator[Preload]:
        return iter(self._now(each) for _, each in sorted(self._preloads.items()))

    def show(
        self,
        name: str,
        state: State,
        images: tuple[str, ...] = (),
        problem: str = "",
        *,
        handler: str = "",
    ) -> None:
        """How it stands with one now."""
        self._preloads[name, handler] = Preload(name, handler, state, images, problem)

    def drop(self, name: str, handler: str = "") -> None:
        """It is none of ours any more."""
        self._preloads.pop((name, handler), None)

    def state(self, name: str, handler: str = "") -> State | None:
        """As one was shown last; None where it is not known."""
        found = self._preloads.get((name, handler))
        return found.state if found else None

    def _now(self, preload: Preload) -> Preload:
        here = tuple(each for each in preload.images if self._is_here(each, preload.handler))
        if here == preload.images:
            return preload
        return replace(preload, state=State.REMOVED, images=here)

    @property
    def unsettled(self) -> int:
        """How many have neither been brought in nor failed."""
        return sum(each.state in (State.WAITING, State.WORKING) for each in self)
