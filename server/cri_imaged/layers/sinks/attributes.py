"""Owners, modes, times and extended attributes, and the count of what could not be kept."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from cri_imaged.errors import NoSpaceError
from cri_imaged.layers.tar.entry import Entry
from cri_imaged.ports import ATTRIBUTE_REFUSED

_COMMON_TIMES = range(-(1 << 31) * 1_000_000_000, (1 << 31) * 1_000_000_000)
"""Nanoseconds that every file system holds (ext4 with small inodes: 1901 to 2038)."""
_NEVER = (b"trusted.overlay.", b"user.overlay.")
"""They would speak to overlayfs, not to the container."""
_DEFAULT_ACL = b"system.posix_acl_default"
_CAPABILITY = b"security.capability"
_WORKING = 0o600


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
        self.privileged = privileged
        self.uid, self.gid = os.geteuid(), os.getegid()

    def set_owner(self, fd: int, uid: int, gid: int, name: bytes | None = None) -> None:
        """Give an open file, or `name` in the open directory `fd`, its owner."""
        mine = uid == self.uid and gid == self.gid
        if mine and (name is not None or not self.privileged):
            return  # made just now; a directory may have been given away when it was listed before
        self._change_owner(fd, uid, gid, name)

    def _change_owner(self, fd: int, uid: int, gid: int, name: bytes | None) -> None:
        if self.privileged:
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

    def change_link(self, fd: int, name: bytes, entry: Entry, status: os.stat_result) -> None:
        """Give the file that is `name` in `fd`, and was as `status` says, what a hardlink's entry
        says of it, as containerd, Docker and containers/storage do."""
        given_away = (status.st_uid, status.st_gid) != (entry.uid, entry.gid)
        if given_away:
            self._change_owner(fd, entry.uid, entry.gid, name)
        if entry.xattrs and stat.S_ISREG(status.st_mode):
            os.chmod(name, _WORKING, dir_fd=fd)
            file = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            try:
                self.set_xattrs(file, entry.xattrs)
            finally:
                os.close(file)
        elif entry.xattrs:
            self.refuse_xattrs(entry.xattrs)
        same_mode = stat.S_IMODE(status.st_mode) == entry.mode
        if not stat.S_ISLNK(status.st_mode) and (given_away or entry.xattrs or not same_mode):
            os.chmod(name, entry.mode, dir_fd=fd)
        if status.st_mtime_ns != entry.mtime:
            self.set_times(fd, entry.mtime, name)

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
        if mtime in _COMMON_TIMES:
            return
        status = os.fstat(fd) if name is None else os.lstat(name, dir_fd=fd)
        self.skipped.times += status.st_mtime_ns != mtime

    def set_xattrs(self, fd: int, xattrs: dict[bytes, bytes]) -> None:
        """Set the extended attributes of an open file or directory, all but the late ones."""
        for name, value in xattrs.items():
            if is_late(name):
                continue
            if name.startswith(_NEVER):
                self.skipped.xattrs += 1
                continue
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                if error.errno not in ATTRIBUTE_REFUSED and not _full_of_xattrs(fd, error):
                    raise
                self.skipped.xattrs += 1

    def refuse_xattrs(self, xattrs: dict[bytes, bytes]) -> None:
        """Count those of something that is no file and no directory: the kernel lets it have late
        ones only."""
        self.skipped.xattrs += sum(not is_late(name) for name in xattrs)

    def allowed(self, xattrs: dict[bytes, bytes] | None) -> tuple[tuple[bytes, bytes], ...]:
        """All that may ever be set; the rest is counted."""
        kept = tuple(each for each in (xattrs or {}).items() if not each[0].startswith(_NEVER))
        self.skipped.xattrs += len(xattrs or ()) - len(kept)
        return kept


def is_late(name: bytes) -> bool:
    """Whether an xattr is set only when the tree is complete (`ports.Late`)."""
    if name.startswith((b"security.", b"trusted.")):
        return name != _CAPABILITY and not name.startswith(_NEVER)
    return name == _DEFAULT_ACL


def late(xattrs: dict[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """The late ones among `xattrs`."""
    return tuple(each for each in xattrs.items() if is_late(each[0]))


def _full_of_xattrs(fd: int, error: OSError) -> bool:
    """ext4 answers ENOSPC also where an inode's attributes do not fit into their one block."""
    if error.errno != errno.ENOSPC:
        return False
    if os.fstatvfs(fd).f_bavail == 0:
        raise NoSpaceError("no space left for extended attributes") from error
    return True
