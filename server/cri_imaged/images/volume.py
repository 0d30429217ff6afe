"""The disk under the store: what is free on it, and what must stay so."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cri_imaged.full_disk import has_inodes
from cri_imaged.limits import MIB

_SHORT = 20
"""Space is short where less than one in so many of the disk's bytes can be taken."""
_MARGIN = 1 * MIB
"""Bytes that stay free above the reserve: writers take their last step there."""
_RESUMABLE = 10
"""Leftovers take at most one in so many of the disk's bytes."""


@dataclass(frozen=True, slots=True)
class Volume:
    """One file system. `reserve` are the bytes that pulls leave free (`image.disk_reserve`)."""

    root: Path
    reserve: int

    def room(self) -> int:
        """Bytes that may be taken now; negative where the reserve is touched."""
        disk = os.statvfs(self.root)
        return disk.f_bavail * disk.f_frsize - self.reserve

    def has_inodes(self) -> bool:
        """Whether files may still be made."""
        return has_inodes(os.statvfs(self.root))

    def has_bytes(self) -> bool:
        """Whether bytes may still be written."""
        return self.room() >= _MARGIN

    def shortage(self) -> str | None:
        """Why nothing more may be written, with the figures; None where it may."""
        room = self.room()
        if room < _MARGIN:
            return (
                f"{self.root} has {room + self.reserve} bytes free and keeps {self.reserve} in "
                "reserve (image.disk_reserve); remove images or make room"
            )
        if not self.has_inodes():
            return (
                f"{self.root} has too few inodes free: 5 % are kept in reserve, beside "
                "image.disk_reserve; remove images or files"
            )
        return None

    def is_short(self) -> bool:
        """Whether what is merely of use should go."""
        return self.room() < self._size() // _SHORT or not self.has_inodes()

    def resumable_bytes(self, limit: int) -> int:
        """What leftovers of unfinished pulls may take: `limit`, on a small disk less."""
        return min(limit, self._size() // _RESUMABLE)

    def _size(self) -> int:
        disk = os.statvfs(self.root)
        return disk.f_blocks * disk.f_frsize
