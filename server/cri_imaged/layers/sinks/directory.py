"""The directory sink: puts entries of one layer, alone, into an empty directory."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from cri_imaged.errors import CorruptContentError
from cri_imaged.layers.sinks import attributes
from cri_imaged.layers.sinks.attributes import Metadata
from cri_imaged.layers.sinks.entries import EntrySink
from cri_imaged.layers.sinks.ledger import Ledger
from cri_imaged.layers.sinks.tree import WORKING, OpenDirectory, Tree
from cri_imaged.layers.tar import paths
from cri_imaged.layers.tar.entry import Entry, Kind, shown
from cri_imaged.layers.tar.sparse import SparseWriter, touched
from cri_imaged.limits import Limits
from cri_imaged.ports import DISK_BLOCK, Device, Late

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SPECIAL_BITS = 0o7000


class _Rest:
    """A file whose data has not all come yet."""

    __slots__ = ("entry", "fd", "left", "place", "put")

    def __init__(
        self,
        entry: Entry,
        fd: int,
        place: tuple[bytes, bytes],
        left: int,
        put: Callable[[int, memoryview], None],
    ) -> None:
        self.entry = entry
        self.fd = fd
        self.place = place
        """The path of its directory, and its name there."""
        self.left = left
        self.put = put


class DirectorySink(EntrySink[OpenDirectory]):
    """A `LayerSink` that puts entries where they belong under a directory."""

    def __init__(self, root_fd: int, limits: Limits, *, privileged: bool) -> None:
        ledger, metadata = Ledger(limits.seal_bytes), Metadata(privileged=privileged)
        self._tree = Tree(root_fd, ledger, metadata, limits)
        super().__init__(self._tree, ledger, metadata)
        self._rest: _Rest | None = None

    def write(self, data: memoryview) -> None:
        """See `LayerSink.write`."""
        rest = self._rest
        if rest is not None:
            rest.left -= len(data)
            rest.put(rest.fd, data)
            if not rest.left:
                self._rest = None
                self._complete(rest.fd, rest.entry, *rest.place)

    def clear(self) -> None:
        """Empty the directory, before the first entry."""
        self._tree.clear()

    def _file(self, entry: Entry, data: memoryview, parent: OpenDirectory, base: bytes) -> None:
        mode = 0o600 if entry.xattrs else entry.mode & 0o777
        if self._ledger.has_notes:
            self._ledger.replaced(parent.path, base)
        try:
            fd = os.open(base, _CREATE, mode, dir_fd=parent.fd)
        except FileExistsError:
            self._tree.remove(parent, base)
            fd = os.open(base, _CREATE, mode, dir_fd=parent.fd)
        put = _write
        if entry.sparse is None:
            self._tree.space.take(entry.size)
        else:
            self._tree.space.take(DISK_BLOCK * touched(entry.sparse, DISK_BLOCK))
            put = SparseWriter(fd, entry.sparse, entry.length).write
        if data:
            put(fd, data)
        left = entry.size - len(data)
        if left:
            self._rest = _Rest(entry, fd, (parent.path, base), left, put)
        else:
            self._complete(fd, entry, parent.path, base)

    def _complete(self, fd: int, entry: Entry, parent: bytes, base: bytes) -> None:
        metadata = self._metadata
        if entry.uid != metadata.uid or entry.gid != metadata.gid:
            metadata.set_owner(fd, entry.uid, entry.gid)
        if entry.mode & _SPECIAL_BITS or entry.xattrs:
            if entry.xattrs:
                metadata.set_xattrs(fd, entry.xattrs)
                self._note_late(entry, parent, base)
            os.fchmod(fd, entry.mode)
        metadata.set_times(fd, entry.mtime)
        os.close(fd)

    def _directory(self, entry: Entry, parent: OpenDirectory, base: bytes) -> None:
        path = parent.path  # the tree may let it go
        directory = self._tree.make_directory(parent, base)
        self._ledger.listed(directory.path)
        self._metadata.set_owner(directory.fd, entry.uid, entry.gid)
        if entry.xattrs:
            self._metadata.set_xattrs(directory.fd, entry.xattrs)
            os.fchmod(directory.fd, WORKING)  # an access ACL is a mode, too
        directory.mode = entry.mode
        directory.mtime = entry.mtime
        self._note_late(entry, path, base)

    def _root_time(self, mtime: int) -> None:
        self._tree.root.mtime = mtime

    def _link(
        self, entry: Entry, source: OpenDirectory, name: bytes, parent: OpenDirectory, base: bytes
    ) -> bool:
        status = _linkable(source, name)
        if status is None:
            return False
        source_fd = os.dup(source.fd)  # the tree may close it to open others
        try:
            parent = self._replaced(parent, base)
            os.link(name, base, src_dir_fd=source_fd, dst_dir_fd=parent.fd, follow_symlinks=False)
        finally:
            os.close(source_fd)
        self._metadata.change_link(parent.fd, base, entry, status)
        self._note_late(entry, parent.path, base)
        return True

    def _note_late(self, entry: Entry, parent: bytes, base: bytes) -> None:
        if entry.xattrs and (xattrs := attributes.late(entry.xattrs)):
            late = Late(paths.join(parent, base), xattrs)
            if not self._ledger.late(late, parent, base):
                self._metadata.skipped.xattrs += len(xattrs)

    def _replaced(self, parent: OpenDirectory, base: bytes) -> OpenDirectory:
        """Remove what is at `base`, the parent reopened if it was closed meanwhile."""
        found = parent if parent.fd >= 0 else self._tree.find(parent.path)
        if found is None:
            raise CorruptContentError(f"directory {shown(parent.path)} vanished")
        self._tree.remove(found, base)
        return found

    def _node(self, entry: Entry, parent: OpenDirectory, base: bytes) -> None:
        self._tree.remove(parent, base)
        if entry.kind is Kind.SYMLINK:
            if not entry.link:
                raise CorruptContentError("symlink without a target")
            os.symlink(entry.link, base, dir_fd=parent.fd)
        elif entry.kind is Kind.FIFO:
            os.mkfifo(base, entry.mode & 0o777, dir_fd=parent.fd)
        else:
            self._device(entry, parent, base)
            return
        self._tree.space.take(0)
        self._metadata.set_owner(parent.fd, entry.uid, entry.gid, base)
        if entry.mode & _SPECIAL_BITS and entry.kind is not Kind.SYMLINK:
            os.chmod(base, entry.mode, dir_fd=parent.fd)
        if entry.xattrs:
            self._metadata.refuse_xattrs(entry.xattrs)
            self._note_late(entry, parent.path, base)
        self._metadata.set_times(parent.fd, entry.mtime, base)

    def _device(self, entry: Entry, parent: OpenDirectory, base: bytes) -> None:
        # Overlayfs takes 0/0 for a whiteout.
        if not self._metadata.privileged or entry.major == entry.minor == 0:
            self._skip_device(paths.join(parent.path, base))
            return
        kind = stat.S_IFCHR if entry.kind is Kind.CHARACTER_DEVICE else stat.S_IFBLK
        self._metadata.refuse_xattrs(entry.xattrs or {})
        device = Device(
            kind | entry.mode, entry.major, entry.minor, entry.uid, entry.gid, entry.mtime
        )
        self._ledger.link(parent.path, base, device)
        self._note_late(entry, parent.path, base)


def _linkable(source: OpenDirectory, base: bytes) -> os.stat_result | None:
    try:
        status = os.lstat(base, dir_fd=source.fd)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise CorruptContentError("hardlink to a directory")
    return status


def _write(fd: int, data: memoryview) -> None:
    written = os.write(fd, data)
    while written < len(data):
        data = data[written:]
        written = os.write(fd, data)
