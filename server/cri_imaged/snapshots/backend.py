"""What a kind of snapshots has to do; the rest is the same for all kinds.

Every snapshot, and every writable view, begins with an empty directory of its own, its *place*.
What is in it, or becomes of it, is the backend's alone. All of it blocks, and runs in threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from cri_imaged.ports import Applied, DirectoryTarget, Mount, Skipped, Target, Usage
from cri_imaged.snapshots.listing import ListedEntry, list_tree
from cri_imaged.snapshots.seal import DEFAULT_MODE
from cri_imaged.snapshots.tasks import Check


class Sealed(NamedTuple):
    """What a layer has become on top of its parents."""

    usage: Usage
    skipped: Skipped
    """What could not be put on disk, when it was applied or now."""


class Backend(Protocol):
    """One kind of snapshots."""

    @property
    def name(self) -> str:
        """As the configuration names it."""
        ...

    @property
    def one_file(self) -> bool:
        """Whether a layer is a file of bytes that are the same wherever it was made."""
        ...

    @property
    def attaches(self) -> bool:
        """Whether there is something to do in `attach`, and so for `keep`."""
        ...

    def attach(self, stack: Sequence[Path]) -> None:
        """Make what `mounts` of the places `stack` speak of be there. Doing it again is nothing.

        Raises:
            LimitExceededError: too much is attached.
        """
        ...

    def keep(self, places: Sequence[Path]) -> None:
        """Let go of what `attach` did for any but these."""
        ...

    def prepare(self, place: Path) -> Target:
        """Make in `place`, which is empty, what a layer is applied into. As it is, unsealed, it is
        the snapshot of an image without layers."""
        ...

    def layer(self, place: Path) -> Path:
        """Where in `place` the layer is. Where nothing is there, the snapshot is lost."""
        ...

    def seal(self, place: Path, parents: Sequence[Path], applied: Applied, check: Check) -> Sealed:
        """Make of the layer in `place`, applied alone, the snapshot on top of `parents` (places,
        topmost first)."""
        ...

    def prepare_view(self, view: Path, stack: Sequence[Path], check: Check) -> None:
        """Fill the place `view` for a writable view of `stack` (places, topmost first)."""
        ...

    def mounts(self, view: Path | None, stack: Sequence[Path]) -> Sequence[Mount]:
        """Mounts that show `stack` (places, topmost first): writable where there is a `view`."""
        ...

    def entries(self, place: Path) -> Iterator[ListedEntry]:
        """What the layer holds, in an order that is always the same. Raises `OSError`."""
        ...


class DirectoryBackend:
    """What the backends share whose layers are directories: `fs` in their places."""

    one_file = False
    attaches = False

    def attach(self, stack: Sequence[Path]) -> None:
        """See `Backend.attach`."""

    def keep(self, places: Sequence[Path]) -> None:
        """See `Backend.keep`."""

    def prepare(self, place: Path) -> Target:
        """See `Backend.prepare`."""
        layer = self.layer(place)
        layer.mkdir()
        layer.chmod(DEFAULT_MODE)
        return DirectoryTarget(layer)

    def layer(self, place: Path) -> Path:
        """See `Backend.layer`."""
        return place / "fs"

    def entries(self, place: Path) -> Iterator[ListedEntry]:
        """See `Backend.entries`."""
        return list_tree(self.layer(place))
