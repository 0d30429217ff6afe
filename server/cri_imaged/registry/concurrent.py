"""One large blob over several requests at a time, delivered in order.

What comes before its turn is kept in files, as all is that peers send however slowly.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import BinaryIO

from cri_imaged import spool
from cri_imaged.disk import on_disk
from cri_imaged.registry.blob import BlobRequest
from cri_imaged.registry.patience import Patience
from cri_imaged.registry.session import Chunks
from cri_imaged.registry.stream import ContentStream
from cri_imaged.spool import Spools

_READ_BYTES = 512 << 10


class ConcurrentStream:
    """Implements `ports.ByteStream`. The first chunk passes through while later ones arrive."""

    def __init__(
        self,
        request: BlobRequest,
        offset: int,
        patience: Patience,
        chunks: Chunks,
        spools: Spools,
    ) -> None:
        self._spools = spools
        self._request = request
        self._patience = patience
        self._chunks = chunks
        self._next = offset + chunks.size
        self.first = ContentStream(request, offset, patience, self._next)
        self._streams = [self.first]
        self._ahead: deque[asyncio.Task[BinaryIO]] = deque()
        self._delivered: BinaryIO | None = None

    def discredit(self) -> None:
        """See `ports.ByteStream.discredit`."""
        for stream in self._streams:
            stream.discredit()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._advance()
        async for chunk in self._streams[0]:
            yield chunk
        while self._ahead:
            whole = self._delivered = await self._ahead.popleft()
            self._advance()
            await on_disk(partial(whole.seek, 0))
            while piece := await on_disk(partial(whole.read, _READ_BYTES)):
                yield piece
            await spool.close(whole)

    def _advance(self) -> None:
        size = self._request.descriptor.size
        while self._next < size and len(self._ahead) < self._chunks.requests - 1:
            end = min(self._next + self._chunks.size, size)
            stream = ContentStream(self._request, self._next, self._patience, end)
            self._streams.append(stream)
            self._ahead.append(asyncio.create_task(_whole(stream, self._spools)))
            self._next = end

    async def aclose(self) -> None:
        """Stop what is under way."""
        for task in self._ahead:
            task.cancel()
        ended = await asyncio.gather(*self._ahead, return_exceptions=True)
        self._streams[0].close()
        for each in (self._delivered, *ended):
            if each is not None and not isinstance(each, BaseException):
                await spool.close(each)


@asynccontextmanager
async def concurrent_stream(
    request: BlobRequest, offset: int, patience: Patience, chunks: Chunks, spools: Spools
) -> AsyncIterator[ConcurrentStream | ContentStream]:
    """The content from `offset`: chunk by chunk where the host answers ranges, else by the one
    request that was made."""
    stream = ConcurrentStream(request, offset, patience, chunks, spools)
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


async def _whole(stream: ContentStream, spools: Spools) -> BinaryIO:
    held = spools.new()
    try:
        await stream.open()
        await spool.save(stream, held)
    except BaseException:
        await spool.close(held)
        raise
    finally:
        stream.close()
    return held
