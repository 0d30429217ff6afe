"""The head of a response: status line and fields (RFC 9112), read as leniently as other clients do
where nothing depends on it (pure)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from multidict import CIMultiDict, CIMultiDictProxy

from cri_imaged.registry.http.errors import MalformedError

_STATUS = re.compile(rb"HTTP/1\.([01])[ \t]+([1-9][0-9]{2})(?:[ \t].*)?")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_READ = frozenset(
    {
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "docker-content-digest",
        "link",
        "location",
        "ratelimit-limit",
        "ratelimit-remaining",
        "retry-after",
        "www-authenticate",
    }
)
"""Fields that somebody reads while the response is open."""
_READ_BYTES = 64 << 10
"""Of their values."""
END = re.compile(rb"\n\r?\n")
"""Between a head and what follows it."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a response says of itself."""

    status: int
    headers: CIMultiDictProxy[str]
    """Values as UTF-8; other bytes as surrogates."""
    keep_alive: bool
    """Whether the peer means to answer further requests on the connection."""

    @property
    def interim(self) -> bool:
        """Whether the real response is still to come."""
        return 100 <= self.status < 200 and self.status != 101

    def reduced(self) -> Head:
        """With only those fields that are read, which are held while the body arrives. Raises
        `MalformedError` where these are too large."""
        read = [(name, value) for name, value in self.headers.items() if name.lower() in _READ]
        if sum(len(value) for _, value in read) > _READ_BYTES:
            raise MalformedError("its headers are too large")
        return replace(self, headers=CIMultiDictProxy(CIMultiDict(read)))


def parse_head(block: bytes, most_fields: int) -> Head:
    """Parse a head without the empty line at its end. Raises `MalformedError`."""
    first, *lines = block.split(b"\n", most_fields + 1)
    found = _STATUS.fullmatch(first.removesuffix(b"\r"))
    if found is None:
        raise MalformedError("the answer does not begin as HTTP does")
    if len(lines) > most_fields:
        raise MalformedError(f"more than {most_fields} header fields")
    headers = _fields(lines)
    tokens = {
        token.strip().lower()
        for value in headers.getall("Connection", ())
        for token in value.split(",")
    }
    keep_alive = "close" not in tokens if found[1] == b"1" else "keep-alive" in tokens
    return Head(int(found[2]), CIMultiDictProxy(headers), keep_alive)


def _fields(lines: list[bytes]) -> CIMultiDict[str]:
    unfolded: list[tuple[bytes, bytes]] = []
    for line in lines:
        line = line.removesuffix(b"\r")
        if line[:1] in (b" ", b"\t") and unfolded:
            name, value = unfolded[-1]
            unfolded[-1] = name, value + b" " + line.strip(b" \t")
            continue
        name, colon, value = line.partition(b":")
        if not colon:
            raise MalformedError("a header field is malformed")
        unfolded.append((name.rstrip(b" \t"), value.strip(b" \t")))
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in unfolded:
        if b"\r" in value or b"\0" in value:
            raise MalformedError("a header field is malformed")
        # What no field can be called is nothing that anybody reads.
        if _NAME.fullmatch(name):
            headers.add(name.decode(), value.decode("utf-8", "surrogateescape"))
    return headers
