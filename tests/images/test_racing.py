"""What a hostile manifest says of an honest blob, and what its registry promises, is nobody else's
trouble."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack

from cri_imaged.images.transfers.flights import Flight, Flights, Waiter
from cri_imaged.images.transfers.rates import Rates
from cri_imaged.limits import MIB
from cri_imaged.oci import media_types
from tests.images.gated import GatedRegistry
from tests.images.workbench import REPOSITORY, Bench, image_of, layer, serve, serve_index
from tests.support import images

SIZE = 300_000


async def pull_from(bench: Bench, registry: GatedRegistry, tag: str = "latest") -> str:
    return (await bench.parts.puller.pull(f"{registry.authority}/{REPOSITORY}:{tag}")).image.id


async def test_the_urls_that_another_manifest_gives_a_blob_are_not_asked(
    bench: Bench, registry: GatedRegistry
) -> None:
    """Nor does it matter how slow they are: the registry, which is the same, is not."""
    image = image_of(layer(0, SIZE))
    async with GatedRegistry() as slow:
        blob = serve(registry, image).layers[0].digest
        serve(slow, image)
        document = json.loads(image.manifest)
        document["layers"][0] |= {
            "mediaType": f"{media_types.OCI_FOREIGN_LAYER}+gzip",
            "urls": [f"{slow.url}/v2/{REPOSITORY}/blobs/{blob}"],
        }
        foreign = json.dumps(document).encode()
        registry.add_manifest(REPOSITORY, "foreign", images.MANIFEST, foreign)
        gate = slow.hold(blob, 1000)
        hostile = bench.start("foreign")
        await slow.held(gate)
        async with asyncio.timeout(15):
            assert await pull_from(bench, registry) == image.id
        assert sum(blob in seen.path for seen in slow.seen) == 1
        gate.opened.set()
        await hostile


async def test_a_manifest_that_another_image_lists_as_a_layer_is_asked_for_as_a_manifest(
    bench: Bench, registry: GatedRegistry
) -> None:
    image = image_of(layer(0))
    serve(registry, image, "platform")
    serve_index(registry, [images.descriptor(image.manifest, images.MANIFEST)])
    claimed = images.Layer(image.manifest, images.LAYER, images.sha256(image.manifest))
    async with GatedRegistry() as slow:
        put = serve(slow, image_of(claimed))
        gate = slow.hold(put.layers[0].digest, 10)
        hostile = asyncio.create_task(pull_from(bench, slow))
        await slow.held(gate)
        async with asyncio.timeout(15):
            assert await pull_from(bench, registry) == image.id
        gate.opened.set()
        await asyncio.wait([hostile])


class Promised(Flight[float]):
    """Work that is always about to be done, in as many seconds as a waiter's means promise."""

    def __init__(self) -> None:
        super().__init__()
        self.at_work: list[float] = []
        self.given_up: list[float] = []
        self.changed = asyncio.Event()

    async def work(self) -> None:
        await self.attempt(self._use)

    def forecast(self, waiter: Waiter[float]) -> float:
        return waiter.means

    async def _use(self, waiter: Waiter[float]) -> None:
        self.at_work.append(waiter.means)
        self.changed.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.at_work.remove(waiter.means)
            self.given_up.append(waiter.means)
            self.changed.set()

    async def until(self, *at_work: float) -> None:
        async with asyncio.timeout(30):
            while self.at_work != list(at_work):
                self.changed.clear()
                await self.changed.wait()


async def promised(stack: AsyncExitStack, flights: Flights[str, Promised], each: float) -> Promised:
    """Join with means that promise so many seconds."""
    joined = flights.join("", Promised, Waiter(each))
    return await stack.enter_async_context(joined)


async def test_who_promises_again_and_again_is_not_believed_for_ever() -> None:
    flights: Flights[str, Promised] = Flights()
    async with AsyncExitStack() as stack:
        flight = await promised(stack, flights, 0.05)
        await promised(stack, flights, 0.1)
        await flight.until(0.05, 0.1)


async def test_who_keeps_its_word_is_not_given_up_for_who_promises_more() -> None:
    flights: Flights[str, Promised] = Flights()
    async with AsyncExitStack() as stack:
        flight = await promised(stack, flights, 60.0)
        await promised(stack, flights, 0.1)
        await flight.until(60.0, 0.1)
        await promised(stack, flights, 0.05)
        await flight.until(60.0, 0.05)
        assert flight.given_up == [0.1]


def test_a_place_that_was_slow_or_stalled_a_while_ago_is_as_good_as_unknown() -> None:
    rates = Rates()
    unknown = rates.of("place", 0.0)
    rates.measured("place", 1000.0, 0.0)
    rates.measured("place", 0.0, 1.0)
    assert rates.of("place", 2.0) == 1000.0
    assert rates.of("place", 100.0) == unknown == 10 * MIB
