"""What a peer may send in place of an HTTP response, without end."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def _fields() -> Iterator[bytes]:
    for number in itertools.count():
        yield b"".join(b"x%x: y\r\n" % (number << 10 | low) for low in range(1 << 10))


FLOODS: dict[str, tuple[bytes, Iterator[bytes]]] = {
    "100 Continue": (b"", itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 400)),
    "103 Early Hints": (b"", itertools.repeat(b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" * 400)),
    "header fields": (b"HTTP/1.1 200 OK\r\n", _fields()),
    "one header field": (b"HTTP/1.1 200 OK\r\nX: ", itertools.repeat(b"x" * 10_000)),
    "a status line": (b"HTTP/1.1 200 ", itertools.repeat(b"O" * 10_000)),
    "empty lines": (b"", itertools.repeat(b"\r\n" * 5_000)),
    "a chunk's extension": (CHUNKED + b"1;", itertools.repeat(b"x" * 10_000)),
    "a chunk's size": (CHUNKED, itertools.repeat(b"0" * 10_000)),
    "trailers": (CHUNKED + b"1\r\n{\r\n0\r\n", _fields()),
    "chunks of one byte": (CHUNKED, itertools.repeat(b"1\r\n \r\n" * 2_000)),
}
"""What comes first, and what is repeated."""
