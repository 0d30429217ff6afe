"""Sparse files as chunks: those that hold data are written whole, the others are holes."""

from __future__ import annotations

import array
import sys
from collections.abc import Iterable, Iterator, Sequence

from cri_imaged.erofs.blocks import Blocks
from cri_imaged.erofs.format import BLOCK, CHUNK_BITS, HOLE

Spans = Sequence[tuple[int, int]]
"""(offset, length) of the parts of a file that are data, ascending."""

_MOST_CHUNKS = 1 << 20
"""Of one file: its map is read and written in memory."""
_ENTRY = 4


def chunk_bits(spans: Spans, length: int) -> tuple[int, int]:
    """The size of chunk with which a file takes least, as `Inode.place`, and how many bytes that
    is.

    Raises:
        ValueError: the format cannot hold it.
    """
    best: tuple[int, int] | None = None
    for bits in CHUNK_BITS:
        count = -(-length // (BLOCK << bits))
        if count > _MOST_CHUNKS:
            continue
        map_bytes = _ENTRY * count
        size = map_bytes + (BLOCK << bits) * _touched(spans, BLOCK << bits)
        if best is None or size < best[1]:
            best = bits, size
        if map_bytes <= BLOCK:  # larger chunks cannot take less
            break
    if best is None:
        raise ValueError("a sparse file of more bytes than an image can hold")
    return best


def _touched(spans: Spans, size: int) -> int:
    count, last = 0, -1
    for offset, length in spans:
        if length:
            first = max(offset // size, last + 1)
            last = max(last, (offset + length - 1) // size)
            count += max(last + 1 - first, 0)
    return count


class ChunkWriter:
    """Writes the data of one sparse file at the end of an image."""

    def __init__(self, blocks: Blocks, spans: Spans, length: int, bits: int) -> None:
        """`spans` may be empty, `length` may not be 0; `bits`: see `chunk_bits`."""
        self._blocks = blocks
        self._size = BLOCK << bits
        self._length = length
        self._map = array.array("I", [HOLE]) * -(-length // self._size)
        self._rest: Iterator[tuple[int, int]] = iter(spans)
        self._at = self._left = 0
        self._chunk = -1
        self._filled = 0
        """How far that chunk is written."""

    def write(self, data: memoryview) -> None:
        """The next bytes of the data."""
        while data:
            while not self._left:
                self._at, self._left = next(self._rest)
            chunk, start = divmod(self._at, self._size)
            if chunk != self._chunk:
                self._complete()
                self._chunk, self._filled = chunk, 0
                self._map[chunk] = self._blocks.end // BLOCK
            self._fill(start)
            part = data[: min(self._left, self._size - start)]
            self._blocks.append(part)
            self._filled += len(part)
            self._at += len(part)
            self._left -= len(part)
            data = data[len(part) :]

    def finish(self) -> bytes:
        """The map of the file's chunks."""
        self._complete()
        if sys.byteorder == "big":
            self._map.byteswap()
        return self._map.tobytes()

    def _complete(self) -> None:
        """Of the last chunk, no more than the file has."""
        if self._chunk >= 0:
            end = min(self._size, self._length - self._chunk * self._size)
            self._fill(-(-end // BLOCK) * BLOCK)

    def _fill(self, to: int) -> None:
        self._blocks.skip(to - self._filled)
        self._filled = to


def spans_of(chunk_map: bytes, bits: int, length: int) -> Iterable[tuple[int, int]]:
    """The spans that a map tells of, neighbours joined."""
    size = BLOCK << bits
    begin = end = 0
    for number, block in enumerate(_entries(chunk_map)):
        if block == HOLE:
            continue
        start = number * size
        if start != end:
            if end > begin:
                yield begin, end - begin
            begin = start
        end = min(start + size, length)
    if end > begin:
        yield begin, end - begin


def stored(chunk_map: bytes, bits: int, length: int) -> Iterator[tuple[int, int]]:
    """(first block, bytes) of each chunk that a map tells of, without the holes."""
    size = BLOCK << bits
    for number, block in enumerate(_entries(chunk_map)):
        if block != HOLE:
            yield block, min(size, length - number * size)


def _entries(chunk_map: bytes) -> Iterable[int]:
    entries = array.array("I", chunk_map)
    if sys.byteorder == "big":
        entries.byteswap()
    return entries
