"""Bodies that a proxy in the way compressed, though nobody asked for it, and says so."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable

from cri_imaged.registry.http.errors import EndedError, MalformedError

_MAGIC = b"\x1f\x8b"
CODINGS = frozenset({"gzip", "x-gzip", "deflate"})
_DEFLATE = "deflate"
_MOST = 256 << 10
"""Bytes that one call gives, whatever went in."""


_FREE_MEMBERS = 1000
_LEAST_MEMBER = 64
"""Bytes of a member's content on average, beyond so many free ones: what is smaller costs more to
decompress than it brings."""


class Decompressed:
    """What `read` gives, decompressed. What says to be gzip and does not begin as gzip does is
    passed through. Deflate is either of what servers send under that name (RFC 9110, 8.4.1.2): in
    zlib's format, or bare."""

    def __init__(self, read: Callable[[], Awaitable[bytes]], coding: str) -> None:
        """`coding` is one of `CODINGS`."""
        self._read = read
        self._deflate = coding == _DEFLATE
        self._format = 16 + zlib.MAX_WBITS
        self._held = b""
        self._inflater: zlib._Decompress | None = None
        self._begun = False
        self._plain = False
        self._over = False
        """Whether nothing that follows counts."""
        self._members = 0
        self._bytes = 0

    async def read(self) -> bytes:
        """Some bytes; none at the end. Raises what the source does, and `MalformedError`."""
        while not self._over:
            if not self._held:
                self._held = await self._read()
                if not self._held:
                    self._end()
                    return b""
            if not self._begun and not await self._begin():
                continue
            if self._plain:
                data, self._held = self._held, b""
                return data
            data = self._inflate()
            if self._held:
                # Much may come of little, or little of much: others have their turn in between.
                await asyncio.sleep(0)
            if data:
                return data
        return b""

    async def _begin(self) -> bool:
        """Look at the first two bytes."""
        if len(self._held) < len(_MAGIC):
            more = await self._read()
            self._held += more
            if more and len(self._held) < len(_MAGIC):
                return False
        self._begun = True
        if self._deflate:
            is_zlib = self._held[0] & 15 == 8 and not int.from_bytes(self._held[:2]) % 31
            self._format = zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS
        else:
            self._plain = not self._held.startswith(_MAGIC)
        return True

    def _inflate(self) -> bytes:
        if self._inflater is None:
            self._inflater = zlib.decompressobj(self._format)
        try:
            data = self._inflater.decompress(self._held, _MOST)
        except zlib.error:
            raise MalformedError("its content coding is damaged") from None
        self._held = self._inflater.unconsumed_tail
        self._bytes += len(data)
        if self._inflater.eof:
            self._members += 1
            if self._bytes < (self._members - _FREE_MEMBERS) * _LEAST_MEMBER:
                raise MalformedError("the parts of its gzip coding are too small")
            rest = self._inflater.unused_data
            # Another member, or padding.
            another = not self._deflate and rest.startswith(_MAGIC[: len(rest)])
            self._held = rest if another else b""
            self._inflater = None
            self._over = self._deflate
        return data

    def _end(self) -> None:
        if self._inflater is not None:
            raise EndedError
