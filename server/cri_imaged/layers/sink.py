"""The directory sink: puts entries of one layer, alone, into an empty directory."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from cri_imaged.errors import CorruptContentError, ImagedError
from cri_imaged.layers import paths
from cri_imaged.layers.entry import Entry, Kind, shown
from cri_imaged.layers.ledger import Ledger, Seal
from cri_imaged.layers.metadata import Metadata
from cri_imaged.layers.paths import Special
from cri_imaged.layers.sparse import SparseWriter, touched
from cri_imaged.layers.tree import BLOCK, WORKING, Directory, Tree
from cri_imaged.limits import Limits

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SPECIAL_BITS = 0o7000


class DirectorySink:
    """Takes entries in the archive's order: `add`, then the rest of a FILE's data by `write`."""

    def __init__(self, root_fd: int, limits: Limits, *, privileged: bool) -> None:
        self._ledger = Ledger(limits.seal_bytes)
        self._metadata = Metadata(privileged=privileged)
        self.tree = Tree(root_fd, self._ledger, self._metadata, limits)
        self.skipped = self._metadata.skipped
        self._unmade: set[bytes] = set()
        """Paths of devices that were skipped: links to them are, too."""
        self._entry: Entry | None = None
        self._fd = -1
        self._left = 0
        self._put: Callable[[int, memoryview], None] = _write

    def add(self, entry: Entry, data: memoryview) -> None:
        """Put an entry in place; whatever this layer had there gives way. `data` is what is there
        of a FILE's data so far.

        Raises:
            CorruptContentError: an entry that no layer may hold.
            LimitExceededError, OSError
        """
        try:
            self._add(entry, data)
        except ImagedError as error:
            raise type(error)(
                f"layer: entry {shown(entry.name)} at offset {entry.offset}: {error}"
            ) from None

    def write(self, data: memoryview) -> None:
        """More data of the FILE that was added last."""
        if self._fd >= 0:
            self._left -= len(data)
            self._put(self._fd, data)
            if not self._left:
                self._finish_file()

    def finish(self) -> Seal:
        """Settle what the layers below decide, and give directories their last attributes."""
        for directory in self._ledger.missing(self.tree.held):
            self.tree.parent(directory)
        seal = self._ledger.settle(self.tree.held)
        self.tree.close()
        return seal

    def _add(self, entry: Entry, data: memoryview) -> None:
        raw_parent, _, base = entry.name.rpartition(b"/")
        if not base or base in (b".", b".."):
            components = paths.parts(entry.name)
            if not components:
                self._root(entry)
                return
            base = components.pop()
            raw_parent = b"/".join(components)
        if b".wh." in raw_parent and self._in_special(entry, raw_parent):
            return
        parent = self.tree.parent(raw_parent)
        if base.startswith(paths.PREFIX):
            self._special(entry, parent, base)
        elif entry.kind is Kind.FILE:
            self._file(entry, data, parent, base)
        elif entry.kind is Kind.DIRECTORY:
            self._directory(entry, self.tree.make_directory(parent, base))
        elif entry.kind is Kind.HARDLINK:
            self._hardlink(entry, parent, base)
        else:
            self._node(entry, parent, base)

    def _file(self, entry: Entry, data: memoryview, parent: Directory, base: bytes) -> None:
        mode = 0o600 if entry.xattrs else entry.mode & 0o777
        if self._ledger.has_links:
            self._ledger.unlink(parent.path, base)
        try:
            fd = os.open(base, _CREATE, mode, dir_fd=parent.fd)
        except FileExistsError:
            self.tree.remove(parent, base)
            fd = os.open(base, _CREATE, mode, dir_fd=parent.fd)
        self._entry, self._fd = entry, fd
        self._left = entry.size - len(data)
        self._put = _write
        if entry.sparse is None:
            self.tree.took(entry.size)
        else:
            self.tree.took(BLOCK * touched(entry.sparse, BLOCK))
            self._put = SparseWriter(fd, entry.sparse, entry.length).write
        if data:
            self._put(fd, data)
        if not self._left:
            self._finish_file()

    def _finish_file(self) -> None:
        fd, entry = self._fd, self._entry
        assert entry is not None
        metadata = self._metadata
        if entry.uid != metadata.uid or entry.gid != metadata.gid:
            metadata.set_owner(fd, entry.uid, entry.gid)
        if entry.mode & _SPECIAL_BITS or entry.xattrs:
            if entry.xattrs:
                metadata.set_xattrs(fd, entry.xattrs)
            os.fchmod(fd, entry.mode)
        metadata.set_times(fd, entry.mtime)
        os.close(fd)
        self._fd = -1

    def _directory(self, entry: Entry, directory: Directory) -> None:
        self._ledger.listed(directory.path)
        self._metadata.set_owner(directory.fd, entry.uid, entry.gid)
        if entry.xattrs:
            self._metadata.set_xattrs(directory.fd, entry.xattrs)
            os.fchmod(directory.fd, WORKING)  # an access ACL is a mode, too
        directory.mode = entry.mode
        directory.mtime = entry.mtime

    def _root(self, entry: Entry) -> None:
        if entry.kind is not Kind.DIRECTORY:
            raise CorruptContentError(f"the root directory is listed as a {entry.kind.value}")
        self._directory(entry, self.tree.root)

    def _hardlink(self, entry: Entry, parent: Directory, base: bytes) -> None:
        source, source_base, path = self.tree.target(entry.link)
        name = paths.join(parent.path, base)
        if path == name:
            raise CorruptContentError("hardlink to itself")
        if path.startswith(name + b"/"):
            raise CorruptContentError("hardlink in the place of a directory above its target")
        if source is not None and self._linkable(source, source_base):
            source_fd = os.dup(source.fd)  # the tree may close it to open others
            try:
                parent = self._replaced(parent, base)
                os.link(
                    source_base,
                    base,
                    src_dir_fd=source_fd,
                    dst_dir_fd=parent.fd,
                    follow_symlinks=False,
                )
            finally:
                os.close(source_fd)
            return
        parent = self._replaced(parent, base)
        if path in self._unmade:
            self._skip_device(name)
            return
        directory, _, last = path.rpartition(b"/")
        self._ledger.link(parent.path, base, self._ledger.linked(directory, last) or path)

    def _linkable(self, source: Directory, base: bytes) -> bool:
        try:
            status = os.lstat(base, dir_fd=source.fd)
        except FileNotFoundError:
            return False
        if stat.S_ISDIR(status.st_mode):
            raise CorruptContentError("hardlink to a directory")
        return True

    def _replaced(self, parent: Directory, base: bytes) -> Directory:
        """Remove what is at `base`, the parent reopened if it was closed meanwhile."""
        found = parent if parent.fd >= 0 else self.tree.find(parent.path)
        if found is None:
            raise CorruptContentError(f"directory {shown(parent.path)} vanished")
        self.tree.remove(found, base)
        return found

    def _node(self, entry: Entry, parent: Directory, base: bytes) -> None:
        self.tree.remove(parent, base)
        try:
            self._make(entry, parent.fd, base)
        except PermissionError:
            if entry.kind in (Kind.SYMLINK, Kind.FIFO):
                raise
            self._skip_device(paths.join(parent.path, base))
            return
        self.tree.took(0)
        self._metadata.set_owner(parent.fd, entry.uid, entry.gid, base)
        if entry.mode & _SPECIAL_BITS and entry.kind is not Kind.SYMLINK:
            os.chmod(base, entry.mode, dir_fd=parent.fd)
        if entry.xattrs:  # only files and directories have those that images may set
            self.skipped.xattrs += len(entry.xattrs)
        self._metadata.set_times(parent.fd, entry.mtime, base)

    def _skip_device(self, path: bytes) -> None:
        self._unmade.add(path)
        self.skipped.devices += 1

    def _make(self, entry: Entry, parent_fd: int, base: bytes) -> None:
        match entry.kind:
            case Kind.SYMLINK:
                if not entry.link:
                    raise CorruptContentError("symlink without a target")
                os.symlink(entry.link, base, dir_fd=parent_fd)
            case Kind.FIFO:
                os.mkfifo(base, entry.mode & 0o777, dir_fd=parent_fd)
            case _:
                if entry.major == entry.minor == 0:  # overlayfs takes it for a whiteout
                    raise PermissionError
                kind = stat.S_IFCHR if entry.kind is Kind.CHARACTER_DEVICE else stat.S_IFBLK
                number = os.makedev(entry.major, entry.minor)
                os.mknod(base, kind | entry.mode & 0o777, number, dir_fd=parent_fd)

    def _special(self, entry: Entry, parent: Directory, base: bytes) -> None:
        match paths.special(base):
            case Special.WHITEOUT:
                self._ledger.whiteout(paths.join(parent.path, base[len(paths.PREFIX) :]))
            case Special.OPAQUE:
                self._ledger.opaque(parent.path)
            case Special.IGNORED:
                pass
            case Special.INVALID:
                raise CorruptContentError("a whiteout of nothing")

    def _in_special(self, entry: Entry, raw_parent: bytes) -> bool:
        """Whether the entry is in a directory of AUFS's own records, and so to be ignored."""
        match paths.special_parent(paths.parts(raw_parent)):
            case Special.INVALID:
                raise CorruptContentError("an entry inside a whiteout")
            case Special.IGNORED:
                return True
            case _:
                return False


def _write(fd: int, data: memoryview) -> None:
    written = os.write(fd, data)
    while written < len(data):
        data = data[written:]
        written = os.write(fd, data)
