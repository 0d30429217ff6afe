"""The structures of EROFS as bytes (kernel, fs/erofs/erofs_fs.h). Pure."""

from __future__ import annotations

import enum
import itertools
import operator
import stat
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from cri_imaged.errors import CorruptContentError

BLOCK = 4096
SLOT = 32
"""Inodes are at multiples of it, by which they are numbered."""
ROOT_NID = 36
SUPER = 1024
SUPER_SIZE = 128
_MAGIC = 0xE0F5E1E2
_CHECKSUM, _MTIME = 0x1, 0x2
_CHUNKED_FILES = 0x4
_BLOCK_BITS = 12
HOLE = 0xFFFFFFFF
"""In the place of a chunk's block."""
CHUNK_BITS = range(32)
"""Binary logarithms of the blocks that a chunk may have."""
_MOST_LINKS = 0xFFFF
_SECOND = 1_000_000_000

_SUPERBLOCK = struct.Struct("<IIIBBHQQIIII")
_INCOMPATIBLE = struct.Struct("<I")
_COMPACT = struct.Struct("<HHHHIIIIHHI")
_EXTENDED = struct.Struct("<HHHHQIIIIqII16x")
COMPACT_SIZE, EXTENDED_SIZE = _COMPACT.size, _EXTENDED.size
_UNUSED = bytes(16)
_UNUSED_AT = EXTENDED_SIZE - len(_UNUSED)
_MOST_BYTES = (1 << 63) - 1
"""Of a file: the kernel's numbers for that are signed."""
DIRENT = struct.Struct("<QHBx")
"""Number, where the name begins in the block, type."""


class Layout(enum.IntEnum):
    """Where an inode's data is."""

    PLAIN = 0
    """In blocks."""
    INLINE = 2
    """In blocks, but for the last part, which follows the inode."""
    CHUNKED = 4
    """In chunks, whose blocks a map behind the inode gives."""


_KINDS = frozenset(layout << 1 | extended for layout in Layout for extended in (0, 1))
"""What an inode begins with."""


class Stat(NamedTuple):
    """What an inode says of itself."""

    mode: int
    """Kind and permissions, as in `st_mode`."""
    uid: int
    gid: int
    mtime: int
    """Nanoseconds since the epoch, possibly negative."""


class Inode(msgspec.Struct, gc=False):
    """One inode, without what follows it."""

    stat: Stat
    size: int
    links: int = 1
    layout: Layout = Layout.PLAIN
    place: int = 0
    """The first block of its data; a device's number; the binary logarithm of a chunk's blocks."""

    @property
    def header_size(self) -> int:
        """Bytes of the inode itself."""
        return header_size(self.stat, self.size, self.links)


class Entry(NamedTuple):
    """One name in a directory."""

    name: bytes
    nid: int
    type: int


TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFLNK: 7,
}
"""What a directory calls each kind of file."""
DIRECTORY = TYPES[stat.S_IFDIR]


def device_number(major: int, minor: int) -> int:
    """As the kernel's `new_encode_dev`."""
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


def header_size(status: Stat, size: int, links: int) -> int:
    """Bytes of an inode: the compact form has no time and little room. Directories do not have it,
    so that what a seal says of one fits in its place."""
    compact = (
        status.mtime == 0
        and not stat.S_ISDIR(status.mode)
        and status.uid <= 0xFFFF
        and status.gid <= 0xFFFF
        and links <= _MOST_LINKS
        and size <= 0xFFFFFFFF
    )
    return COMPACT_SIZE if compact else EXTENDED_SIZE


def encode_inode(inode: Inode, xattr_size: int) -> bytes:
    """An inode's bytes; its xattrs, `xattr_size` bytes, follow. Raises as `pack_inode` does."""
    return pack_inode(inode.stat, inode.size, inode.links, inode.layout, inode.place, xattr_size)


def pack_inode(
    status: Stat, size: int, links: int, layout: int, place: int, xattr_size: int
) -> bytes:
    """As `encode_inode`. Made for many.

    Raises:
        ValueError: more than the format can say.
    """
    if xattr_size % 4 or not 0 <= xattr_size < BLOCK or size < 0 or links < 0:
        raise ValueError("not an inode")
    count = (xattr_size - 12) // 4 + 1 if xattr_size else 0
    mode, uid, gid, mtime = status
    try:
        if header_size(status, size, links) == COMPACT_SIZE:
            return _COMPACT.pack(layout << 1, count, mode, links, size, 0, place, 0, uid, gid, 0)
        seconds, nanoseconds = divmod(mtime, _SECOND)
        return _EXTENDED.pack(
            layout << 1 | 1, count, mode, 0, size, place, 0, uid, gid, seconds, nanoseconds, links
        )
    except struct.error as error:
        raise ValueError("not an inode") from error


def decode_inode(data: bytes) -> tuple[Inode, int]:
    """An inode and the size of its xattrs, from at least its bytes.

    Raises:
        CorruptContentError: it is none of ours.
    """
    raw = unpack_inode(data, 0)
    status = Stat(raw[1], *raw[7:])
    return Inode(status, raw[2], raw[3], Layout(raw[4]), raw[5]), raw[6]


def unpack_inode(data: bytes, at: int) -> tuple[int, int, int, int, int, int, int, int, int, int]:
    """Of the inode at `at`: bytes of itself, mode, size, links, layout, place, bytes of its xattrs,
    user, group, time. Made for many.

    Raises:
        CorruptContentError: it is none of ours.
    """
    try:
        if data[at] & 1:
            kind, count, mode, high, size, place, number, uid, gid, seconds, nanoseconds, links = (
                _EXTENDED.unpack_from(data, at)
            )
            header, mtime = EXTENDED_SIZE, seconds * _SECOND + nanoseconds
            strange = high or number or nanoseconds >= _SECOND or size > _MOST_BYTES
            strange = strange or data[at + _UNUSED_AT : at + EXTENDED_SIZE] != _UNUSED
        else:
            kind, count, mode, links, size, time, place, number, uid, gid, high = (
                _COMPACT.unpack_from(data, at)
            )
            header, mtime = COMPACT_SIZE, 0
            strange = time or number or high
    except (IndexError, struct.error) as error:
        raise damaged("an inode") from error
    if strange or kind not in _KINDS:
        raise damaged("an inode")
    xattr_size = 8 + 4 * count if count else 0
    return header, mode, size, links, kind >> 1, place, xattr_size, uid, gid, mtime


def encode_block(names: Sequence[bytes], nids: Sequence[int], types: Sequence[int]) -> bytes:
    """One block of a directory, as long as its entries. They are sorted, and fit."""
    ends = list(itertools.accumulate(map(len, names), initial=DIRENT.size * len(names)))
    if ends.pop() > BLOCK:
        raise ValueError("more than a directory's block holds")
    return b"".join([*map(DIRENT.pack, nids, ends, types), *names])


class Names(NamedTuple):
    """The entries of one block of a directory by columns, in its order."""

    names: list[bytes]
    nids: tuple[int, ...]
    types: tuple[int, ...]


def split_block(data: bytes) -> Names:
    """What one block of a directory holds. Made for many.

    Raises:
        CorruptContentError
    """
    heads = first_name(data)
    nids, starts, types = zip(*DIRENT.iter_unpack(data[:heads]), strict=True)
    ends = (*starts[1:], max(len(data.rstrip(b"\0")), starts[-1]))
    if not all(map(operator.lt, starts, ends)):
        raise damaged("a directory")
    return Names([data[start:end] for start, end in zip(starts, ends, strict=True)], nids, types)


def decode_block(data: bytes) -> Iterator[Entry]:
    """As `split_block`, one entry after the other."""
    return map(Entry, *split_block(data))


def first_name(data: bytes) -> int:
    """Where the names begin in a directory's block. Raises `CorruptContentError`."""
    heads = 0
    if len(data) >= DIRENT.size:
        heads = DIRENT.unpack_from(data)[1]
    if not heads or heads % DIRENT.size or heads >= len(data):
        raise damaged("a directory")
    return heads


def encode_superblock(first: bytes, inodes: int, blocks: int) -> bytes:
    """The superblock of an image, whose whole `first` block is given: the checksum covers it."""
    body = _SUPERBLOCK.pack(
        _MAGIC, 0, _CHECKSUM | _MTIME, _BLOCK_BITS, 0, ROOT_NID, inodes, 0, 0, blocks, 0, 0
    )
    # Neither a UUID nor a name: the same layer gives the same image.
    body = body.ljust(80, b"\0") + _INCOMPATIBLE.pack(_CHUNKED_FILES)
    body = body.ljust(SUPER_SIZE, b"\0")
    checksum = _crc32c(body + first[SUPER + SUPER_SIZE :])
    return body[:4] + checksum.to_bytes(4, "little") + body[8:]


def inode_count(superblock: bytes) -> int:
    """Of an image whose superblock is given.

    Raises:
        CorruptContentError: it is none.
    """
    try:
        magic, _, _, bits, _, root, inodes, *_ = _SUPERBLOCK.unpack_from(superblock)
    except struct.error as error:
        raise damaged("the superblock") from error
    if (magic, bits, root) != (_MAGIC, _BLOCK_BITS, ROOT_NID):
        raise damaged("the superblock")
    return int(inodes)


def damaged(what: str) -> CorruptContentError:
    """The error for an image that is not as we write them."""
    return CorruptContentError(f"image of a layer: {what} is malformed")


def _table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC32C = _table()


def _crc32c(data: bytes) -> int:
    """Castagnoli's, begun with all ones and not inverted at the end."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC32C[(value ^ byte) & 0xFF]
    return value
