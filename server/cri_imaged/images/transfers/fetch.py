"""Fetching a blob into the content store: one flight for each digest (and size claimed)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from cri_imaged.errors import CorruptContentError, RegistryError, SourceFailedError
from cri_imaged.images.leases import holding
from cri_imaged.images.stores import Stores
from cri_imaged.images.transfers.flights import Flight, Waiter
from cri_imaged.images.transfers.rates import Meter, Rates, seconds_for
from cri_imaged.oci import media_types
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.ports import (
    Account,
    Activity,
    ByteStream,
    Fetcher,
    Ingest,
    LayerSource,
    Lease,
    Usage,
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where one pull's blobs come from."""

    fetcher: Fetcher
    """With the pull's own credentials."""
    registry: str
    """As the reference says."""
    repository: str
    """`registry/path`."""
    activity: Activity = field(default_factory=Activity, compare=False)


@dataclass(frozen=True, slots=True)
class BlobMeans:
    """What one pull has to fetch a blob with."""

    origin: Origin
    wanted: Descriptor
    """As this pull's own manifest has it: where it is asked for is in its type and its URLs, and
    those that another manifest makes up are nobody else's."""

    @property
    def place(self) -> Hashable:
        """Where it is asked for. Equal ones are equally fast."""
        is_document = self.wanted.media_type in media_types.DOCUMENTS
        return self.origin.registry, is_document, self.wanted.urls


class BlobFlight(Flight[BlobMeans]):
    """Brings one blob in, by the fetcher of one waiter at a time, each from the offset reached; or
    of two that race, each into an ingest of its own."""

    def __init__(
        self,
        descriptor: Descriptor,
        stores: Stores,
        rates: Rates,
        count: Callable[[int], None],
        room_for: Callable[[int], Awaitable[None]],
        tries: int,
    ) -> None:
        super().__init__()
        self.descriptor = descriptor
        self._content = stores.content
        self._database = stores.database
        self._rates = rates
        self._count = count
        self._room_for = room_for
        self._tries = tries
        self._held = AsyncExitStack()
        self._ingests: list[Ingest] = []
        """Of the waiters that race, and what earlier ones left."""
        self._writing: dict[Waiter[BlobMeans], tuple[Ingest, Meter]] = {}
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done while there is something to read."""
        self.received = 0
        """Bytes that came over the network."""
        self.answered: set[str] = set()
        """Repositories whose registry was asked for it and gave some of it."""

    @property
    def offset(self) -> int:
        """Bytes of the blob that are here."""
        if self._landed:
            return self.descriptor.size
        return max((ingest.offset for ingest in self._ingests), default=0)

    async def source(self, done: asyncio.Future[None]) -> LayerSource:
        """The blob's bytes as they arrive. `done` is the waiter's future: where the flight fails
        before anything arrives, its error is raised."""
        while not self._opened.done():
            await asyncio.wait([self._opened, done], return_when=asyncio.FIRST_COMPLETED)
            if done.cancelled():
                raise SourceFailedError(f"blob {self.descriptor.digest}: the fetch was given up")
            if done.done():
                done.result()
        if self._landed:
            return self._content.source(self.descriptor.digest)
        return max(self._ingests, key=lambda ingest: ingest.offset).source()

    def forecast(self, waiter: Waiter[BlobMeans]) -> float:
        """See `Flight.forecast`."""
        rate = self._rates.of(waiter.means.place, _now())
        if waiter not in self._writing:
            free = self._free()
            return seconds_for(self.descriptor.size - (free.offset if free else 0), rate)
        ingest, meter = self._writing[waiter]
        now = _now()
        measured = meter.rate(now)
        if measured is not None:
            rate = measured
            self._rates.measured(waiter.means.place, rate, now)
        return seconds_for(self.descriptor.size - ingest.offset, rate)

    def merit(self, waiter: Waiter[BlobMeans]) -> tuple[float, ...]:
        """See `Flight.merit`: nobody waits for who gives way to others; and a registry that is
        known to deliver is not kept waiting by many that nobody has heard of."""
        means = waiter.means
        return -means.origin.activity.priority, self._rates.known(means.place)

    async def work(self) -> None:
        """See `Flight.work`."""
        if self._lease is None:
            self._lease = await self._held.enter_async_context(
                holding(self._database, keep_for_resume=lambda _: not self.known)
            )
        async with AsyncExitStack() as opened:
            first = await opened.enter_async_context(
                self._content.writer(self.descriptor, self._lease)
            )
            if await self._is_here(self._lease):
                self.land()
                return
            self._ingests = [first]
            self._opened.set_result(None)
            try:
                await self.attempt(lambda waiter: self._use(waiter, opened))
            finally:
                self._ingests = []
                if not self._landed:
                    self._opened = asyncio.get_running_loop().create_future()

    def land(self) -> None:
        """See `Flight.land`."""
        super().land()
        if not self._opened.done():
            self._opened.set_result(None)

    def join(self, waiter: Waiter[BlobMeans]) -> None:
        """See `Flight.join`."""
        for before in self._waiters:
            before.means.origin.activity.awaited_by(waiter.means.origin.activity)
        super().join(waiter)

    async def release(self) -> None:
        """See `Flight.release`. Where no pull made the blob known, it waits to be resumed."""
        await self._held.aclose()

    async def _is_here(self, lease: Lease) -> bool:
        """Whether the blob came since the pull that began this flight looked for it."""
        wanted = self.descriptor
        held = await self._content.hold(wanted.digest, lease)
        if held is None or held.state != "present":
            return False
        if held.size != wanted.size:
            raise CorruptContentError(
                f"blob {wanted.digest} has {held.size} bytes, its descriptor says {wanted.size}"
            )
        return True

    def _free(self) -> Ingest | None:
        """The fullest ingest that nobody writes."""
        written = [ingest for ingest, _ in self._writing.values()]
        free = [ingest for ingest in self._ingests if ingest not in written]
        return max(free, key=lambda ingest: ingest.offset) if free else None

    async def _use(self, waiter: Waiter[BlobMeans], opened: AsyncExitStack) -> None:
        ingest = self._free()
        if ingest is None:
            assert self._lease is not None
            ingest = await opened.enter_async_context(
                self._content.writer(self.descriptor, self._lease, beside=True)
            )
            self._ingests.append(ingest)
        meter = Meter(_now())
        self._writing[waiter] = (ingest, meter)
        try:
            await self._fetch(ingest, waiter, meter)
            self._rates.brought(waiter.means.place, meter, _now())
        finally:
            del self._writing[waiter]
        for other in self._ingests:
            if other is not ingest:
                await other.supersede()

    async def _fetch(self, ingest: Ingest, waiter: Waiter[BlobMeans], meter: Meter) -> None:
        """Fetch the rest. Bytes that prove wrong are fetched anew from other hosts; bytes kept
        from an earlier try are no host's fault and only cost a restart."""
        mismatch: CorruptContentError | None = None
        for _ in range(self._tries):
            kept = ingest.offset > 0
            stream: ByteStream | None = None
            try:
                if ingest.offset < self.descriptor.size:
                    means = waiter.means
                    fetching = means.origin.fetcher.fetch(means.wanted, ingest.offset)
                    async with fetching as stream:
                        self.answered.add(means.origin.repository)
                        async for chunk in stream:
                            self._show(len(chunk), waiter)
                            await self._room_for(len(chunk))
                            await ingest.write(chunk)
                            meter.count(len(chunk))
                            self.received += len(chunk)
                            self._count(len(chunk))
                await ingest.commit()
            except CorruptContentError as error:
                mismatch = error
                await ingest.restart()
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

    def _show(self, size: int, by: Waiter[BlobMeans]) -> None:
        """To those who wait for what `by` brings, which its own requests show."""
        for waiter in self._waiters:
            if waiter is not by:
                waiter.means.origin.activity.count(size)


def _now() -> float:
    return asyncio.get_running_loop().time()


class Fetch:
    """One pull's part in the fetch of a blob."""

    def __init__(self, flight: BlobFlight, waiter: Waiter[BlobMeans]) -> None:
        self._flight = flight
        self._waiter = waiter
        self.done = waiter.done
        """How it ended for this pull."""

    @property
    def bytes_here(self) -> int:
        """Compressed bytes that are here, whoever fetched them."""
        return self._flight.offset

    @property
    def is_ours(self) -> bool:
        """Whether this pull's means, or those of another pull of its repository, brought it. Not
        where nothing had to come any more: then no registry was asked."""
        by, ours = self._flight.landed_by, self._waiter.means.origin.repository
        return (
            by is not None and by.means.origin.repository == ours and ours in self._flight.answered
        )

    @property
    def received(self) -> int:
        """Bytes that came over the network, whoever fetched them."""
        return self._flight.received

    @property
    def account(self) -> Account:
        """Which hosts served it, and which failed to: to who brought it, else to this pull."""
        waiter = self._flight.landed_by or self._waiter
        return waiter.means.origin.fetcher.account(self._flight.descriptor.digest)

    async def taken(self) -> Usage:
        """What the fetch has put on the disk."""
        return Usage(self._flight.received, 1)

    async def source(self) -> LayerSource:
        """The blob's bytes as they arrive. Raises what the fetch failed with."""
        return await self._flight.source(self.done)

    def retire(self) -> Lease | None:
        """See `Flight.retire`."""
        return self._flight.retire()

    def made_known(self) -> None:
        """An image holds the blob from now on."""
        self._flight.known = True
