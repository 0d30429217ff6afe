"""What the tar reader makes of an archive. Pure values."""

from __future__ import annotations

import enum

import msgspec


class Kind(enum.Enum):
    """The type of an entry."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"
    CHARACTER_DEVICE = "character device"
    BLOCK_DEVICE = "block device"
    FIFO = "fifo"


class Entry(msgspec.Struct, gc=False):
    """One entry of an archive. Of a FILE, exactly `size` bytes of data follow."""

    name: bytes
    """As written in the archive, a trailing slash included."""
    kind: Kind
    mode: int
    """Permission and special bits (07777)."""
    uid: int
    gid: int
    mtime: int
    """Nanoseconds since the epoch, possibly negative."""
    size: int
    """Bytes of data in the archive; 0 unless a FILE."""
    link: bytes
    """Target of a SYMLINK or HARDLINK, as written."""
    major: int
    minor: int
    offset: int
    """Of the entry's own header in the uncompressed stream."""
    xattrs: dict[bytes, bytes] | None = None
    sparse: tuple[tuple[int, int], ...] | None = None
    """(offset, length) of the parts of a sparse FILE that the data holds, ascending."""
    length: int = 0
    """Of a sparse FILE, the size it has on disk."""


def shown(name: bytes) -> str:
    """An entry's name for a message: quoted, cut."""
    text = name[:200].decode("utf-8", "backslashreplace")
    return repr(text + "…" if len(name) > 200 else text)
