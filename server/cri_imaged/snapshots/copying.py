"""Copy one file, link, device or fifo with everything that belongs to it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from typing import TypeAlias

from cri_imaged.ports import DISK_BLOCK
from cri_imaged.snapshots.opened import copy_xattrs, ignores_modes, set_owner
from cri_imaged.snapshots.tasks import Check
from cri_imaged.snapshots.widening import mode_of, narrow, widen

_FICLONE = 0x40049409
_CHUNK = 4 << 20
_NOT_CLONABLE = (
    errno.EOPNOTSUPP,
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOTTY,
    errno.ENOSYS,
    errno.EPERM,
    errno.EBADF,
)

Place: TypeAlias = tuple[int, bytes | str]
"""A directory's descriptor and a name in it."""


def copy_node(source: Place, target: Place, check: Check) -> bool:
    """Copy what is not a directory; and none of its other names. What it takes on disk, in whole
    blocks, is told to `check`.

    Links are copied, not followed. Owners and xattrs are left out where not permitted.

    Returns:
        Whether it was: a device is left out where that is not permitted.

    Raises:
        FileExistsError: something is at `target`.
    """
    info = os.stat(source[1], dir_fd=source[0], follow_symlinks=False)
    kind = stat.S_IFMT(info.st_mode)
    if kind == stat.S_IFREG:
        _copy_file(source, target, check)
        return True
    directory, name = target
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(_link(source)), name, dir_fd=directory)
    else:
        try:
            os.mknod(name, info.st_mode, info.st_rdev, dir_fd=directory)
        except PermissionError:
            return False
    with contextlib.suppress(PermissionError):
        os.chown(name, info.st_uid, info.st_gid, dir_fd=directory, follow_symlinks=False)
    copy_xattrs(_link(source), _link(target))
    if kind != stat.S_IFLNK:
        os.chmod(name, stat.S_IMODE(info.st_mode), dir_fd=directory)
    times = (info.st_atime_ns, info.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)
    check.grew(0, 1)
    return True


def _copy_file(source: Place, target: Place, check: Check) -> None:
    with _opened(source) as (reader, mode):
        info = os.fstat(reader)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        writer = os.open(target[1], flags, 0o600, dir_fd=target[0])
        try:
            check.grew(0, 1)
            _copy_content(reader, writer, info.st_size, check)
            set_owner(writer, info.st_uid, info.st_gid)
            copy_xattrs(reader, writer)
            os.fchmod(writer, mode)
            os.utime(writer, ns=(info.st_atime_ns, info.st_mtime_ns))
        finally:
            os.close(writer)


@contextlib.contextmanager
def _opened(source: Place) -> Iterator[tuple[int, int]]:
    """A file to be read, and its mode. Where that forbids an ordinary user to read a file of their
    own, and its xattrs, it is widened for so long."""
    handle = os.open(source[1], os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source[0])
    link = f"/proc/self/fd/{handle}"
    try:
        widened = None if ignores_modes() else widen(handle, stat.S_IRUSR)
        try:
            reader = os.open(link, os.O_RDONLY | os.O_CLOEXEC)
            try:
                yield reader, mode_of(handle)
            finally:
                os.close(reader)
        finally:
            if widened is not None:
                narrow(widened, handle)
    finally:
        os.close(handle)


def _copy_content(reader: int, writer: int, size: int, check: Check) -> None:
    """Share the extents where the file system can; else copy the data and keep the holes."""
    try:
        fcntl.ioctl(writer, _FICLONE, reader)
        return
    except OSError as error:
        if error.errno not in _NOT_CLONABLE:
            raise
    os.ftruncate(writer, size)
    position = 0
    while position < size:
        try:
            start = os.lseek(reader, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(reader, start, os.SEEK_HOLE)
        os.lseek(reader, start, os.SEEK_SET)
        os.lseek(writer, start, os.SEEK_SET)
        while start < end:
            check()
            copied = os.sendfile(writer, reader, None, min(end - start, _CHUNK))
            if not copied:
                return
            check.grew(-(-copied // DISK_BLOCK) * DISK_BLOCK, 0)
            start += copied
        position = end


def _link(place: Place) -> str:
    return f"/proc/self/fd/{place[0]}/{os.fsdecode(place[1])}"
