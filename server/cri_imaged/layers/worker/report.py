"""What a layer leaves to its seal, in a file: it may be megabytes, for each of an image's layers,
and waits until the layers below are there.

A file has the fields of `Sealable` one after another; of each its records, of each of these its
length and its bytes. Small reports are held in memory.
"""

from __future__ import annotations

import _thread
import io
import os
import struct
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar, overload

import msgspec

from cri_imaged.layers.sinks.sink import Sealable
from cri_imaged.ports import Device, Late

T = TypeVar("T")
_LENGTH = struct.Struct("<I")
_RECORD_BYTES = 2 << 20
"""Of one record at the most: it is a path or two, or what one PAX header says."""
_BUFFER = 64 << 10
IN_MEMORY_BYTES = 4 << 10
"""Reports up to this size are not left in their file."""


class Extent(NamedTuple):
    """Where a field's records are."""

    records: int
    size: int
    """Bytes."""


def _encode_link(link: tuple[bytes, bytes]) -> bytes:
    return b"\0".join(link)  # which no path has


def _decode_link(record: bytes) -> tuple[bytes, bytes]:
    name, _, target = record.partition(b"\0")
    return name, target


_CODECS: tuple[tuple[Callable[[Any], bytes], Callable[[bytes], Any]], ...] = (
    (bytes, bytes),
    (bytes, bytes),
    (bytes, bytes),
    (_encode_link, _decode_link),
    (msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(Device).decode),
    (msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(Late).decode),
)
"""Of the fields of `Sealable`."""


def write(file: int, sealable: Sealable) -> tuple[Extent, ...]:
    """Write down `sealable`, in pieces: where memory is short, this must not take more."""
    extents = []
    with open(file, "wb", buffering=_BUFFER, closefd=False) as out:
        for field, (encode, _) in zip(sealable, _CODECS, strict=True):
            size = count = 0
            for item in field:
                count += 1
                record = encode(item)
                out.write(_LENGTH.pack(len(record)))
                out.write(record)
                size += _LENGTH.size + len(record)
            extents.append(Extent(count, size))
    return tuple(extents)


def read(file: int, extents: Sequence[Extent]) -> Sealable:
    """What a file has, which is read whenever it is looked at, and closed with the result; or at
    once, where it is small.

    Raises:
        ValueError: it is not what `write` makes.
    """
    holder = _Holder(file)
    start = 0
    fields: list[Sequence[Any]] = []
    for extent, (_, decode) in zip(extents, _CODECS, strict=True):
        fields.append(_Records(holder, start, extent, decode))
        start += extent.size
    if start <= IN_MEMORY_BYTES:
        fields = [tuple(field) for field in fields]
    return Sealable(*fields)


class _Holder:
    """Keeps a descriptor open for as long as it is used."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        # Not here: it may be the removal of a large file, from a disk that stands still.
        weakref.finalize(self, _thread.start_new_thread, os.close, (fd,)).atexit = False


class _Records(Sequence[T], Generic[T]):
    """One field, read anew each time."""

    def __init__(
        self, holder: _Holder, start: int, extent: Extent, decode: Callable[[bytes], T]
    ) -> None:
        self._holder = holder
        self._start = start
        self._extent = extent
        self._decode = decode

    def __len__(self) -> int:
        return self._extent.records

    def __iter__(self) -> Iterator[T]:
        window = io.BufferedReader(_Window(self._holder, self._start, self._extent.size), _BUFFER)
        for _ in range(self._extent.records):
            head = window.read(_LENGTH.size)
            if len(head) < _LENGTH.size or (length := _LENGTH.unpack(head)[0]) > _RECORD_BYTES:
                raise ValueError("not a report")
            record = window.read(length)
            if len(record) < length:
                raise ValueError("not a report")
            yield self._decode(record)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        return tuple(self)[index]


class _Window(io.RawIOBase):
    """Part of a file, from its start to its end."""

    def __init__(self, holder: _Holder, start: int, size: int) -> None:
        self._holder = holder
        self._at, self._end = start, start + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: self._end - self._at]
        got = os.preadv(self._holder.fd, [view], self._at)
        self._at += got
        return got
