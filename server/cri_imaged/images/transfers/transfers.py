"""The daemon's one set of flights: how a pull takes part in them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from cri_imaged.images.stores import Stores
from cri_imaged.images.transfers.fetch import BlobFlight, BlobMeans, Fetch, Origin
from cri_imaged.images.transfers.flights import Flights, Waiter
from cri_imaged.images.transfers.rates import Rates
from cri_imaged.images.transfers.unpack import LayerFlight, LayerKey, LayerMeans, Unpack
from cri_imaged.limits import Limits
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Applier, Snapshotter


class Transfers:
    """Whoever needs a blob or a snapshot joins its fetch or its unpack here."""

    def __init__(
        self,
        stores: Stores,
        applier: Applier,
        limits: Limits,
        count_bytes: Callable[[int], None],
        room_for: Callable[[int], Awaitable[None]],
    ) -> None:
        """`count_bytes` is told of bytes that came over the network; `room_for` waits until so
        many may be written."""
        self._stores = stores
        self.content = stores.content
        self._applier = applier
        self._limits = limits
        self._count_bytes = count_bytes
        self._room_for = room_for
        self._rates = Rates()
        self._fetches: Flights[tuple[Digest, int], BlobFlight] = Flights()
        self._unpacks: Flights[tuple[str, LayerKey], LayerFlight] = Flights()

    @asynccontextmanager
    async def fetch(self, wanted: Descriptor, origin: Origin) -> AsyncIterator[Fetch]:
        """Take part in the fetch of a blob while the context lasts. A manifest that lies about a
        blob's size fetches alone: it must not fail those that do not."""

        def begin() -> BlobFlight:
            return BlobFlight(
                wanted,
                self._stores,
                self._rates,
                self._count_bytes,
                self._room_for,
                self._limits.tries_per_request,
            )

        means = BlobMeans(origin, wanted)
        waiter = Waiter(means, kin=means.place)
        async with self._fetches.join((wanted.digest, wanted.size), begin, waiter) as flight:
            yield Fetch(flight, waiter)

    @asynccontextmanager
    async def unpack(self, snapshotter: Snapshotter, means: LayerMeans) -> AsyncIterator[Unpack]:
        """Take part in the unpacking of a layer while the context lasts."""

        def begin() -> LayerFlight:
            return LayerFlight(snapshotter, self._applier, self._stores.database)

        waiter = Waiter(means, share=means.key, kin=means.key, ready=means.blob.ready)
        async with self._unpacks.join((snapshotter.name, means.key), begin, waiter) as flight:
            yield Unpack(flight, waiter)
