"""Native: every snapshot a full directory tree, on any file system, without privilege."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from cri_imaged.limits import Limits
from cri_imaged.metadata.database import Database
from cri_imaged.ports import Applied, Mount, Usage
from cri_imaged.snapshots.base import DirectorySnapshotter
from cri_imaged.snapshots.clone import Hidden, fill
from cri_imaged.snapshots.directory import Directory
from cri_imaged.snapshots.seal import Seal
from cri_imaged.trash import Trash, remove_tree


class NativeSnapshotter(DirectorySnapshotter):
    """A snapshot shares the files of its parent as hardlinks. Nothing changes a committed
    snapshot, and a writable view is a copy."""

    name: ClassVar[str] = "native"

    def __init__(self, root: Path, database: Database, trash: Trash, limits: Limits) -> None:
        """See `DirectorySnapshotter`."""
        super().__init__(root, database, trash, limits)
        # An ordinary user widens the modes of a parent's directories to read them, for a moment.
        self._one_reader = threading.Lock()

    def _seal(
        self, layer: Path, parents: Sequence[Path], applied: Applied, check: Callable[[], None]
    ) -> Usage:
        below = parents[:1]
        grown = Usage(0, 0)
        with self._one_reader:
            with Seal.open(
                layer, below, applied, check, overlay=False, limits=self._limits
            ) as seal:
                pass
            if below:
                hidden = Hidden(applied.whiteouts, applied.opaques)
                grown = fill(layer, below[0], hidden, check)
        return Usage(
            applied.usage.bytes + seal.bytes + grown.bytes,
            applied.usage.inodes + seal.inodes + grown.inodes,
        )

    def _build_view(self, view: Path, layers: Sequence[Path], check: Callable[[], None]) -> None:
        tree, stage = view / "fs", view / "stage"
        tree.mkdir(mode=0o700)
        stage.mkdir(mode=0o700)
        with self._one_reader:
            fill(tree, layers[0], Hidden(), check, stage=stage)
            with Directory.open(tree) as root, Directory.open(layers[0]) as shown:
                root.copy_metadata(shown)
        remove_tree(stage)

    def _mounts(self, view: Path | None, layers: Sequence[Path]) -> Sequence[Mount]:
        if view is None:
            return (Mount("bind", str(layers[0]), ("bind", "ro")),)
        return (Mount("bind", str(view / "fs"), ("rbind", "rw")),)
