"""How it stands with what is preloaded, for those who watch a node."""

from __future__ import annotations

import enum
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

DEFECT = "a defect of cri-imaged, which is in the daemon's log"
"""The problem where something went wrong that never should."""


class State(enum.Enum):
    """Of one archive, or of one image of the list."""

    WAITING = "waiting"
    """For its turn; an archive, until it is whole."""
    WORKING = "working"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Preload:
    """One archive, or one image of the list."""

    name: str
    """The file's, within its folder; or the reference."""
    state: State
    images: tuple[str, ...] = ()
    """What is here of it, by name; by ID where an image has none."""
    problem: str = ""
    """What went wrong last, and what to do; an image may be here all the same."""
    since: float = field(default_factory=time.time)
    """Unix seconds."""


class Shown:
    """All of one kind, by name."""

    def __init__(self) -> None:
        self._preloads: dict[str, Preload] = {}
        self.problem = ""
        """Why nothing of it can be brought in; empty where that is not so."""
        self.begun = False
        """Whether it is known what there is."""

    def __iter__(self) -> Iterator[Preload]:
        return iter(sorted(self._preloads.values(), key=lambda each: each.name))

    def show(
        self, name: str, state: State, images: tuple[str, ...] = (), problem: str = ""
    ) -> None:
        """How it stands with one now."""
        self._preloads[name] = Preload(name, state, images, problem)

    def drop(self, name: str) -> None:
        """It is none of ours any more."""
        self._preloads.pop(name, None)

    def state(self, name: str) -> State | None:
        """Of one; None where it is not known."""
        found = self._preloads.get(name)
        return found.state if found else None

    @property
    def unsettled(self) -> int:
        """How many have neither been brought in nor failed."""
        return sum(each.state in (State.WAITING, State.WORKING) for each in self)
