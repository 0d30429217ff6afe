"""The file by which SQLite's connections share what is in the write-ahead log. It is written as
memory: where the file system refuses, the process ends by SIGBUS, instead of an error."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from pathlib import Path

from cri_imaged.errors import DiskFailedError

_GET_FLAGS = 0x80086601
_IMMUTABLE = 0x10
"""FS_IOC_GETFLAGS and FS_IMMUTABLE_FL (ioctl_iflags(2))."""


class SharedFile:
    """That of the database at `path`, which is open: whoever closes this while SQLite has locks on
    it takes these away."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}-shm")
        self._fd: int | None = None
        with contextlib.suppress(FileNotFoundError):  # a file system that cannot share memory
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)

    def require_writable(self) -> None:
        """To be called before SQLite may write.

        Raises:
            DiskFailedError: it was made immutable.
        """
        if self._fd is None:
            return
        flags = bytearray(8)
        try:
            fcntl.ioctl(self._fd, _GET_FLAGS, flags)
        except OSError:
            return  # a file system without such flags
        if struct.unpack_from("<I", flags)[0] & _IMMUTABLE:
            raise DiskFailedError(
                f"the metadata database cannot be used: {self._path} is immutable; "
                "chattr -R -i the root directory"
            )

    def close(self) -> None:
        """To be called when SQLite has closed the database."""
        if self._fd is not None:
            os.close(self._fd)
