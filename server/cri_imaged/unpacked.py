"""Files in gzip or zstd, or as they are, told apart by their first bytes."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from typing import IO, Protocol

PIECE = 1 << 20
"""Bytes of a piece, at most."""
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class DamagedError(Exception):
    """What is packed is cut off, or damaged."""


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def unpacked(file: io.BufferedReader) -> Iterator[bytes]:
    """What is in `file`, in pieces.

    Raises:
        OSError: it cannot be read.
        DamagedError
    """
    head = file.peek(len(_ZSTD))
    try:
        if head.startswith(_GZIP):
            yield from _pieces(gzip.GzipFile(fileobj=file))
        elif head.startswith(_ZSTD):
            yield from _zstd(file)
        else:
            yield from _pieces(file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DamagedError(str(error)) from None


def _pieces(file: _Readable) -> Iterator[bytes]:
    while piece := file.read(PIECE):
        yield piece


def _zstd(file: IO[bytes]) -> Iterator[bytes]:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    try:
        with zstd.ZstdFile(file) as content:
            yield from _pieces(content)
    except zstd.ZstdError as error:
        raise DamagedError(str(error)) from None
