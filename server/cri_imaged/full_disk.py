"""A disk that is full, or as good as full, or that fails."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from cri_imaged.errors import DiskFailedError, NoSpaceError

_INODES_KEPT = 20
"""One in so many inodes stays free."""
_FAILED = (errno.EROFS, errno.EIO, errno.EUCLEAN)


def is_full(error: OSError) -> bool:
    """Whether `error` says that the disk or a quota is full (ENOSPC, EDQUOT)."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def inodes_left(disk: os.statvfs_result) -> int | None:
    """How many files may still be made. None on a file system without a table of them."""
    return disk.f_favail - disk.f_files // _INODES_KEPT if disk.f_files else None


def has_inodes(disk: os.statvfs_result) -> bool:
    """Whether files may still be made."""
    left = inodes_left(disk)
    return left is None or left > 0


def leave_free(fd: int, reserve: int) -> None:
    """Make sure, while writing, that `reserve` bytes and some inodes stay free on the file system
    of an open file or directory.

    Raises:
        NoSpaceError
    """
    disk = os.fstatvfs(fd)
    free = disk.f_bavail * disk.f_frsize
    if free < reserve:
        raise NoSpaceError(
            f"no space: only {free} bytes are free, {reserve} are kept in reserve "
            "(image.disk_reserve); remove images or make room"
        )
    if not has_inodes(disk):
        raise NoSpaceError("no space: too few inodes are free; remove images or files")


@contextlib.contextmanager
def told_as_no_space(what: str) -> Iterator[None]:
    """Raise `NoSpaceError`, which names `what`, in place of an `OSError` that says so; and
    `DiskFailedError` where the file system is read-only or the disk fails."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise NoSpaceError(f"{what}: {error.strerror}") from error
        if error.errno in _FAILED:
            raise DiskFailedError(f"{what}: {error.strerror}; mend the disk under root") from error
        raise
