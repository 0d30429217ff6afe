"""Open directories: entered without following links, and entered though their mode forbids it."""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path
from types import TracebackType

from cri_imaged.snapshots.widening import Inode, intend, mode_of, narrow, widen

_CAP_DAC_OVERRIDE = 1
READ = 0o500
"""Owner's bits that reading a directory and entering it take."""
WRITE = 0o700
"""Owner's bits that changing a directory takes."""
_ACLS = frozenset({"system.posix_acl_access", "system.posix_acl_default"})
OPAQUE = "trusted.overlay.opaque"
OVERLAY_XATTRS = ("trusted.overlay.", "user.overlay.")


@functools.cache
def ignores_modes() -> bool:
    """Whether this process may read and change what modes forbid to the owner."""
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> _CAP_DAC_OVERRIDE & 1)


class OpenDirectory:
    """A directory held open by its descriptor.

    An ordinary user may not enter a directory of their own whose mode says so (0000, 0555 to
    write); its mode is then widened while it is held and put back by `close`.
    """

    __slots__ = ("_need", "_widened", "fd")

    def __init__(self, fd: int, need: int, widened: Inode | None) -> None:
        self.fd = fd
        self._need = need
        self._widened = widened

    @classmethod
    def open(
        cls, name: bytes | str | Path, parent: int | None = None, need: int = READ
    ) -> OpenDirectory:
        """Open `name` in `parent`, which must be a directory itself and not a link to one.

        Raises:
            FileNotFoundError, NotADirectoryError
        """
        flags = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        if ignores_modes():
            return cls(os.open(name, os.O_RDONLY | flags, dir_fd=parent), need, None)
        handle = os.open(name, os.O_PATH | flags, dir_fd=parent)
        try:
            widened = widen(handle, need)
            try:
                fd = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except BaseException:
                if widened is not None:
                    narrow(widened, handle)
                raise
            return cls(fd, need, widened)
        finally:
            os.close(handle)

    @property
    def mode(self) -> int:
        """Its permission bits, as they are while nobody holds it."""
        return mode_of(self.fd)

    def set_mode(self, mode: int) -> None:
        """Give it `mode`, at the latest when it is closed."""
        if self._widened is None:
            os.fchmod(self.fd, mode)
            if not ignores_modes():
                self._widened = widen(self.fd, self._need)
        else:
            os.fchmod(self.fd, mode | self._need)
            intend(self._widened, mode)

    def copy_metadata(self, source: OpenDirectory) -> None:
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
            if self._widened is not None:
                narrow(self._widened, self.fd)
        finally:
            os.close(self.fd)

    def __enter__(self) -> OpenDirectory:
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
    """Copy what xattrs may be read here and written there, but none of overlay's own. An ACL that
    the target inherited and the source has not goes.

    A path is not followed where it is a link.
    """
    try:
        names = os.listxattr(source, follow_symlinks=isinstance(source, int))
        inherited = os.listxattr(target, follow_symlinks=isinstance(target, int))
    except OSError:
        return
    for name in _ACLS.intersection(inherited).difference(names):
        os.removexattr(target, name, follow_symlinks=isinstance(target, int))
    for name in names:
        if name.startswith(OVERLAY_XATTRS):
            continue
        try:
            value = os.getxattr(source, name, follow_symlinks=isinstance(source, int))
            os.setxattr(target, name, value, follow_symlinks=isinstance(target, int))
        except OSError:
            continue
