"""A directory's data: blocks of names in their order, each with a number and a type."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from cri_imaged.erofs.format import BLOCK, DIRECTORY, DIRENT, Entry, encode_block

PARENT = struct.Struct("<Q")
NAME_BYTES = 255
_TYPE_BITS = 3


def value(nid: int, kind: int) -> int:
    """What a name stands for, as one number."""
    return nid << _TYPE_BITS | kind


def nid_of(packed: int) -> int:
    """The inode's number in a `value`."""
    return packed >> _TYPE_BITS


def type_of(packed: int) -> int:
    """The type in a `value`."""
    return packed & (1 << _TYPE_BITS) - 1


class Directory:
    """A directory while it is written."""

    def __init__(self, names: Mapping[bytes, int]) -> None:
        """`names` and their values, without the two that every directory has."""
        self.nid = 0
        self.parent_at = 0
        """The address of its parent's number."""
        if b"." in names or b".." in names:
            raise ValueError("not a name")
        self._names = names
        self._parent = -1
        self._blocks: list[list[bytes]] = list(packed(sorted([*names, b".", b".."])))
        self.links = 2 + sum(type_of(each) == DIRECTORY for each in names.values())
        last = self._blocks[-1]
        self.size = BLOCK * (len(self._blocks) - 1) + _size(last)

    def blocks(self) -> Iterator[tuple[bytes, bool]]:
        """Each block, as long as its entries, and whether it is the last. `nid` is known."""
        for number, names in enumerate(self._blocks, start=1):
            self._parent = names.index(b"..") if b".." in names else -1
            yield encode_block([self._entry(name) for name in names]), number == len(self._blocks)

    def place(self, address: int) -> None:
        """Where the block goes that `blocks` gave last."""
        if self._parent >= 0:
            self.parent_at = address + DIRENT.size * self._parent

    def _entry(self, name: bytes) -> Entry:
        if name in (b".", b".."):
            return Entry(name, self.nid, DIRECTORY)
        packed = self._names[name]
        return Entry(name, nid_of(packed), type_of(packed))


def packed(names: list[bytes]) -> Iterator[list[bytes]]:
    """Sorted names, as many in each list as a block holds.

    Raises:
        ValueError: a name that no directory can have.
    """
    begin = size = 0
    for at, name in enumerate(names):
        if not 0 < len(name) <= NAME_BYTES or b"/" in name or b"\0" in name:
            raise ValueError("not a name")
        need = DIRENT.size + len(name)
        if size + need > BLOCK:
            yield names[begin:at]
            begin, size = at, 0
        size += need
    yield names[begin:]


def _size(names: list[bytes]) -> int:
    return sum(map(len, names)) + DIRENT.size * len(names)
