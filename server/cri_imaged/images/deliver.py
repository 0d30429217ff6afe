"""Bringing in what one pull misses: its part in the daemon's flights."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from cri_imaged.images.airport import Airport
from cri_imaged.images.fetch import BlobFlight
from cri_imaged.images.flights import Flight
from cri_imaged.images.plan import Plan, Step
from cri_imaged.images.progress import LayerProgress
from cri_imaged.images.unpack import LayerMeans
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.documents import Manifest
from cri_imaged.ports import Fetcher, LayerSource, Snapshotter

_UNPACKS_FOR_EACH_DOWNLOAD = 2
"""Layers of one pull that may be unpacked, or wait for a worker, at the same time: so few that they
cannot crowd out another pull's, which gets its turn after them."""


class Delivery:
    """One pull's fetches and unpacks. Flights stay joined until the context is left."""

    def __init__(
        self,
        plan: Plan,
        fetcher: Fetcher | None,
        snapshotter: Snapshotter,
        airport: Airport,
        downloads: int,
    ) -> None:
        """Without a `fetcher` the plan must have nothing to fetch."""
        self._plan = plan
        self._fetcher = fetcher
        self._snapshotter = snapshotter
        self._airport = airport
        self._slots = asyncio.Semaphore(downloads)
        self._turns = asyncio.Semaphore(_UNPACKS_FOR_EACH_DOWNLOAD * downloads)
        self._stack = AsyncExitStack()
        self._flights: list[Flight[Any]] = []
        future = asyncio.get_running_loop().create_future
        self._fetching: dict[Digest, asyncio.Future[tuple[BlobFlight, asyncio.Future[None]]]] = {
            layer.digest: future() for layer in plan.fetch
        }
        self._committed: dict[Digest, asyncio.Future[None]] = {
            step.chain_id: future() for step in plan.steps
        }

    async def __aenter__(self) -> Delivery:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    async def run(self) -> None:
        """Fetch and unpack all that the plan says. Raises the first failure."""
        try:
            async with asyncio.TaskGroup() as group:
                for layer in self._plan.fetch:
                    group.create_task(self._fetch(layer))
                for step in self._plan.steps:
                    group.create_task(self._unpack(step))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    def made_known(self) -> None:
        """The image is known: what the flights brought in is held by it."""
        for flight in self._flights:
            flight.known = True

    def received(self) -> int:
        """Bytes that came over the network for the blobs of this pull."""
        return sum(f.received for f in self._flights if isinstance(f, BlobFlight))

    def progress(self, manifest: Manifest) -> list[LayerProgress]:
        """The layers as they come in, from the bottom up."""
        chain = {step.layer.digest: step.chain_id for step in self._plan.steps}
        return [
            LayerProgress(
                digest=layer.digest,
                size=layer.size,
                fetched=lambda layer=layer: self._bytes_here(layer),  # type: ignore[misc]
                unpacked=lambda layer=layer: self._is_unpacked(chain.get(layer.digest)),  # type: ignore[misc]
            )
            for layer in manifest.layers
        ]

    def _bytes_here(self, layer: Descriptor) -> int:
        fetching = self._fetching.get(layer.digest)
        if fetching is None:
            return layer.size
        return fetching.result()[0].offset if fetching.done() else 0

    def _is_unpacked(self, chain_id: Digest | None) -> bool:
        return chain_id is None or self._committed[chain_id].done()

    async def _fetch(self, layer: Descriptor) -> None:
        async with self._slots:
            flight, done = await self._stack.enter_async_context(
                self._airport.fetch(layer, self._fetcher)
            )
            self._flights.append(flight)
            self._fetching[layer.digest].set_result((flight, done))
            await done

    async def _unpack(self, step: Step) -> None:
        means = LayerMeans(
            step, lambda: self._source(step.layer), self._parent_committed(step), self._turns
        )
        flight, done = await self._stack.enter_async_context(
            self._airport.unpacks.join(
                (self._snapshotter.name, step.chain_id),
                lambda: self._airport.begin_unpack(self._snapshotter),
                means,
                share=step.layer.digest,
                ready=self._fetching.get(step.layer.digest),
            )
        )
        self._flights.append(flight)
        await done
        self._committed[step.chain_id].set_result(None)

    async def _source(self, layer: Descriptor) -> LayerSource:
        fetching = self._fetching.get(layer.digest)
        if fetching is None:
            return self._airport.content.source(layer.digest)
        flight, done = await asyncio.shield(fetching)
        return await flight.source(done)

    def _parent_committed(self, step: Step) -> asyncio.Future[None]:
        if step.parent is not None and (pending := self._committed.get(step.parent)):
            return pending
        committed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        committed.set_result(None)
        return committed
