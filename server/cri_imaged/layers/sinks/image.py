"""The image sink: writes the entries of one layer, alone, into an EROFS image as they come.

What a file system would refuse, or only root may set, is in an image like anything else; what it
would not take is left out here, so that a layer is the same in either.
"""

from __future__ import annotations

import errno
import os
import stat

from cri_imaged.erofs.allowed import CAPABILITY, allowed, encoded
from cri_imaged.erofs.chunks import chunk_bits
from cri_imaged.erofs.directories import value
from cri_imaged.erofs.format import BLOCK, TYPES, Stat, device_number
from cri_imaged.erofs.writer import ImageWriter, Xattrs
from cri_imaged.errors import CorruptContentError, LimitExceededError
from cri_imaged.layers.sinks.attributes import Metadata
from cri_imaged.layers.sinks.entries import EntrySink
from cri_imaged.layers.sinks.image_tree import ImageDirectory, ImageTree
from cri_imaged.layers.sinks.ledger import Ledger
from cri_imaged.layers.sinks.sink import Sealable
from cri_imaged.layers.tar import paths
from cri_imaged.layers.tar.entry import Entry, Kind
from cri_imaged.limits import Limits

_KINDS = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.CHARACTER_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
    Kind.FIFO: stat.S_IFIFO,
}
_SYMLINK_MODE = 0o777
_FILE = TYPES[stat.S_IFREG]
_MAJORS, _MINORS = range(1 << 12), range(1 << 20)


class ImageSink(EntrySink[ImageDirectory]):
    """A `LayerSink` that writes an image."""

    def __init__(self, fd: int, limits: Limits) -> None:
        """Into the empty file `fd`, open to read and write; `finish` closes it."""
        self._fd = fd
        self._writer = ImageWriter.begin(fd)
        ledger, metadata = Ledger(limits.seal_bytes), Metadata(privileged=True)
        self._tree = ImageTree(self._writer, ledger, limits)
        super().__init__(self._tree, ledger, metadata)
        self._place = self._tree.root, b""
        self._left = 0

    def write(self, data: memoryview) -> None:
        """See `LayerSink.write`."""
        if self._left:
            self._left -= len(data)
            self._writer.write(data)
            if not self._left:
                self._end_file()

    def finish(self) -> Sealable:
        """See `LayerSink.finish`."""
        sealable = super().finish()
        self._metadata.skipped.xattrs += self._writer.left_out
        os.close(self._fd)
        return sealable

    def _file(self, entry: Entry, data: memoryview, parent: ImageDirectory, base: bytes) -> None:
        self._tree.remove(parent, base)
        status, xattrs = self._described(entry, stat.S_IFREG | entry.mode)
        if entry.sparse is not None:
            self._check_sparse(entry)
            self._writer.begin_sparse(status, xattrs, entry.sparse, entry.length)
        else:
            self._tree.check_room(entry.size)
            if len(data) == entry.size:
                self._tree.put(parent, base, value(self._writer.file(status, xattrs, data), _FILE))
                return
            self._writer.begin_file(status, xattrs, entry.size)
        self._place = parent, base
        self._left = entry.size - len(data)
        if data:
            self._writer.write(data)
        if not self._left:
            self._end_file()

    def _check_sparse(self, entry: Entry) -> None:
        try:
            size = chunk_bits(entry.sparse or (), entry.length)[1] if entry.length else 0
        except ValueError as error:
            raise LimitExceededError(str(error)) from error
        self._tree.check_room(size)

    def _end_file(self) -> None:
        self._tree.put(*self._place, value(self._writer.end_file(), _FILE))

    def _directory(self, entry: Entry, parent: ImageDirectory, base: bytes) -> None:
        directory = self._tree.make_directory(parent, base)
        self._ledger.listed(directory.path)
        directory.stat = Stat(stat.S_IFDIR | entry.mode, entry.uid, entry.gid, entry.mtime)
        if entry.xattrs:
            directory.xattrs = {**(directory.xattrs or {}), **self._allowed(entry)}

    def _root_time(self, mtime: int) -> None:
        self._tree.root.stat = self._tree.root.stat._replace(mtime=mtime)

    def _link(
        self, entry: Entry, source: ImageDirectory, name: bytes, parent: ImageDirectory, base: bytes
    ) -> bool:
        packed = source.names.get(name)
        if packed is None:
            return False
        if not isinstance(packed, int):
            raise CorruptContentError("hardlink to a directory")
        linked = self._tree.link(self._replaced(parent, base), base, packed)
        old, kind = linked.stat, stat.S_IFMT(linked.stat.mode)
        given_away = (old.uid, old.gid) != (entry.uid, entry.gid)
        if given_away and kind == stat.S_IFREG:  # as chown(2) does
            self._tree.xattrs(linked).pop(CAPABILITY, None)
        if entry.xattrs:
            kept = allowed(entry.xattrs, old.mode)
            self._metadata.skipped.xattrs += len(entry.xattrs) - len(kept)
            self._tree.xattrs(linked).update(kept)
        mode = _SYMLINK_MODE if kind == stat.S_IFLNK else entry.mode
        linked.stat = Stat(kind | mode, entry.uid, entry.gid, entry.mtime)
        return True

    def _replaced(self, parent: ImageDirectory, base: bytes) -> ImageDirectory:
        self._tree.remove(parent, base)
        return parent

    def _node(self, entry: Entry, parent: ImageDirectory, base: bytes) -> None:
        self._tree.remove(parent, base)
        kind = _KINDS[entry.kind]
        if entry.kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE):
            # Overlayfs takes 0/0 for a whiteout.
            known = entry.major in _MAJORS and entry.minor in _MINORS
            if not known or entry.major == entry.minor == 0:
                self._skip_device(paths.join(parent.path, base))
                return
        mode = _SYMLINK_MODE if entry.kind is Kind.SYMLINK else entry.mode
        status, xattrs = self._described(entry, kind | mode)
        if entry.kind is Kind.SYMLINK:
            if not entry.link:
                raise CorruptContentError("symlink without a target")
            if len(entry.link) >= BLOCK:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            nid = self._writer.symlink(status, xattrs, entry.link)
        elif entry.kind is Kind.FIFO:
            nid = self._writer.node(status, xattrs)
        else:
            nid = self._writer.node(status, xattrs, device_number(entry.major, entry.minor))
        self._tree.put(parent, base, value(nid, TYPES[kind]))

    def _described(self, entry: Entry, mode: int) -> tuple[Stat, Xattrs]:
        xattrs = encoded(self._allowed(entry), mode) if entry.xattrs else {}
        return Stat(mode, entry.uid, entry.gid, entry.mtime), xattrs

    def _allowed(self, entry: Entry) -> dict[bytes, bytes]:
        xattrs = entry.xattrs or {}
        kept = allowed(xattrs, _KINDS[entry.kind])
        self._metadata.skipped.xattrs += len(xattrs) - len(kept)
        return kept
