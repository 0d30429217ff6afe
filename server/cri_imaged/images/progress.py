"""What running pulls have done so far, for those who watch."""

from __future__ import annotations

import enum
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cri_imaged.oci.digest import Digest


class Phase(enum.Enum):
    """Where a pull or a layer is."""

    WAITING = "waiting"
    RESOLVING = "resolving"
    FETCHING = "fetching"
    UNPACKING = "unpacking"
    DONE = "done"
    FAILED = "failed"


@dataclass(slots=True)
class LayerProgress:
    """One layer of a running pull."""

    digest: Digest
    size: int
    fetched: Callable[[], int]
    """Compressed bytes that are here, whoever fetched them."""
    unpacked: Callable[[], bool]

    @property
    def phase(self) -> Phase:
        """Derived from the figures."""
        if self.unpacked():
            return Phase.DONE
        if self.fetched() >= self.size:
            return Phase.UNPACKING
        return Phase.FETCHING if self.fetched() else Phase.WAITING


@dataclass(slots=True)
class PullProgress:
    """One running pull."""

    id: str
    reference: str
    handler: str
    started: float = field(default_factory=time.time)
    """Unix seconds."""
    phase: Phase = Phase.WAITING
    layers: list[LayerProgress] = field(default_factory=list)

    @property
    def stage(self) -> Phase:
        """The phase, told apart by what has arrived while layers come in."""
        if self.phase is Phase.FETCHING and self.layers and self.fetched >= self.total:
            return Phase.UNPACKING
        return self.phase

    @property
    def total(self) -> int:
        """Compressed bytes of all layers."""
        return sum(layer.size for layer in self.layers)

    @property
    def fetched(self) -> int:
        """Compressed bytes of all layers that are here."""
        return sum(layer.fetched() for layer in self.layers)


class RunningPulls:
    """The pulls under way."""

    def __init__(self) -> None:
        self._pulls: dict[str, PullProgress] = {}
        self._numbers = itertools.count(1)
        self.closing = False
        """Whether the daemon stops: there is nothing to watch once these have ended."""

    @contextmanager
    def track(self, reference: str, handler: str) -> Iterator[PullProgress]:
        """Show a pull while the context lasts."""
        progress = PullProgress(str(next(self._numbers)), reference, handler)
        self._pulls[progress.id] = progress
        try:
            yield progress
        finally:
            del self._pulls[progress.id]

    def list(self) -> list[PullProgress]:
        """The pulls under way, oldest first."""
        return list(self._pulls.values())
