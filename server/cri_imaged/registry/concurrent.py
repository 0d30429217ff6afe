"""One large blob over several requests at a time, delivered in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cri_imaged.registry.blob import BlobRequest
from cri_imaged.registry.patience import Patience
from cri_imaged.registry.session import Chunks
from cri_imaged.registry.stream import ContentStream


class ConcurrentStream:
    """Implements `ports.ByteStream`. The first chunk passes through while later ones arrive."""

    def __init__(
        self, request: BlobRequest, offset: int, patience: Patience, chunks: Chunks
    ) -> None:
        self._request = request
        self._patience = patience
        self._chunks = chunks
        self._next = offset + chunks.size
        self.first = ContentStream(request, offset, patience, self._next)
        self._streams = [self.first]
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
        size = self._request.descriptor.size
        while self._next < size and len(self._ahead) < self._chunks.requests - 1:
            end = min(self._next + self._chunks.size, size)
            stream = ContentStream(self._request, self._next, self._patience, end)
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
    request: BlobRequest, offset: int, patience: Patience, chunks: Chunks
) -> AsyncIterator[ConcurrentStream | ContentStream]:
    """The content from `offset`: chunk by chunk where the host answers ranges, else by the one
    request that was made."""
    stream = ConcurrentStream(request, offset, patience, chunks)
    first = stream.first
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
