"""A directory's data: blocks of names in their order, each with a number and a type."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping

from cri_imaged.erofs.format import BLOCK, DIRECTORY, DIRENT, encode_block

PARENT = struct.Struct("<Q")
NAME_BYTES = 255
_TYPE_BITS = 3
_TYPE_MASK = (1 << _TYPE_BITS) - 1


def value(nid: int, kind: int) -> int:
    """What a name stands for, as one number."""
    return nid << _TYPE_BITS | kind


def nid_of(packed: int) -> int:
    """The inode's number in a `value`."""
    return packed >> _TYPE_BITS


def type_of(packed: int) -> int:
    """The type in a `value`."""
    return packed & _TYPE_MASK


def kinds_of(values: Iterable[int]) -> list[int]:
    """As `type_of`, for each."""
    return [packed & _TYPE_MASK for packed in values]


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
        self._blocks = list(packed(sorted([*names, b".", b".."])))
        self.links = 2 + kinds_of(names.values()).count(DIRECTORY)
        last = self._blocks[-1]
        self.size = BLOCK * (len(self._blocks) - 1) + _size(last)

    def blocks(self) -> Iterator[tuple[bytes, bool]]:
        """Each block, as long as its entries, and whether it is the last. `nid` is known."""
        own = value(self.nid, DIRECTORY)
        for number, names in enumerate(self._blocks, start=1):
            self._parent = names.index(b"..") if b".." in names else -1
            found = [self._names.get(name, own) for name in names]
            nids = [each >> _TYPE_BITS for each in found]
            yield encode_block(names, nids, kinds_of(found)), number == len(self._blocks)

    def place(self, address: int) -> None:
        """Where the block goes that `blocks` gave last."""
        if self._parent >= 0:
            self.parent_at = address + DIRENT.size * self._parent


def packed(names: list[bytes]) -> Iterator[list[bytes]]:
    """Sorted names, as many in each list as a block holds.

    Raises:
        ValueError: a name that no directory can have.
    """
    begin, room = 0, BLOCK
    for at, size in enumerate(map(len, names)):
        room -= DIRENT.size + size
        if room < 0:
            yield _checked(names[begin:at])
            begin, room = at, BLOCK - DIRENT.size - size
    yield _checked(names[begin:])


def _checked(names: list[bytes]) -> list[bytes]:
    every = b"".join(names)
    if b"" in names or max(map(len, names), default=BLOCK) > NAME_BYTES:
        raise ValueError("not a name")
    if b"/" in every or b"\0" in every:
        raise ValueError("not a name")
    return names


def _size(names: list[bytes]) -> int:
    return sum(map(len, names)) + DIRENT.size * len(names)
