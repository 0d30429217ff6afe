"""The directory a layer is applied into, reached by directory descriptors only.

No path is ever given to the kernel: each component is opened from its parent's descriptor without
following links, and symlinks are resolved here, inside the root. A directory keeps working
permissions while it is open and takes its own mode and mtime when it is let go, so that these
hold whatever is still written into it; nothing is remembered for directories that are closed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from cri_imaged.errors import CorruptContentError, LimitExceededError
from cri_imaged.layers import paths
from cri_imaged.layers.entry import shown
from cri_imaged.layers.ledger import Held, Ledger
from cri_imaged.layers.metadata import Metadata
from cri_imaged.limits import Limits

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
WORKING = 0o700
_OPEN_DIRECTORIES = 128
BLOCK = 4096
IMPLICIT_MODE = 0o755


class Directory:
    """An open directory of the layer."""

    __slots__ = ("fd", "mode", "mtime", "path")

    def __init__(self, fd: int, path: bytes, mode: int, mtime: int) -> None:
        self.fd = fd
        """-1 once closed."""
        self.path = path
        """Canonical."""
        self.mode = mode
        """To be given when it is let go; until then it is `WORKING`."""
        self.mtime = mtime
        """Nanoseconds; likewise."""


class Tree:
    """Finds, makes and removes what is in the root; keeps count of what it takes on disk."""

    def __init__(self, root_fd: int, ledger: Ledger, metadata: Metadata, limits: Limits) -> None:
        """`root_fd` stays the caller's. The root becomes 0755 and of time 0 unless listed."""
        self._ledger = ledger
        self._metadata = metadata
        self._limits = limits
        self.bytes = 0
        self.inodes = 0
        os.fchmod(root_fd, WORKING)
        self.root = Directory(os.dup(root_fd), b"", IMPLICIT_MODE, 0)
        self._open: dict[bytes, Directory] = {}
        self._resolved: dict[bytes, Directory] = {}
        self.took(BLOCK)

    def took(self, size: int) -> None:
        """Count a new inode and its bytes.

        Raises:
            LimitExceededError: more than a layer may hold.
        """
        self.inodes += 1
        self.bytes += -(-size // BLOCK) * BLOCK
        if self.bytes > self._limits.layer_bytes:
            raise LimitExceededError(
                f"the layer takes more than {self._limits.layer_bytes} bytes on disk (layer_bytes)"
            )

    def parent(self, raw: bytes) -> Directory:
        """The directory that an archive's path names, symlinks followed inside the root, and
        made where it is missing. Valid until the next call of any method.

        Raises:
            CorruptContentError: a symlink that cannot be followed.
            LimitExceededError: too many symlinks or steps.
        """
        found = self._resolved.get(raw)
        if found is None or found.fd < 0:
            found = self._walk(paths.parts(raw), make=True)[0]
            if len(self._resolved) >= 4 * _OPEN_DIRECTORIES:
                self._resolved.clear()
            self._resolved[raw] = found
        return found

    def target(self, raw: bytes) -> tuple[Directory | None, bytes, bytes]:
        """Where a hardlink's target is: its directory (None where this layer has none), its last
        component, and its canonical path. Makes nothing; raises as `parent` does."""
        components = paths.parts(raw)
        if not components:
            raise CorruptContentError("hardlink to the root directory")
        base = components.pop()
        directory, rest = self._walk(components, make=False)
        if rest:
            return None, base, paths.join(directory.path, b"/".join([*rest, base]))
        return directory, base, paths.join(directory.path, base)

    def make_directory(self, parent: Directory, name: bytes) -> Directory:
        """The directory `name`, made unless it is there; whatever else was there is removed."""
        path = paths.join(parent.path, name)
        found = self._open.pop(path, None)
        if found is not None:
            self._open[path] = found
            return found
        if self._ledger.linked(parent.path, name) is not None:
            self._ledger.unlink(parent.path, name)
        try:
            os.mkdir(name, WORKING, dir_fd=parent.fd)
        except FileExistsError:
            existing = self._enter(parent, name, path)
            if existing is not None:
                return existing
            self.remove(parent, name)
            os.mkdir(name, WORKING, dir_fd=parent.fd)
        self.took(BLOCK)
        fd = os.open(name, _OPEN, dir_fd=parent.fd)
        return self._keep(Directory(fd, path, IMPLICIT_MODE, 0))

    def remove(self, parent: Directory, name: bytes) -> None:
        """Remove `name` and all that is in it. It may be missing."""
        self._ledger.unlink(parent.path, name)
        try:
            status = os.lstat(name, dir_fd=parent.fd)
        except FileNotFoundError:
            return
        self._resolved.clear()
        if not stat.S_ISDIR(status.st_mode):
            self._gone(status)
            os.unlink(name, dir_fd=parent.fd)
            return
        self._remove_directory(parent.fd, name, paths.join(parent.path, name))

    def _remove_directory(self, parent_fd: int, name: bytes, path: bytes) -> None:
        fd = self._open_for_removal(parent_fd, name, path)
        ways = [(name, self._remove_files(fd))]
        try:
            while ways:
                name, below = ways[-1]
                if below:
                    inner = below.pop()
                    path = paths.join(path, inner)
                    fd = _replace(fd, self._open_for_removal(fd, inner, path))
                    ways.append((inner, self._remove_files(fd)))
                else:
                    ways.pop()
                    path = path.rpartition(b"/")[0]
                    fd = _replace(fd, os.open(b"..", _OPEN, dir_fd=fd))
                    os.rmdir(name, dir_fd=fd)
                    self._gone_directory()
        finally:
            os.close(fd)

    def held(self, path: bytes) -> Held | None:
        """What the layer holds at a canonical path, no symlinks followed."""
        if not path:
            return Held.DIRECTORY
        directory, _, base = path.rpartition(b"/")
        parent = self.find(directory)
        if parent is None:
            return None
        try:
            status = os.lstat(base, dir_fd=parent.fd)
        except FileNotFoundError:
            return None
        return Held.DIRECTORY if stat.S_ISDIR(status.st_mode) else Held.OTHER

    def find(self, path: bytes) -> Directory | None:
        """The directory at a canonical path, if it is one."""
        directory, rest = self._nearest(path.split(b"/") if path else [])
        for name in rest:
            child = self._child(directory, name)
            if child is None:
                return None
            directory = child
        return directory

    def clear(self) -> None:
        """Empty the root, whatever the permissions in it, and take back what was set on it."""
        for name in os.listdir(self.root.fd):
            self.remove(self.root, os.fsencode(name))
        for attribute in os.listxattr(self.root.fd):
            with contextlib.suppress(OSError):
                os.removexattr(self.root.fd, attribute)
        with contextlib.suppress(PermissionError):
            os.fchown(self.root.fd, os.geteuid(), os.getegid())
        self.bytes, self.inodes = 0, 0
        self.took(BLOCK)

    def close(self) -> None:
        """Let every directory go, the root last."""
        for directory in list(self._open.values()):
            self._let_go(directory)
        self._let_go(self.root)

    def _walk(self, components: list[bytes], *, make: bool) -> tuple[Directory, list[bytes]]:
        """Follow `components`: the directory reached, and what is missing behind it."""
        directory, rest = self._nearest(components)
        pending = rest[::-1]
        missing: list[bytes] = []
        links = steps = 0
        while pending:
            steps += 1
            if steps > self._limits.path_bytes or len(directory.path) > self._limits.path_bytes:
                raise LimitExceededError(
                    f"a path of more than {self._limits.path_bytes} steps or bytes, those through "
                    "symlinks counted (path_bytes)"
                )
            name = pending.pop()
            if missing:
                if name == b"..":
                    missing.pop()
                else:
                    missing.append(name)
                continue
            if name == b"..":
                up = self.find(directory.path.rpartition(b"/")[0])
                if up is None:
                    raise CorruptContentError("a directory vanished while its path was resolved")
                directory = up
                continue
            child = self._child(directory, name)
            if child is not None:
                directory = child
                continue
            link = _read_link(directory, name)
            if link is None:
                if make:
                    directory = self._make_implicit(directory, name)
                else:
                    missing.append(name)
                continue
            links += 1
            if links > self._limits.symlinks_followed:
                raise LimitExceededError(
                    f"more than {self._limits.symlinks_followed} symlinks to follow "
                    f"(symlinks_followed), the last at {shown(paths.join(directory.path, name))}"
                )
            if link.startswith(b"/"):
                directory = self.root
            pending += [part for part in link.split(b"/")[::-1] if part not in (b"", b".")]
        return directory, missing

    def _make_implicit(self, parent: Directory, name: bytes) -> Directory:
        if name.startswith(paths.PREFIX):
            raise CorruptContentError("a directory named like a whiteout")
        self._ledger.implicit(paths.join(parent.path, name))
        return self.make_directory(parent, name)

    def _nearest(self, components: list[bytes]) -> tuple[Directory, list[bytes]]:
        """The longest open directory on the way, and the components behind it."""
        path = b"/".join(components)
        for count in range(len(components), 0, -1):
            found = self._open.pop(path, None)
            if found is not None:
                self._open[path] = found
                return found, components[count:]
            path = path.rpartition(b"/")[0]
        return self.root, components

    def _child(self, parent: Directory, name: bytes) -> Directory | None:
        path = paths.join(parent.path, name)
        found = self._open.pop(path, None)
        if found is not None:
            self._open[path] = found
            return found
        return self._enter(parent, name, path)

    def _enter(self, parent: Directory, name: bytes, path: bytes) -> Directory | None:
        """Open an existing directory, or None where `name` is none."""
        try:
            fd = os.open(name, _OPEN, dir_fd=parent.fd)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError:
            status = os.lstat(name, dir_fd=parent.fd)
            if not stat.S_ISDIR(status.st_mode):
                return None
            os.chmod(name, WORKING, dir_fd=parent.fd)
            fd = os.open(name, _OPEN, dir_fd=parent.fd)
        else:
            status = os.fstat(fd)
            os.fchmod(fd, WORKING)
        mode = stat.S_IMODE(status.st_mode)
        return self._keep(Directory(fd, path, mode, status.st_mtime_ns))

    def _keep(self, directory: Directory) -> Directory:
        self._open[directory.path] = directory
        if len(self._open) > _OPEN_DIRECTORIES:
            self._let_go(self._open[next(iter(self._open))])
        return directory

    def _let_go(self, directory: Directory) -> None:
        self._open.pop(directory.path, None)
        if directory.mode != WORKING:
            os.fchmod(directory.fd, directory.mode)
        self._metadata.set_times(directory.fd, directory.mtime)
        os.close(directory.fd)
        directory.fd = -1

    def _forget(self, path: bytes) -> None:
        """A directory that is being removed."""
        self._ledger.removed(path)
        directory = self._open.pop(path, None)
        if directory is not None:
            os.close(directory.fd)
            directory.fd = -1

    def _open_for_removal(self, parent_fd: int, name: bytes, path: bytes) -> int:
        self._forget(path)
        try:
            fd = os.open(name, _OPEN, dir_fd=parent_fd)
        except PermissionError:
            os.chmod(name, WORKING, dir_fd=parent_fd)
            return os.open(name, _OPEN, dir_fd=parent_fd)
        os.fchmod(fd, WORKING)
        return fd

    def _remove_files(self, fd: int) -> list[bytes]:
        """Remove all but directories from `fd`; the names of the directories."""
        directories = []
        with os.scandir(fd) as listing:
            for found in listing:
                name = os.fsencode(found.name)
                if found.is_dir(follow_symlinks=False):
                    directories.append(name)
                else:
                    self._gone(found.stat(follow_symlinks=False))
                    os.unlink(name, dir_fd=fd)
        return directories

    def _gone(self, status: os.stat_result) -> None:
        if status.st_nlink == 1:
            self.inodes -= 1
            size = status.st_size if stat.S_ISREG(status.st_mode) else 0
            held = min(size, 512 * status.st_blocks)  # less than its size, if sparse
            self.bytes -= -(-held // BLOCK) * BLOCK

    def _gone_directory(self) -> None:
        self.inodes -= 1
        self.bytes -= BLOCK


def _replace(old_fd: int, new_fd: int) -> int:
    os.close(old_fd)
    return new_fd


def _read_link(parent: Directory, name: bytes) -> bytes | None:
    """The target of a symlink; None for anything else."""
    try:
        return os.readlink(name, dir_fd=parent.fd)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return None
        raise
