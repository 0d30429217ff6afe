"""Owners, modes, times and extended attributes, and the count of what could not be kept."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from cri_imaged.errors import NoSpaceError

_SECOND = 1_000_000_000
_COMMON_TIMES = range(-(1 << 31), 1 << 31)
"""Seconds that every file system holds (ext4 with small inodes: 1901 to 2038)."""
_NEVER = (b"trusted.overlay.", b"user.overlay.")
"""They would speak to overlayfs, not to the container."""
_DEFAULT_ACL = b"system.posix_acl_default"
_REFUSED = frozenset(
    {
        errno.EPERM,
        errno.EACCES,
        errno.EOPNOTSUPP,
        errno.E2BIG,
        errno.ERANGE,
        errno.EINVAL,
        errno.ENODATA,
    }
)


@dataclass(slots=True)
class SkipCount:
    """What was skipped so far; `ports.Skipped` explains the fields."""

    owners: int = 0
    devices: int = 0
    xattrs: int = 0
    times: int = 0


class Metadata:
    """Sets what an entry says of itself, as far as this process may and the file system can."""

    def __init__(self, *, privileged: bool) -> None:
        self.skipped = SkipCount()
        self._privileged = privileged
        self.uid, self.gid = os.geteuid(), os.getegid()

    def set_owner(self, fd: int, uid: int, gid: int, name: bytes | None = None) -> None:
        """Give an open file, or `name` in the open directory `fd`, its owner."""
        mine = uid == self.uid and gid == self.gid
        if mine and (name is not None or not self._privileged):
            return  # made just now; a directory may have been given away when it was listed before
        if self._privileged:
            try:
                if name is None:
                    os.chown(fd, uid, gid)
                else:
                    os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EINVAL):
                    raise
            else:
                return
        self.skipped.owners += 1

    def set_times(self, fd: int, mtime: int, name: bytes | None = None) -> None:
        """Set access and modification time, nanoseconds, of an open file or of `name` in `fd`."""
        try:
            if name is None:
                os.utime(fd, ns=(mtime, mtime))
            else:
                os.utime(name, ns=(mtime, mtime), dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOVERFLOW):
                raise
            self.skipped.times += 1
            return
        if mtime // _SECOND in _COMMON_TIMES:
            return
        status = os.fstat(fd) if name is None else os.lstat(name, dir_fd=fd)
        self.skipped.times += status.st_mtime_ns != mtime

    def set_xattrs(self, fd: int, xattrs: dict[bytes, bytes]) -> None:
        """Set the extended attributes of an open file or directory."""
        for name, value in xattrs.items():
            if name.startswith(_NEVER) or name == _DEFAULT_ACL:
                self.skipped.xattrs += 1
                continue
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                if error.errno not in _REFUSED and not _full_of_xattrs(fd, error):
                    raise
                self.skipped.xattrs += 1


def _full_of_xattrs(fd: int, error: OSError) -> bool:
    """ext4 answers ENOSPC also where an inode's attributes do not fit into their one block."""
    if error.errno != errno.ENOSPC:
        return False
    if os.fstatvfs(fd).f_bavail == 0:
        raise NoSpaceError("no space left for extended attributes") from error
    return True
