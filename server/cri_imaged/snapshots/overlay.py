"""Overlay: one directory for each layer, merged by the kernel."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from cri_imaged.errors import ConfigError, CorruptContentError, UnsupportedContentError
from cri_imaged.limits import Limits
from cri_imaged.metadata.database import Database
from cri_imaged.ports import Applied, Mount, Usage
from cri_imaged.snapshots.base import DirectorySnapshotter
from cri_imaged.snapshots.directory import OPAQUE, Directory
from cri_imaged.snapshots.paths import split
from cri_imaged.snapshots.seal import Seal
from cri_imaged.trash import Trash

MAX_LAYERS = 500
"""The kernel's OVL_MAX_STACK."""


class OverlaySnapshotter(DirectorySnapshotter):
    """Layers as overlayfs reads them (kernel, Documentation/filesystems/overlayfs.rst).

    A layer hides something below only where there is something below: a whiteout that hides
    nothing would show in a directory that no other layer has. The kernel does not look for the
    opaque mark on a layer's root; there the stack that is mounted ends.
    """

    name: ClassVar[str] = "overlay"

    def __init__(self, root: Path, database: Database, trash: Trash, limits: Limits) -> None:
        """See `DirectorySnapshotter`.

        Raises:
            ConfigError: overlay's options cannot hold the path of `root`.
        """
        if any(character in str(root) for character in ":,\\"):
            raise ConfigError(f"root {root}: overlay cannot use a path with one of : , \\")
        super().__init__(root, database, trash, limits)

    def _seal(
        self, layer: Path, parents: Sequence[Path], applied: Applied, check: Callable[[], None]
    ) -> Usage:
        lower = _visible(parents)
        if len(lower) >= MAX_LAYERS:
            raise UnsupportedContentError(
                f"the image has more than {MAX_LAYERS} layers, overlay cannot mount them"
            )
        with Seal.open(layer, lower, applied, check, overlay=True, limits=self._limits) as seal:
            for path in applied.opaques:
                check()
                _hide_directory(seal, path)
            for path in applied.whiteouts:
                check()
                _hide_name(seal, path)
        return Usage(applied.usage.bytes + seal.bytes, applied.usage.inodes + seal.inodes)

    def _build_view(self, view: Path, layers: Sequence[Path], check: Callable[[], None]) -> None:
        upper = view / "fs"
        upper.mkdir()
        (view / "work").mkdir(mode=0o700)
        with Directory.open(upper) as root, Directory.open(layers[0]) as shown:
            root.copy_metadata(shown)

    def _mounts(self, view: Path | None, layers: Sequence[Path]) -> Sequence[Mount]:
        lower = _visible(layers)
        if view is None and len(lower) == 1:
            return (Mount("bind", str(lower[0]), ("bind", "ro")),)
        options = [f"lowerdir={':'.join(map(str, lower))}"]
        if view is None:
            options.append("ro")
        else:
            options += [f"upperdir={view / 'fs'}", f"workdir={view / 'work'}"]
        return (Mount("overlay", "overlay", tuple(options)),)


def _visible(layers: Sequence[Path]) -> Sequence[Path]:
    """Layers, topmost first, down to one whose root is opaque."""
    for number, layer in enumerate(layers, start=1):
        with Directory.open(layer) as root:
            if root.is_opaque():
                return layers[:number]
    return layers


def _hide_directory(seal: Seal, path: bytes) -> None:
    if seal.directory_below(path) is not None:
        os.setxattr(seal.own(path).fd, OPAQUE, b"y")


def _hide_name(seal: Seal, path: bytes) -> None:
    if seal.below(path) is None:
        return
    parent, name = split(path)
    try:
        directory = seal.change(parent)
    except CorruptContentError:
        return  # this layer has a file above it, which hides it already
    try:
        os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=directory.fd)
    except FileExistsError:
        return
    seal.inodes += 1
