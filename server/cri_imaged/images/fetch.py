"""Fetching a blob into the content store: one flight for each digest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from cri_imaged.errors import CorruptContentError, RegistryError
from cri_imaged.images.flights import Flight
from cri_imaged.metadata import leases
from cri_imaged.metadata.database import Database
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.ports import ByteStream, ContentStore, Fetcher, Ingest, LayerSource


class BlobFlight(Flight[Fetcher]):
    """Brings one blob in, by the fetcher of one waiter at a time, each from the offset reached."""

    def __init__(
        self,
        descriptor: Descriptor,
        content: ContentStore,
        database: Database,
        count: Callable[[int], None],
        tries: int,
    ) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._content = content
        self._database = database
        self._count = count
        self._tries = tries
        self._lease = leases.new()
        self._opened: asyncio.Future[Ingest] = asyncio.get_running_loop().create_future()
        self.received = 0
        """Bytes that came over the network."""

    @property
    def offset(self) -> int:
        """Bytes of the blob that are here."""
        return self._opened.result().offset if self._opened.done() else 0

    async def source(self, done: asyncio.Future[None]) -> LayerSource:
        """The blob's bytes as they arrive. `done` is the waiter's future: where the flight fails
        before anything arrives, its error is raised."""
        while not self._opened.done():
            either: set[asyncio.Future[Any]] = {self._opened, done}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if done.done():
                done.result()
        return self._opened.result().source()

    async def work(self) -> None:
        """See `Flight.work`."""
        await self._database.write(lambda db: leases.insert(db, self._lease))
        async with self._content.writer(self._descriptor, self._lease) as ingest:
            if self._opened.done():
                self._opened = asyncio.get_running_loop().create_future()
            self._opened.set_result(ingest)
            await self.attempt(lambda fetcher: self._fetch(ingest, fetcher))

    async def release(self) -> None:
        """See `Flight.release`. Where no pull made the blob known, it waits to be resumed."""
        await self._database.write(
            lambda db: leases.end(db, self._lease, keep_for_resume=not self.known)
        )

    async def _fetch(self, ingest: Ingest, fetcher: Fetcher) -> None:
        """Fetch the rest. Bytes that prove wrong are fetched anew from other hosts; bytes kept
        from an earlier try are no host's fault and only cost a restart."""
        mismatch: CorruptContentError | None = None
        for _ in range(self._tries):
            kept = ingest.offset > 0
            stream: ByteStream | None = None
            try:
                if ingest.offset < self._descriptor.size:
                    async with fetcher.fetch(self._descriptor, ingest.offset) as stream:
                        async for chunk in stream:
                            ingest.write(chunk)
                            self.received += len(chunk)
                            self._count(len(chunk))
                await ingest.commit()
            except CorruptContentError as error:
                mismatch = error
                ingest.restart()
                if stream is not None and not kept:
                    stream.discredit()
            except RegistryError:
                if mismatch is None:
                    raise
                break
            else:
                return
        if mismatch is not None:
            raise mismatch
