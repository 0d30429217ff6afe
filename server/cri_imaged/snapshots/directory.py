"""Open directories: entered without following links, and entered though their mode forbids it."""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from pathlib import Path
from types import TracebackType

_CAP_DAC_OVERRIDE = 1
READ = 0o500
"""Owner's bits that reading a directory and entering it take."""
WRITE = 0o700
"""Owner's bits that changing a directory takes."""
OPAQUE = "trusted.overlay.opaque"
_OVERLAY_XATTRS = ("trusted.overlay.", "user.overlay.")


@functools.cache
def ignores_modes() -> bool:
    """Whether this process may read and change what modes forbid to the owner."""
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> _CAP_DAC_OVERRIDE & 1)


class Directory:
    """A directory held open by its descriptor.

    An ordinary user may not enter a directory of their own whose mode says so (0000, 0555 to
    write); its mode is then widened while it is held and put back by `close`.
    """

    __slots__ = ("_mode", "_need", "fd")

    def __init__(self, fd: int, need: int, mode: int | None) -> None:
        self.fd = fd
        self._need = need
        self._mode = mode

    @classmethod
    def open(
        cls, name: bytes | str | Path, parent: int | None = None, need: int = READ
    ) -> Directory:
        """Open `name` in `parent`, which must be a directory itself and not a link to one.

        Raises:
            FileNotFoundError, NotADirectoryError
        """
        flags = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        if ignores_modes():
            return cls(os.open(name, os.O_RDONLY | flags, dir_fd=parent), need, None)
        handle = os.open(name, os.O_PATH | flags, dir_fd=parent)
        try:
            info = os.fstat(handle)
            mode = stat.S_IMODE(info.st_mode)
            widened = mode & need != need and info.st_uid == os.geteuid()
            link = f"/proc/self/fd/{handle}"
            if widened:
                os.chmod(link, mode | need)
            return cls(os.open(link, os.O_RDONLY | os.O_DIRECTORY), need, mode if widened else None)
        finally:
            os.close(handle)

    @property
    def mode(self) -> int:
        """Its permission bits, as they are while nobody holds it."""
        return stat.S_IMODE(os.fstat(self.fd).st_mode) if self._mode is None else self._mode

    def set_mode(self, mode: int) -> None:
        """Give it `mode`, at the latest when it is closed."""
        tight = mode & self._need != self._need and not ignores_modes()
        os.fchmod(self.fd, mode | self._need if tight else mode)
        self._mode = mode if tight else None

    def copy_metadata(self, source: Directory) -> None:
        """Take owner, xattrs, mode and times from `source`, as far as permitted."""
        info = os.fstat(source.fd)
        set_owner(self.fd, info.st_uid, info.st_gid)
        copy_xattrs(source.fd, self.fd)
        self.set_mode(source.mode)
        os.utime(self.fd, ns=(info.st_atime_ns, info.st_mtime_ns))

    def is_opaque(self) -> bool:
        """Whether it hides the directories below it in an overlay."""
        try:
            return os.getxattr(self.fd, OPAQUE) == b"y"
        except OSError:
            return False

    def close(self) -> None:
        """Put a widened mode back and close the descriptor."""
        try:
            if self._mode is not None:
                os.fchmod(self.fd, self._mode)
        finally:
            os.close(self.fd)

    def __enter__(self) -> Directory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def set_owner(fd: int, uid: int, gid: int) -> None:
    """Give an open file's inode to `uid` and `gid` where that is permitted."""
    with contextlib.suppress(PermissionError):
        os.fchown(fd, uid, gid)


def copy_xattrs(source: int | str, target: int | str) -> None:
    """Copy what xattrs may be read here and written there, but none of overlay's own.

    A path is not followed where it is a link.
    """
    try:
        names = os.listxattr(source, follow_symlinks=isinstance(source, int))
    except OSError:
        return
    for name in names:
        if name.startswith(_OVERLAY_XATTRS):
            continue
        try:
            value = os.getxattr(source, name, follow_symlinks=isinstance(source, int))
            os.setxattr(target, name, value, follow_symlinks=isinstance(target, int))
        except OSError:
            continue
