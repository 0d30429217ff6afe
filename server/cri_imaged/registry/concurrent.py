"""One large blob over several requests at a time, delivered in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

from cri_imaged.registry.stream import ContentStream

Part: TypeAlias = Callable[[int, int | None], ContentStream]
"""Makes the stream from an offset up to an end, None: the content's."""


@dataclass(frozen=True, slots=True)
class Chunks:
    """How a large blob is fetched."""

    size: int
    """Bytes of one request; 0: one request for all."""
    requests: int
    """At the same time, each buffered in memory."""


class ConcurrentStream:
    """Implements `ports.ByteStream`. The first chunk passes through while later ones arrive."""

    def __init__(
        self, first: ContentStream, part: Part, start: int, size: int, chunks: Chunks
    ) -> None:
        """`start` is where the second chunk begins, `size` where the last one ends."""
        self._streams = [first]
        self._part = part
        self._next = start
        self._size = size
        self._chunks = chunks
        self._ahead: deque[asyncio.Task[bytearray]] = deque()

    def discredit(self) -> None:
        """See `ports.ByteStream.discredit`."""
        for stream in self._streams:
            stream.discredit()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._advance()
        async for chunk in self._streams[0]:
            yield chunk
        while self._ahead:
            whole = await self._ahead.popleft()
            self._advance()
            yield bytes(whole)

    def _advance(self) -> None:
        while self._next < self._size and len(self._ahead) < self._chunks.requests - 1:
            end = min(self._next + self._chunks.size, self._size)
            stream = self._part(self._next, end)
            self._streams.append(stream)
            self._ahead.append(asyncio.create_task(_whole(stream)))
            self._next = end

    async def aclose(self) -> None:
        """Stop what is under way."""
        for task in self._ahead:
            task.cancel()
        await asyncio.gather(*self._ahead, return_exceptions=True)
        self._streams[0].close()


@asynccontextmanager
async def concurrent_stream(
    part: Part, offset: int, size: int, chunks: Chunks
) -> AsyncIterator[ConcurrentStream | ContentStream]:
    """The content from `offset`: chunk by chunk where the host answers ranges, else by the one
    request that was made."""
    first = part(offset, offset + chunks.size)
    stream = ConcurrentStream(first, part, offset + chunks.size, size, chunks)
    try:
        await first.open()
        if not first.ranged:
            first.extend()
            yield first
        else:
            yield stream
    finally:
        await stream.aclose()


async def _whole(stream: ContentStream) -> bytearray:
    held = bytearray()
    try:
        await stream.open()
        async for chunk in stream:
            held += chunk
    finally:
        stream.close()
    return held
