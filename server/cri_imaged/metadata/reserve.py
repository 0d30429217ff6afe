"""Disk space set aside: on a full disk it is the room for transactions that make room."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from cri_imaged.full_disk import is_full


class Reserve:
    """A file that takes `size` bytes until they are needed. Not for many threads."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size
        self._full = False

    def fill(self) -> bool:
        """Set the space aside where it is not. False: the disk has none to spare."""
        if self._full or not self._size:
            return True
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, self._size)
            finally:
                os.close(fd)
        except OSError as error:
            if not is_full(error):
                raise
            self.spend()
            return False
        self._full = True
        return True

    def spend(self) -> bool:
        """Give the space back to the file system. False: it was spent already."""
        self._full = False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
            return True
        return False
