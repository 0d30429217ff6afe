"""Native: every snapshot a full directory tree, on any file system, without privilege."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cri_imaged.limits import Limits
from cri_imaged.ports import Applied, Mount, Usage
from cri_imaged.snapshots.backend import DirectoryBackend, Sealed
from cri_imaged.snapshots.clone import Grown, Hidden, fill
from cri_imaged.snapshots.late import LateAttributes
from cri_imaged.snapshots.opened import OpenDirectory
from cri_imaged.snapshots.seal import Seal
from cri_imaged.snapshots.tasks import Check
from cri_imaged.trash import remove_tree


class NativeBackend(DirectoryBackend):
    """A snapshot shares the files of its parent as hardlinks. Nothing changes a committed
    snapshot, and a writable view is a copy."""

    name = "native"

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def seal(self, place: Path, parents: Sequence[Path], applied: Applied, check: Check) -> Sealed:
        """See `Backend.seal`."""
        layer, below = self.layer(place), [self.layer(parent) for parent in parents[:1]]
        grown = Grown(Usage(0, 0))
        with Seal.open(layer, below, applied, check, overlay=False, limits=self._limits) as seal:
            pass
        if below:
            hidden = Hidden(applied.whiteouts, tuple(applied.opaques))
            grown = fill(layer, below[0], hidden, check)
        late = LateAttributes().set_all(layer, applied.late, check)
        return Sealed(seal.usage + grown.usage, seal.skipped + grown.skipped + late)

    def prepare_view(self, view: Path, stack: Sequence[Path], check: Check) -> None:
        """See `Backend.prepare_view`."""
        if not stack:
            super().prepare(view)
            return
        tree, stage, below = self.layer(view), view / "stage", self.layer(stack[0])
        tree.mkdir(mode=0o700)
        stage.mkdir(mode=0o700)
        fill(tree, below, Hidden(), check, stage=stage)
        with OpenDirectory.open(tree) as root, OpenDirectory.open(below) as shown:
            root.copy_metadata(shown)
        remove_tree(stage)

    def mounts(self, view: Path | None, stack: Sequence[Path]) -> Sequence[Mount]:
        """See `Backend.mounts`."""
        if view is None:
            return (Mount("bind", str(self.layer(stack[0])), ("bind", "ro")),)
        return (Mount("bind", str(self.layer(view)), ("rbind", "rw")),)
