"""Make one overlay layer of many, where there are more than the kernel merges."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from cri_imaged.ports import Usage
from cri_imaged.snapshots.clone import Filling, Grown, Hidden
from cri_imaged.snapshots.opened import OPAQUE, WRITE, OpenDirectory
from cri_imaged.snapshots.stack import is_whiteout
from cri_imaged.snapshots.tasks import Check


def merge(top: Path, below: Sequence[Path], check: Check) -> Grown:
    """Add to the sealed overlay layer `top` what shows through it of the layers `below` (topmost
    first), whose files become further names of the same inodes, and hide these layers.

    Returns:
        What `top` grew by.
    """
    grown = Grown(Usage(0, 0))
    for layer in below:
        with contextlib.closing(_Merging(top, layer, Hidden(), check)) as merging:
            more = merging.run()
        grown = Grown(grown.usage + more.usage, grown.skipped + more.skipped)
    with contextlib.closing(_Clearing(top, top, Hidden(), check)) as clearing:
        clearing.run()
    with OpenDirectory.open(top, need=WRITE) as root:
        _end(root)
    return grown


class _Merging(Filling):
    """Adds one layer. What it hides of those below is marked as this layer marks it: a whiteout is
    a name like others, and where a directory ends it is opaque."""

    def _skips(self) -> bool:
        return self._own.is_opaque()

    def _leave(self) -> None:
        if self._below.is_opaque():
            _end(self._own)
        super()._leave()

    def _place(self, name: str) -> None:
        try:
            with OpenDirectory.open(name, self._own.fd, WRITE) as directory:
                _end(directory)  # a file, or a whiteout, ends a directory above it
        except (FileNotFoundError, NotADirectoryError):
            super()._place(name)


class _Clearing(Filling):
    """Removes the whiteouts of a tree, which is target and source: with nothing below they would
    show."""

    def _place(self, name: str) -> None:
        if is_whiteout(os.stat(name, dir_fd=self._own.fd, follow_symlinks=False)):
            os.unlink(name, dir_fd=self._own.fd)


def _end(directory: OpenDirectory) -> None:
    os.setxattr(directory.fd, OPAQUE, b"y")
