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

from cri_imaged.layers.sinks.attributes import Metadata
from cri_imaged.layers.sinks.ledger import Ledger
from cri_imaged.layers.sinks.space import Space
from cri_imaged.layers.sinks.walking import Walker
from cri_imaged.layers.tar import paths
from cri_imaged.limits import Limits
from cri_imaged.ports import Usage

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
WORKING = 0o700
_OPEN_DIRECTORIES = 128
IMPLICIT_MODE = 0o755


class OpenDirectory:
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


class Tree(Walker[OpenDirectory]):
    """Finds, makes and removes what is in the root."""

    def __init__(self, root_fd: int, ledger: Ledger, metadata: Metadata, limits: Limits) -> None:
        """`root_fd` stays the caller's. The root becomes 0755 and of time 0 unless listed."""
        super().__init__(ledger, limits)
        self.space = Space(limits.layer_bytes)
        self._metadata = metadata
        os.fchmod(root_fd, WORKING)
        self.root = OpenDirectory(os.dup(root_fd), b"", IMPLICIT_MODE, 0)
        self._open: dict[bytes, OpenDirectory] = {}
        self._resolved: dict[bytes, OpenDirectory] = {}
        self.space.take_directory()

    def parent(self, raw: bytes) -> OpenDirectory:
        """See `Walker.parent`."""
        found = self._resolved.get(raw)
        if found is None or found.fd < 0:
            found = self._walk(paths.parts(raw), make=True)[0]
            if len(self._resolved) >= 4 * _OPEN_DIRECTORIES:
                self._resolved.clear()
            self._resolved[raw] = found
        return found

    def make_directory(self, parent: OpenDirectory, name: bytes) -> OpenDirectory:
        """See `Walker.make_directory`."""
        path = paths.join(parent.path, name)
        found = self._open.pop(path, None)
        if found is not None:
            self._open[path] = found
            return found
        if self._ledger.linked(parent.path, name) is not None:
            self._ledger.replaced(parent.path, name)
        try:
            os.mkdir(name, WORKING, dir_fd=parent.fd)
        except FileExistsError:
            existing = self._enter(parent, name, path)
            if existing is not None:
                return existing
            self.remove(parent, name)
            os.mkdir(name, WORKING, dir_fd=parent.fd)
        self.space.take_directory()
        fd = os.open(name, _OPEN, dir_fd=parent.fd)
        return self._keep(OpenDirectory(fd, path, IMPLICIT_MODE, 0))

    def remove(self, parent: OpenDirectory, name: bytes) -> None:
        """See `Walker.remove`."""
        self._ledger.replaced(parent.path, name)
        try:
            status = os.lstat(name, dir_fd=parent.fd)
        except FileNotFoundError:
            return
        self._resolved.clear()
        if not stat.S_ISDIR(status.st_mode):
            self.space.give_back(status)
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
                    self.space.give_back_directory()
        finally:
            os.close(fd)

    def clear(self) -> None:
        """Empty the root, whatever the permissions in it, and take back what was set on it."""
        for name in os.listdir(self.root.fd):
            self.remove(self.root, os.fsencode(name))
        for attribute in os.listxattr(self.root.fd):
            with contextlib.suppress(OSError):
                os.removexattr(self.root.fd, attribute)
        with contextlib.suppress(PermissionError):
            os.fchown(self.root.fd, os.geteuid(), os.getegid())
        self.space.clear()
        self.space.take_directory()

    def usage(self) -> Usage:
        """See `Walker.usage`."""
        return self.space.usage

    def close(self) -> None:
        """Let every directory go, the root last."""
        for directory in list(self._open.values()):
            self._let_go(directory)
        self._let_go(self.root)

    def _nearest(self, components: list[bytes]) -> tuple[OpenDirectory, list[bytes]]:
        """The longest open directory on the way, and the components behind it."""
        path = b"/".join(components)
        for count in range(len(components), 0, -1):
            found = self._open.pop(path, None)
            if found is not None:
                self._open[path] = found
                return found, components[count:]
            path = path.rpartition(b"/")[0]
        return self.root, components

    def _child(self, parent: OpenDirectory, name: bytes) -> OpenDirectory | None:
        path = paths.join(parent.path, name)
        found = self._open.pop(path, None)
        if found is not None:
            self._open[path] = found
            return found
        return self._enter(parent, name, path)

    def _has(self, parent: OpenDirectory, name: bytes) -> bool:
        try:
            os.lstat(name, dir_fd=parent.fd)
        except FileNotFoundError:
            return False
        return True

    def _read_link(self, parent: OpenDirectory, name: bytes) -> bytes | None:
        try:
            return os.readlink(name, dir_fd=parent.fd)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return None
            raise

    def _enter(self, parent: OpenDirectory, name: bytes, path: bytes) -> OpenDirectory | None:
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
        return self._keep(OpenDirectory(fd, path, mode, status.st_mtime_ns))

    def _keep(self, directory: OpenDirectory) -> OpenDirectory:
        self._open[directory.path] = directory
        if len(self._open) > _OPEN_DIRECTORIES:
            self._let_go(self._open[next(iter(self._open))])
        return directory

    def _let_go(self, directory: OpenDirectory) -> None:
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
                    self.space.give_back(found.stat(follow_symlinks=False))
                    os.unlink(name, dir_fd=fd)
        return directories


def _replace(old_fd: int, new_fd: int) -> int:
    os.close(old_fd)
    return new_fd
