"""Overlay: one directory for each layer, merged by the kernel."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from cri_imaged.errors import ConfigError, CorruptContentError
from cri_imaged.limits import Limits
from cri_imaged.ports import Applied, Mount, Usage
from cri_imaged.snapshots.backend import DirectoryBackend, Sealed
from cri_imaged.snapshots.clone import Grown
from cri_imaged.snapshots.late import LateAttributes
from cri_imaged.snapshots.merging import merge
from cri_imaged.snapshots.opened import OPAQUE, OpenDirectory
from cri_imaged.snapshots.paths import split
from cri_imaged.snapshots.seal import Seal
from cri_imaged.snapshots.tasks import Check

_INDEX = Path("/sys/module/overlay/parameters/index")
MAX_LAYERS = 500
"""The kernel's OVL_MAX_STACK."""


class OverlayBackend(DirectoryBackend):
    """Layers as overlayfs reads them (kernel, Documentation/filesystems/overlayfs.rst).

    A layer hides something below only where a directory of it is below, too: a whiteout would show
    in a directory that no other layer has. The kernel does not look for the
    opaque mark on a layer's root; there the stack that is mounted ends. So it does where there are
    more layers than it merges: the next one has all that is below in it.
    """

    name = "overlay"

    def __init__(self, root: Path, limits: Limits) -> None:
        """For snapshots under `root`, the daemon's root directory.

        Raises:
            ConfigError: overlay's options cannot hold the path of `root`.
        """
        if any(character in str(root) for character in ":,\\"):
            raise ConfigError(f"root {root}: overlay cannot use a path with one of : , \\")
        self._limits = limits

    def seal(self, place: Path, parents: Sequence[Path], applied: Applied, check: Check) -> Sealed:
        """See `Backend.seal`."""
        lower = [self.layer(parent) for parent in parents]
        return seal_overlay(self.layer(place), lower, applied, check, self._limits)

    def prepare_view(self, view: Path, stack: Sequence[Path], check: Check) -> None:
        """See `Backend.prepare_view`."""
        upper = self.layer(view)
        super().prepare(view)
        (view / "work").mkdir(mode=0o700)
        if not stack:
            return
        with OpenDirectory.open(upper) as root, OpenDirectory.open(self.layer(stack[0])) as shown:
            root.copy_metadata(shown)

    def mounts(self, view: Path | None, stack: Sequence[Path]) -> Sequence[Mount]:
        """See `Backend.mounts`."""
        lower = _visible([self.layer(place) for place in stack])
        return overlay_mount(None if view is None else self.layer(view), lower)


def seal_overlay(
    layer: Path, below: Sequence[Path], applied: Applied, check: Check, limits: Limits
) -> Sealed:
    """Make of `layer`, applied alone, one that lies over the directories `below`, topmost first.

    Raises:
        CorruptContentError, LimitExceededError: as `Seal`.
    """
    lower = _visible(below)
    with Seal.open(layer, lower, applied, check, overlay=True, limits=limits) as seal:
        for path in applied.opaques:
            seal.check()
            _hide_directory(seal, path)
        for path in applied.whiteouts:
            seal.check()
            _hide_name(seal, path)
    late = LateAttributes().set_all(layer, applied.late, check)
    grown = Grown(Usage(0, 0))
    if len(lower) >= MAX_LAYERS and len(_visible([layer, *below])) > 1:
        grown = merge(layer, lower, check)
    return Sealed(seal.usage + grown.usage, seal.skipped + grown.skipped + late)


def _visible(layers: Sequence[Path]) -> Sequence[Path]:
    """`layers`, topmost first, down to one whose root is opaque."""
    for number, layer in enumerate(layers, start=1):
        with OpenDirectory.open(layer) as root:
            if root.is_opaque():
                return layers[:number]
    return layers


def overlay_mount(upper: Path | None, lower: Sequence[Path]) -> Sequence[Mount]:
    """The mount that shows the directories `lower`, topmost first: writable by `upper`, which has
    a directory `work` beside it."""
    if upper is None and len(lower) == 1:
        return (Mount("bind", str(lower[0]), ("bind", "ro")),)
    if upper is not None and not lower:
        return (Mount("bind", str(upper), ("rbind", "rw")),)
    # Else the kernel refuses an upper directory that another mount of it, not gone yet, holds.
    options = ["index=off"] if _INDEX.exists() else []
    options.append(f"lowerdir={':'.join(map(str, lower))}")
    if upper is None:
        options.append("ro")
    else:
        options += [f"upperdir={upper}", f"workdir={upper.parent / 'work'}"]
    return (Mount("overlay", "overlay", tuple(options)),)


def _hide_directory(seal: Seal, path: bytes) -> None:
    if seal.directory_below(path) is not None:
        os.setxattr(seal.own(path).fd, OPAQUE, b"y")


def _hide_name(seal: Seal, path: bytes) -> None:
    parent, name = split(path)
    if parent in seal.opaques or seal.directory_below(parent) is None:
        return
    try:
        directory = seal.change(parent)
    except CorruptContentError:
        return  # this layer has a file above it, which hides it already
    try:
        os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=directory.fd)
    except OSError as error:
        # It is there, or so long a name that nothing can have it.
        if error.errno not in (errno.EEXIST, errno.ENAMETOOLONG):
            raise
        return
    seal.grew()
