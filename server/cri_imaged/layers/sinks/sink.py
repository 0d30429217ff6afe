"""What every sink is: where the entries of one layer go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from cri_imaged.layers.tar.entry import Entry
from cri_imaged.ports import Device, Late, Skipped, Usage


class Sealable(NamedTuple):
    """What a layer leaves to be done at its seal; the fields' meanings are those of `Applied`."""

    whiteouts: Sequence[bytes] = ()
    opaques: Sequence[bytes] = ()
    implicit: Sequence[bytes] = ()
    links: Sequence[tuple[bytes, bytes]] = ()
    devices: Sequence[Device] = ()
    late: Sequence[Late] = ()


class LayerSink(Protocol):
    """Takes one layer's entries in the archive's order: each by `add`, the rest of a FILE's data by
    `write`; then `finish`.

    Any of these may raise:
        CorruptContentError: an entry that no layer may hold, named with its offset.
        LimitExceededError, OSError
    """

    def add(self, entry: Entry, data: memoryview) -> None:
        """Put an entry in place. `data` is what is there of a FILE's data so far."""
        ...

    def write(self, data: memoryview) -> None:
        """More data of the FILE that was added last."""
        ...

    def held(self) -> Usage:
        """What the layer takes so far."""
        ...

    def skipped(self) -> Skipped:
        """What could not be kept so far."""
        ...

    def finish(self) -> Sealable:
        """Complete the layer: all it lists is in place."""
        ...
