"""Where a body ends: by its length, by its chunks, or with the connection (RFC 9112, section 6).

Without I/O, and pure but for the place reached: `feed` takes what arrived and tells what of it is
body and what was not looked at yet. One call does a bounded amount of work, whatever the peer sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol

from multidict import CIMultiDictProxy

from cri_imaged.registry.http.errors import EndedError, MalformedError

_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")
_LINE_BYTES = 8 << 10
"""Of a chunk's size with its extensions."""
_TRAILER_BYTES = 64 << 10
_LINES_AT_ONCE = 2000
"""Lines between chunks that one call looks at: one to two milliseconds."""
_LENGTH_DIGITS = 18
_FREE_CHUNKS = 10_000
_LEAST_CHUNK = 64
"""Bytes of a chunk on average, beyond so many free ones: what is smaller costs more to look at
than it brings."""


class Framing(Protocol):
    """A body of some kind, up to the place reached."""

    done: bool
    """Whether all of it was fed."""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Body and rest. A rest before the body is done is to be fed again. Raises
        `MalformedError`."""
        ...

    def end(self) -> None:
        """The connection ended. Raises `EndedError` where the body had not."""
        ...


class Sized:
    """A body of known length."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """See `Framing`."""
        body, rest = data, b""
        if len(data) > self._left:
            body, rest = data[: self._left], data[self._left :]
        self._left -= len(body)
        self.done = self._left == 0
        return body, rest

    def end(self) -> None:
        """See `Framing`."""
        if not self.done:
            raise EndedError


class UntilClose:
    """A body that ends with the connection."""

    done = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """See `Framing`."""
        return data, b""

    def end(self) -> None:
        """See `Framing`."""
        self.done = True


class Chunked:
    """A body in chunks. Extensions and trailers are passed over."""

    def __init__(self) -> None:
        self.done = False
        self._left = 0
        """Of the chunk that was begun."""
        self._line = bytearray()
        self._read_line = self._read_size
        self._trailers = 0
        self._chunks = 0
        self._bytes = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """See `Framing`."""
        pieces: list[bytes] = []
        at = lines = 0
        while at < len(data) and not self.done and lines < _LINES_AT_ONCE:
            if self._left:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                continue
            end = data.find(b"\n", at, at + _LINE_BYTES) + 1
            stop = end or min(len(data), at + _LINE_BYTES)
            self._line += data[at:stop]
            at = stop
            if len(self._line) > _LINE_BYTES:
                raise MalformedError("a chunk's size or a trailer is too long")
            if end:
                line = bytes(self._line).rstrip(b"\r\n")
                self._line.clear()
                lines += 1
                self._read_line(line)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), data[at:]

    def end(self) -> None:
        """See `Framing`."""
        if not self.done:
            raise EndedError

    def _read_size(self, line: bytes) -> None:
        found = _CHUNK.fullmatch(line.strip(b" \t"))
        if found is None:
            raise MalformedError("a chunk's size is malformed")
        self._left = int(found[1], 16)
        self._chunks += 1
        self._bytes += self._left
        if self._bytes < (self._chunks - _FREE_CHUNKS) * _LEAST_CHUNK:
            raise MalformedError("its chunks are too small")
        self._read_line = self._read_chunk_end if self._left else self._read_trailer

    def _read_chunk_end(self, line: bytes) -> None:
        if line:
            raise MalformedError("a chunk is longer than its size")
        self._read_line = self._read_size

    def _read_trailer(self, line: bytes) -> None:
        self._trailers += len(line)
        if self._trailers > _TRAILER_BYTES:
            raise MalformedError("the trailers are too long")
        self.done = not line


def frame(method: str, status: int, headers: CIMultiDictProxy[str]) -> tuple[Framing, bool]:
    """How a response's body is framed, and whether its end is certain enough for the connection to
    be used again. Raises `MalformedError`."""
    if method == "HEAD" or status in (204, 304):
        return Sized(0), True
    codings = _tokens(headers.getall("Transfer-Encoding", ()))
    lengths = set(_tokens(headers.getall("Content-Length", ())))
    if codings == ["chunked"]:
        # A length beside it may be another hop's view of where the body ends.
        return Chunked(), not lengths
    if codings not in ([], ["identity"]):
        raise MalformedError("the transfer coding is not known")
    if not lengths:
        return UntilClose(), False
    length = lengths.pop()
    if lengths or not (length.isascii() and length.isdigit()) or len(length) > _LENGTH_DIGITS:
        raise MalformedError("the Content-Length is malformed")
    return Sized(int(length)), True


def _tokens(values: Iterable[str]) -> list[str]:
    return [
        token for value in values for part in value.split(",") if (token := part.strip().lower())
    ]
