"""Whether what is missing of an image fits on the disk."""

from __future__ import annotations

import os
from pathlib import Path

from cri_imaged.errors import NoSpaceError


class Space:
    """The disk under the store, and what must stay free on it, in bytes."""

    def __init__(self, root: Path, reserve: int) -> None:
        self._root = root
        self._reserve = reserve

    def check(self, missing: int) -> None:
        """Refuse to fetch `missing` bytes where they cannot fit. What they unpack to is not known
        before; the disk says so when it comes to that.

        Raises:
            NoSpaceError: with the figures.
        """
        if not missing:
            return
        disk = os.statvfs(self._root)
        free = disk.f_bavail * disk.f_frsize
        if missing + self._reserve > free:
            raise NoSpaceError(
                f"no space for this image: {missing} compressed bytes are missing, "
                f"{self._root} has {free} bytes free and keeps {self._reserve} in reserve "
                "(image.disk_reserve); remove images or make room"
            )
