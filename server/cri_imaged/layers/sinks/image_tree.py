"""The names of a layer whose files go into an image: in memory until all are known."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from cri_imaged.erofs.allowed import encoded
from cri_imaged.erofs.directories import nid_of, value
from cri_imaged.erofs.format import DIRECTORY, TYPES, Inode, Stat
from cri_imaged.erofs.reader import Found, Image
from cri_imaged.erofs.writer import ImageWriter
from cri_imaged.errors import LimitExceededError
from cri_imaged.layers.sinks.ledger import Ledger
from cri_imaged.layers.sinks.walking import Walker
from cri_imaged.layers.tar import paths
from cri_imaged.limits import Limits
from cri_imaged.ports import Usage

_RESOLVED = 512
_NAME_BYTES = 255
_IMPLICIT = Stat(stat.S_IFDIR | 0o755, 0, 0, 0)


class ImageDirectory:
    """A directory of the layer."""

    __slots__ = ("names", "path", "stat", "xattrs")

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.stat = _IMPLICIT
        self.xattrs: dict[bytes, bytes] | None = None
        self.names: dict[bytes, int | ImageDirectory] = {}
        """Directories, and of all else the value that a directory in the image has."""


class Linked:
    """A file that has, or had, several names."""

    __slots__ = ("found", "links", "stat", "xattrs")

    def __init__(self, found: Found) -> None:
        self.found = found
        self.links = 1
        self.stat = found.inode.stat
        self.xattrs: dict[bytes, bytes] | None = None
        """None: as they were."""


class ImageTree(Walker[ImageDirectory]):
    """Finds, makes and removes names; writes the directories at the end."""

    def __init__(self, writer: ImageWriter, ledger: Ledger, limits: Limits) -> None:
        super().__init__(ledger, limits)
        self.root = ImageDirectory(b"")
        self._writer = writer
        self._image = Image(writer.blocks.get)
        self._linked: dict[int, Linked] = {}
        """By the inodes' numbers."""
        self._resolved: dict[bytes, ImageDirectory] = {}

    # --- the tree ----------------------------------------------------------------------------

    def parent(self, raw: bytes) -> ImageDirectory:
        """See `Walker.parent`."""
        found = self._resolved.get(raw)
        if found is None:
            found = self._walk(paths.parts(raw), make=True)[0]
            if len(self._resolved) >= _RESOLVED:
                self._resolved.clear()
            self._resolved[raw] = found
        return found

    def make_directory(self, parent: ImageDirectory, name: bytes) -> ImageDirectory:
        """See `Walker.make_directory`."""
        existing = parent.names.get(name)
        if isinstance(existing, ImageDirectory):
            return existing
        self.remove(parent, name)
        _check_name(name)
        made = parent.names[name] = ImageDirectory(paths.join(parent.path, name))
        return made

    def remove(self, parent: ImageDirectory, name: bytes) -> None:
        """See `Walker.remove`."""
        if self._ledger.has_notes:
            self._ledger.replaced(parent.path, name)
        gone = parent.names.pop(name, None)
        if gone is None:
            return
        self._resolved.clear()
        pending = [gone]
        while pending:
            gone = pending.pop()
            if isinstance(gone, ImageDirectory):
                self._ledger.removed(gone.path)
                pending.extend(gone.names.values())
            elif linked := self._linked.get(nid_of(gone)):
                linked.links -= 1

    def put(self, parent: ImageDirectory, name: bytes, packed: int) -> None:
        """Let `name` be what was just written."""
        _check_name(name)
        parent.names[name] = packed
        self.check_room()

    def link(self, parent: ImageDirectory, name: bytes, packed: int) -> Linked:
        """Let `name` be one more name of what has that value."""
        nid = nid_of(packed)
        linked = self._linked.get(nid)
        if linked is None:
            linked = self._linked[nid] = Linked(self._image.inode(nid))
        linked.links += 1
        _check_name(name)
        parent.names[name] = packed
        return linked

    def xattrs(self, linked: Linked) -> dict[bytes, bytes]:
        """Those it has, to be changed."""
        if linked.xattrs is None:
            linked.xattrs = self._image.xattrs(linked.found)
        return linked.xattrs

    def usage(self) -> Usage:
        """See `Walker.usage`."""
        return Usage(self._writer.blocks.end, 1)

    def check_room(self, size: int = 0) -> None:
        """Raises `LimitExceededError` where the image has no room for so many bytes more."""
        if self._writer.blocks.end + size > self._limits.layer_bytes:
            raise LimitExceededError(
                f"the layer takes more than {self._limits.layer_bytes} bytes on disk (layer_bytes)"
            )

    def _nearest(self, components: list[bytes]) -> tuple[ImageDirectory, list[bytes]]:
        return self.root, components

    def _child(self, parent: ImageDirectory, name: bytes) -> ImageDirectory | None:
        found = parent.names.get(name)
        return found if isinstance(found, ImageDirectory) else None

    def _has(self, parent: ImageDirectory, name: bytes) -> bool:
        return name in parent.names

    def _read_link(self, parent: ImageDirectory, name: bytes) -> bytes | None:
        packed = parent.names.get(name)
        if not isinstance(packed, int):
            return None
        found = self._image.inode(nid_of(packed))
        return self._image.link(found) if stat.S_ISLNK(found.inode.stat.mode) else None

    # --- its end -----------------------------------------------------------------------------

    def close(self) -> None:
        """Write the directories, and complete the image."""
        self._writer.blocks.flush()
        moved = {nid: self._settle(linked) for nid, linked in self._linked.items()}
        directories = list(self._directories())
        written: dict[int, tuple[int, int]] = {}
        for directory in reversed(directories):
            names: dict[bytes, int] = {}
            parents = []
            for name, each in directory.names.items():
                if isinstance(each, ImageDirectory):
                    nid, parent_at = written.pop(id(each))
                    parents.append(parent_at)
                    names[name] = value(nid, DIRECTORY)
                else:
                    names[name] = moved.get(nid_of(each), each) if moved else each
            directory.names.clear()
            xattrs = encoded(directory.xattrs, directory.stat.mode)
            make = self._writer.root if directory is self.root else self._writer.directory
            made = make(directory.stat, xattrs, names)
            for address in parents:
                self._writer.set_parent(address, made.nid)
            written[id(directory)] = made.nid, made.parent_at
        self._writer.blocks.fill_block()
        self.check_room()
        self._writer.finish()

    def _directories(self) -> Iterator[ImageDirectory]:
        """All, parents before their children."""
        pending = [self.root]
        while pending:
            directory = pending.pop()
            yield directory
            pending += [
                each for each in directory.names.values() if isinstance(each, ImageDirectory)
            ]

    def _settle(self, linked: Linked) -> int:
        """Let the inode say what its names' entries did. The value that they have now."""
        old = linked.found.inode
        inode = Inode(linked.stat, old.size, max(linked.links, 1), old.layout, old.place)
        xattrs = None
        if linked.xattrs is not None:
            xattrs = encoded(linked.xattrs, linked.stat.mode)
        nid = self._writer.rewrite(self._image, linked.found, inode, xattrs)
        return value(nid, TYPES[stat.S_IFMT(inode.stat.mode)])


def _check_name(name: bytes) -> None:
    if len(name) > _NAME_BYTES:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
