"""Look into a stack of images as their merged tree, without mounting them."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from cri_imaged.erofs.format import Stat
from cri_imaged.erofs.reader import Found, Image
from cri_imaged.oci.layer_path import components
from cri_imaged.snapshots import opened
from cri_imaged.snapshots.merged import Merged

_WHITEOUT = stat.S_IFCHR
OPAQUE = opened.OPAQUE.encode()
_OVERLAYS = tuple(map(str.encode, opened.OVERLAY_XATTRS))


class Held(NamedTuple):
    """Something that an image holds."""

    image: Image
    found: Found

    @property
    def stat(self) -> Stat:
        """What it says of itself."""
        return self.found.inode.stat

    @property
    def is_opaque(self) -> bool:
        """Whether it is a directory that hides those below it in an overlay."""
        return self.image.xattrs(self.found).get(OPAQUE) == b"y"

    def xattrs(self) -> dict[bytes, bytes]:
        """Its extended attributes, but for overlay's own."""
        every = self.image.xattrs(self.found)
        return {name: each for name, each in every.items() if not name.startswith(_OVERLAYS)}

    def link(self) -> bytes | None:
        """Its target, where it is a symbolic link."""
        return self.image.link(self.found) if stat.S_ISLNK(self.stat.mode) else None


class ImageStack(Merged[Held]):
    """Images, topmost first, down to one whose root is opaque."""

    def __init__(self, images: Sequence[Path], limit: int) -> None:
        """At most `limit` directories are entered in all. Raises `OSError` where one is gone."""
        super().__init__(limit)
        self._files = ExitStack()
        self._all: list[Held] = []
        try:
            for path in images:
                root = open_image(path, self._files)
                self._all.append(root)
                if root.is_opaque:
                    break
        except BaseException:
            self._files.close()
            raise

    def __enter__(self) -> ImageStack:
        return self

    def close(self) -> None:
        """Close the images."""
        super().close()
        self._files.close()

    def find(self, path: bytes) -> Held | None:
        """What is visible at `path`, not the root, which is reached through directories only."""
        *parents, name = components(path)
        for directory in self._enter(tuple(parents)):
            held = _entry(directory, name)
            if held is not None:
                return None if is_whiteout(held.found) else held
        return None

    def _roots(self) -> list[Held]:
        return list(self._all)

    def _child(self, directory: Held, name: bytes) -> Held | None:
        held = _entry(directory, name)
        if held is not None and not held.found.is_directory:
            raise NotADirectoryError
        return held

    def _is_opaque(self, directory: Held) -> bool:
        return directory.is_opaque

    def _let_go(self, directories: Sequence[Held]) -> None:
        """There is nothing to let go."""


def open_image(path: Path, files: ExitStack) -> Held:
    """The root of the image at `path`, which is open as long as `files`."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    files.callback(os.close, fd)
    image = Image.of(fd)
    return Held(image, image.inode())


def is_whiteout(found: Found) -> bool:
    """Whether an overlay takes this for "nothing is here": character device 0/0."""
    return stat.S_IFMT(found.inode.stat.mode) == _WHITEOUT and found.inode.place == 0


def _entry(directory: Held, name: bytes) -> Held | None:
    dirent = directory.image.lookup(directory.found, name)
    if dirent is None:
        return None
    return Held(directory.image, directory.image.inode(dirent.entry.nid))
