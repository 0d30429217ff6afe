"""Fetching a blob into the content store: one flight for each digest (and size claimed)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from cri_imaged.errors import CorruptContentError, RegistryError, SourceFailedError
from cri_imaged.images.flights import Flight
from cri_imaged.metadata import leases
from cri_imaged.metadata.database import Database
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import ByteStream, ContentStore, Fetcher, Ingest, LayerSource


class _Bytes(Protocol):
    """A blob's bytes, growing or whole."""

    @property
    def offset(self) -> int: ...

    def source(self) -> LayerSource: ...


@dataclass(frozen=True, slots=True)
class _Whole:
    """A blob that is in the content store already."""

    offset: int
    content: ContentStore
    digest: Digest

    def source(self) -> LayerSource:
        return self.content.source(self.digest)


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
        self._opened: asyncio.Future[_Bytes] = asyncio.get_running_loop().create_future()
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
            if done.cancelled():
                raise SourceFailedError(f"blob {self._descriptor.digest}: the fetch was given up")
            if done.done():
                done.result()
        return self._opened.result().source()

    async def work(self) -> None:
        """See `Flight.work`."""
        await self._database.write(lambda db: leases.insert(db, self._lease))
        async with self._content.writer(self._descriptor, self._lease) as ingest:
            if await self._is_here():
                self.land()
                return
            self._open(ingest)
            await self.attempt(lambda fetcher: self._fetch(ingest, fetcher))

    async def _is_here(self) -> bool:
        """Whether the blob came since the pull that began this flight looked for it."""
        wanted = self._descriptor
        held = await self._content.hold(wanted.digest, self._lease)
        if held is None or held.state != "present":
            return False
        if held.size != wanted.size:
            raise CorruptContentError(
                f"blob {wanted.digest} has {held.size} bytes, its descriptor says {wanted.size}"
            )
        self._open(_Whole(held.size, self._content, wanted.digest))
        return True

    def _open(self, opened: _Bytes) -> None:
        if self._opened.done():
            self._opened = asyncio.get_running_loop().create_future()
        self._opened.set_result(opened)

    async def release(self) -> None:
        """See `Flight.release`. Where no pull made the blob known, it waits to be resumed."""
        await self._database.write(
            lambda db: leases.end(db, self._lease, keep_for_resume=not self.known),
            makes_room=True,
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
