"""EROFS: one image for each layer, mounted once, merged by overlay."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from cri_imaged.erofs.format import Stat
from cri_imaged.erofs.writer import ImageWriter
from cri_imaged.full_disk import is_full
from cri_imaged.limits import Limits
from cri_imaged.mounting import unmount
from cri_imaged.ports import IMAGE, Applied, ImageTarget, Mount, Target, Usage
from cri_imaged.snapshots.backend import Sealed
from cri_imaged.snapshots.image_copy import merge_images
from cri_imaged.snapshots.image_seal import seal_image
from cri_imaged.snapshots.images import open_image
from cri_imaged.snapshots.layer_mounts import LayerMounts, mount_image
from cri_imaged.snapshots.listing import ListedEntry
from cri_imaged.snapshots.opened import OpenDirectory
from cri_imaged.snapshots.overlay import MAX_LAYERS, overlay_mount
from cri_imaged.snapshots.seal import DEFAULT_MODE
from cri_imaged.snapshots.tasks import Check
from cri_imaged.trash import remove_tree

_TREE = "fs"
_ROOT = Stat(stat.S_IFDIR | DEFAULT_MODE, 0, 0, 0)


class ErofsBackend:
    """A sealed snapshot's place is a file, its image; one that is written, or was sealed by an
    earlier version, has it as `IMAGE` in a directory. A writable view, or what a runtime has
    written into one and committed, is a directory, as overlay has it."""

    name = "erofs"
    one_file = True
    attaches = True

    def __init__(self, mounts: LayerMounts, limits: Limits) -> None:
        self._mounts = mounts
        self._limits = limits

    def prepare(self, place: Path) -> Target:
        """See `Backend.prepare`."""
        write_empty(place / IMAGE)
        return ImageTarget(place)

    def layer(self, place: Path) -> Path:
        """See `Backend.layer`."""
        if place.is_file():
            return place
        image = place / IMAGE
        return image if image.exists() else place / _TREE

    def seal(self, place: Path, parents: Sequence[Path], applied: Applied, check: Check) -> Sealed:
        """See `Backend.seal`."""
        image = place / IMAGE
        below = [self.layer(parent) for parent in parents]
        skipped = seal_image(image, below, applied, check, self._limits)
        if len(below) >= MAX_LAYERS:
            self._merge([image, *below], check)
        _flatten(place)
        return Sealed(Usage(os.stat(place).st_blocks * 512, 1), applied.skipped + skipped)

    def _merge(self, images: Sequence[Path], check: Check) -> None:
        """Let the topmost of `images` hold them all, where there are more than the kernel merges:
        the next layer finds one below it."""
        stack = _down_to_opaque(images)
        if len(stack) > MAX_LAYERS:
            merged = images[0].with_suffix(".merged")
            merge_images(stack, merged, check, self._limits)
            merged.rename(images[0])

    def prepare_view(self, view: Path, stack: Sequence[Path], check: Check) -> None:
        """See `Backend.prepare_view`."""
        upper = view / _TREE
        upper.mkdir(mode=DEFAULT_MODE)
        (view / "work").mkdir(mode=0o700)
        if not stack:
            return
        shown = self.layer(stack[0])
        with OpenDirectory.open(upper) as root:
            if shown.is_dir():
                with OpenDirectory.open(shown) as other:
                    root.copy_metadata(other)
                return
            with ExitStack() as files:
                held = open_image(shown, files)
                os.fchown(root.fd, held.stat.uid, held.stat.gid)
                for name, value in held.xattrs().items():
                    os.setxattr(root.fd, name, value)
                root.set_mode(stat.S_IMODE(held.stat.mode))
                os.utime(root.fd, ns=(held.stat.mtime, held.stat.mtime))

    def attach(self, stack: Sequence[Path]) -> None:
        """See `Backend.attach`."""
        layers = [(place, self.layer(place)) for place in stack]
        self._mounts.mount({place: layer for place, layer in layers if layer.name != _TREE})

    def keep(self, places: Sequence[Path]) -> None:
        """See `Backend.keep`."""
        self._mounts.keep(places)

    def mounts(self, view: Path | None, stack: Sequence[Path]) -> Sequence[Mount]:
        """See `Backend.mounts`."""
        upper = None if view is None else view / _TREE
        return overlay_mount(upper, self._visible(stack))

    def entries(self, place: Path) -> Iterator[ListedEntry]:
        """See `Backend.entries`. An image is all or nothing: one digest tells."""
        with self.layer(place).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = os.fstat(file.fileno()).st_size
        yield ListedEntry(IMAGE, "file", 0, 0, 0, size, 0, digest, 0, ())

    def _visible(self, stack: Sequence[Path]) -> Sequence[Path]:
        """Where the layers of `stack` are mounted, topmost first, down to one whose root is
        opaque."""
        shown: list[Path] = []
        for place in stack:
            layer = self.layer(place)
            if layer.name == _TREE:
                shown.append(layer)
                with OpenDirectory.open(layer) as root:
                    hides = root.is_opaque()
            else:
                shown.append(self._mounts.of(place))
                with ExitStack() as files:
                    hides = open_image(layer, files).is_opaque
            if hides:
                break
        return shown


def _flatten(place: Path) -> None:
    """Let `place` be the image that is in it. A crash in the midst of that leaves no row for it."""
    image = place.with_name(f"{place.name}.new")
    (place / IMAGE).rename(image)
    remove_tree(place)  # a writer that was taken over may have left more
    image.rename(place)


def _down_to_opaque(images: Sequence[Path]) -> Sequence[Path]:
    """`images`, topmost first, down to one whose root is opaque."""
    for number, image in enumerate(images, start=1):
        with ExitStack() as files:
            if open_image(image, files).is_opaque:
                return images[:number]
    return images


def erofs_obstacle(directory: Path, *, loops: bool) -> str | None:
    """Why images in `directory` cannot be mounted: None where a trial mount works."""
    try:
        with tempfile.TemporaryDirectory(dir=directory, prefix=".erofs-trial-") as trial:
            write_empty(Path(trial, IMAGE))
            Path(trial, "shown").mkdir()
            mount_image(Path(trial, IMAGE), Path(trial, "shown"), loops=loops)
            unmount(Path(trial, "shown"), lazy=True)
    except OSError as error:
        # For want of room it cannot be tried: a full disk must not keep the daemon from its images.
        return None if is_full(error) else f"trial mount in {directory}: {error}"
    return None


def write_empty(image: Path) -> None:
    """Make an image of an empty directory."""
    fd = os.open(image, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        writer = ImageWriter.begin(fd)
        writer.root(_ROOT, {}, {})
        writer.finish()
    finally:
        os.close(fd)
