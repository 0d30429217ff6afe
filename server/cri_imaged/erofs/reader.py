"""Reads an image that `writer` made.

Who wrote it had read a stranger's bytes: what is not as it must be is an error, and nothing is
read into memory that is not small.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from cri_imaged.erofs.chunks import spans_of, stored
from cri_imaged.erofs.format import (
    BLOCK,
    DIRENT,
    ROOT_NID,
    SLOT,
    SUPER,
    Entry,
    Inode,
    Layout,
    damaged,
    decode_block,
    decode_inode,
    inode_count,
)
from cri_imaged.erofs.xattrs import decode_body

_READ = 1 << 20
_MOST_MAP = 8 << 20
"""Bytes of a map of chunks: more than `chunks` makes."""


class Found(NamedTuple):
    """An inode, and where it is."""

    nid: int
    inode: Inode
    xattr_size: int

    @property
    def address(self) -> int:
        """Of the inode."""
        return self.nid * SLOT

    @property
    def behind(self) -> int:
        """The address of what follows its xattrs."""
        return self.address + self.inode.header_size + self.xattr_size

    @property
    def is_directory(self) -> bool:
        """Whether it is one."""
        return stat.S_ISDIR(self.inode.stat.mode)


class Dirent(NamedTuple):
    """An entry of a directory, and the address of the number in it."""

    address: int
    entry: Entry


class Image:
    """An image, by what reads so many bytes at an address, or fewer at the end."""

    def __init__(self, read: Callable[[int, int], bytes]) -> None:
        self._read = read

    @classmethod
    def of(cls, fd: int) -> Image:
        """The image in an open file, which stays the caller's."""
        return cls(lambda address, size: os.pread(fd, size, address))

    def count(self) -> int:
        """Its inodes. Raises `CorruptContentError` where it is no image."""
        return inode_count(self.read(SUPER, 128))

    def read(self, address: int, size: int) -> bytes:
        """The bytes there. Raises `CorruptContentError` where there are fewer."""
        data = self._read(address, size)
        if len(data) != size:
            raise damaged("what it holds")
        return data

    def inode(self, nid: int = ROOT_NID) -> Found:
        """One inode; without a number, the root."""
        address = nid * SLOT
        if not 0 <= address < 1 << 62:
            raise damaged("a number of an inode")
        inode, xattr_size = decode_inode(self._read(address, 64))
        found = Found(nid, inode, xattr_size)
        if address % BLOCK + found.behind - address > BLOCK:
            raise damaged("an inode")
        return found

    def xattrs(self, found: Found) -> dict[bytes, bytes]:
        """Its extended attributes."""
        return dict(decode_body(self.body(found), lambda at: self._read(at, BLOCK - at % BLOCK)))

    def body(self, found: Found) -> bytes:
        """Its extended attributes as they are in the image."""
        return self.read(found.behind - found.xattr_size, found.xattr_size)

    # --- directories -------------------------------------------------------------------------

    def lookup(self, directory: Found, name: bytes) -> Dirent | None:
        """The entry `name`, found by halves."""
        first, last = 0, -(-directory.inode.size // BLOCK) - 1
        while first < last:
            middle = (first + last + 1) // 2
            if next(decode_block(self.directory_block(directory, middle))).name <= name:
                first = middle
            else:
                last = middle - 1
        for dirent in self._dirents(directory, first):
            if dirent.entry.name == name:
                return dirent
        return None

    def entries(self, directory: Found) -> Iterator[Dirent]:
        """All of its entries."""
        for number in range(-(-directory.inode.size // BLOCK)):
            yield from self._dirents(directory, number)

    def directory_block(self, directory: Found, number: int) -> bytes:
        """One block of its data, the last one as long as it is."""
        if not directory.is_directory:
            raise damaged("a directory")
        start = number * BLOCK
        size = min(BLOCK, directory.inode.size - start)
        return self.read(self._address(directory, start), size)

    def _dirents(self, directory: Found, number: int) -> Iterator[Dirent]:
        if not directory.inode.size:
            return
        address = self._address(directory, number * BLOCK)
        for at, entry in enumerate(decode_block(self.directory_block(directory, number))):
            yield Dirent(address + at * DIRENT.size, entry)

    # --- data --------------------------------------------------------------------------------

    def link(self, found: Found) -> bytes:
        """A symbolic link's target."""
        if not 0 < found.inode.size < BLOCK:
            raise damaged("a link's target")
        return self.read(self._address(found, 0), found.inode.size)

    def spans(self, found: Found) -> list[tuple[int, int]] | None:
        """Where a sparse file has data; None for one without holes."""
        if found.inode.layout is not Layout.CHUNKED:
            return None
        return list(spans_of(self.chunk_map(found), found.inode.place, found.inode.size))

    def data(self, found: Found) -> Iterator[bytes]:
        """A file's data, without its holes."""
        size = found.inode.size
        if found.inode.layout is not Layout.CHUNKED:
            tail = size % BLOCK if found.inode.layout is Layout.INLINE else 0
            yield from self._pieces(found.inode.place * BLOCK, size - tail)
            if tail:
                yield self.read(found.behind, tail)
            return
        for block, length in stored(self.chunk_map(found), found.inode.place, size):
            yield from self._pieces(block * BLOCK, length)

    def _pieces(self, address: int, size: int) -> Iterator[bytes]:
        for at in range(0, size, _READ):
            yield self.read(address + at, min(_READ, size - at))

    def chunk_map(self, found: Found) -> bytes:
        """Of a sparse file."""
        count = -(-found.inode.size // (BLOCK << (found.inode.place & 31)))
        if found.inode.place > 31 or 4 * count > _MOST_MAP:
            raise damaged("a sparse file")
        return self.read(found.behind, 4 * count)

    def _address(self, found: Found, at: int) -> int:
        """Of what is `at`, a multiple of a block, in something that is no sparse file."""
        inode = found.inode
        if inode.layout is Layout.CHUNKED:
            raise damaged("the data of a directory or a link")
        if inode.layout is Layout.INLINE and at + BLOCK > inode.size:
            return found.behind
        return inode.place * BLOCK + at
