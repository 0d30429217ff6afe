"""What one layer takes on disk, counted as it grows."""

from __future__ import annotations

import os
import stat

from cri_imaged.errors import LimitExceededError
from cri_imaged.ports import DISK_BLOCK, Usage


class Space:
    """Inodes, and bytes in whole blocks."""

    def __init__(self, limit: int) -> None:
        """`limit`: bytes (`Limits.layer_bytes`)."""
        self._limit = limit
        self._bytes = 0
        self._inodes = 0

    @property
    def usage(self) -> Usage:
        """What is taken now."""
        return Usage(self._bytes, self._inodes)

    def take(self, size: int) -> None:
        """Count a new inode and its bytes.

        Raises:
            LimitExceededError: more than a layer may hold.
        """
        self._inodes += 1
        self._bytes += size + -size % DISK_BLOCK
        if self._bytes > self._limit:
            raise LimitExceededError(
                f"the layer takes more than {self._limit} bytes on disk (layer_bytes)"
            )

    def take_directory(self) -> None:
        """Count a new directory. Raises as `take` does."""
        self.take(DISK_BLOCK)

    def give_back(self, status: os.stat_result) -> None:
        """A name of something other than a directory is about to be removed."""
        if status.st_nlink == 1:
            self._inodes -= 1
            size = status.st_size if stat.S_ISREG(status.st_mode) else 0
            self._bytes -= _blocks(min(size, 512 * status.st_blocks))  # less, if sparse

    def give_back_directory(self) -> None:
        """A directory was removed."""
        self._inodes -= 1
        self._bytes -= DISK_BLOCK

    def clear(self) -> None:
        """Begin anew."""
        self._bytes = self._inodes = 0


def _blocks(size: int) -> int:
    return size + -size % DISK_BLOCK
