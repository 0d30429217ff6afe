"""Sparse files in tar archives: their maps, and writing them with their holes.

GNU tar manual, "Storing Sparse Files": the old GNU format and PAX formats 0.0, 0.1 and 1.0.
Functions raise `ValueError` on what is malformed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from cri_imaged.layers.tar.entry import Entry, Kind
from cri_imaged.layers.tar.fields import decimal, number

PREFIX = b"GNU.sparse."
NAME = PREFIX + b"name"
"""The file's own name, where the entry's tells other readers that it is sparse."""
_MAP = PREFIX + b"map"
_OFFSET = PREFIX + b"offset"
_LENGTH = PREFIX + b"numbytes"


def folded(records: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """PAX records by key, with the repeated keys of format 0.0 as one map of format 0.1."""
    out: dict[bytes, bytes] = {}
    numbers: list[bytes] = []
    for key, value in records:
        if key in (_OFFSET, _LENGTH):
            if (key == _OFFSET) != (len(numbers) % 2 == 0):
                raise ValueError("sparse map out of order")
            numbers.append(value)
        else:
            out[key] = value
    if numbers:
        out[_MAP] = b",".join(numbers)
    return out


class MapReader(Protocol):
    """Reads the rest of an entry's map from the blocks that follow its header."""

    entry: Entry

    def feed(self, block: bytes) -> bool:
        """One more block. True once the map is complete and set in `entry`."""
        ...


def begin(entry: Entry, block: bytes, records: Mapping[bytes, bytes]) -> MapReader | None:
    """Set `entry`'s map and length on disk from its header `block` or its PAX `records`, if it is
    sparse. What reads the rest of the map, if that follows in blocks of its own."""
    if entry.kind is not Kind.FILE:
        return None
    if block[156] == ord("S"):
        entry.length = number(block[483:495])
        spans = _fields(block[386:482])
        if block[482]:
            return _HeaderMap(entry, spans)
        _set(entry, spans)
        return None
    length = records.get(PREFIX + b"realsize") or records.get(PREFIX + b"size")
    if length is None:
        return None
    entry.length = decimal(length)
    major, minor = records.get(PREFIX + b"major", b"0"), records.get(PREFIX + b"minor", b"0")
    if (major, minor) == (b"1", b"0"):
        return _DataMap(entry)
    if major != b"0":
        raise ValueError(f"sparse format {major[:20]!r} is unknown")
    value = records.get(_MAP, b"")
    _set(entry, _paired([_natural(text) for text in value.split(b",")] if value else []))
    return None


class _HeaderMap:
    """Extension blocks of the old GNU format."""

    def __init__(self, entry: Entry, spans: list[tuple[int, int]]) -> None:
        self.entry = entry
        self._spans = spans

    def feed(self, block: bytes) -> bool:
        self._spans += _fields(block[:504])
        if block[504]:
            return False
        _set(self.entry, self._spans)
        return True


class _DataMap:
    """Format 1.0: decimal lines before the data, filled up to whole blocks."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self._body = bytearray()
        self._lines = 0

    def feed(self, block: bytes) -> bool:
        self.entry.size -= len(block)
        if self.entry.size < 0:
            raise ValueError("sparse map goes beyond its entry's data")
        self._body += block
        self._lines += block.count(b"\n")
        first = self._body.find(b"\n", 0, 32)
        wanted = 2 * _natural(bytes(self._body[: max(first, 0)]))
        if self._lines <= wanted:
            return False
        lines = bytes(self._body).split(b"\n", wanted + 1)
        _set(self.entry, _paired([_natural(line) for line in lines[1 : wanted + 1]]))
        return True


def _set(entry: Entry, spans: Sequence[tuple[int, int]]) -> None:
    if entry.length < 0 or any(offset < 0 or count < 0 for offset, count in spans):
        raise ValueError("negative number in a sparse map")
    if any(one[0] + one[1] > two[0] for one, two in pairwise(spans)):
        raise ValueError("sparse map out of order")
    if spans and sum(spans[-1]) > entry.length:
        raise ValueError("sparse map goes beyond its file's end")
    if sum(count for _, count in spans) != entry.size:
        raise ValueError(f"sparse map does not hold the entry's {entry.size} bytes")
    entry.sparse = tuple(spans)


def touched(spans: Iterable[tuple[int, int]], block: int) -> int:
    """Blocks of `block` bytes that hold a part: far more than the parts' bytes, if scattered."""
    count, last = 0, -1
    for offset, length in spans:
        if length:
            first = max(offset // block, last + 1)
            last = (offset + length - 1) // block
            count += last + 1 - first
    return count


class SparseWriter:
    """Writes the data of a sparse file where its map says."""

    def __init__(self, fd: int, spans: Iterable[tuple[int, int]], length: int) -> None:
        os.ftruncate(fd, length)
        self._rest = iter(spans)
        self._at = self._left = 0

    def write(self, fd: int, data: memoryview) -> None:
        """The next bytes of data, into the open file `fd`."""
        while data:
            while not self._left:
                self._at, self._left = next(self._rest)
            written = os.pwrite(fd, data[: self._left], self._at)
            data = data[written:]
            self._at += written
            self._left -= written


def _fields(part: bytes) -> list[tuple[int, int]]:
    spans = []
    for at in range(0, len(part), 24):
        if part[at] == 0:
            break
        spans.append((number(part[at : at + 12]), number(part[at + 12 : at + 24])))
    return spans


def _natural(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise ValueError("malformed sparse map")
    return int(text)


def _paired(numbers: Sequence[int]) -> list[tuple[int, int]]:
    if len(numbers) % 2:
        raise ValueError("sparse map of an odd length")
    return list(zip(numbers[::2], numbers[1::2], strict=True))
