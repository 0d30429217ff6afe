"""Nobody is kept waiting for much longer than its own registry takes: a blob's second request."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cri_imaged.images.transfers.fetch import BlobFlight, BlobMeans, Origin
from cri_imaged.images.transfers.flights import Flights, Waiter
from cri_imaged.images.transfers.rates import Rates
from cri_imaged.limits import MIB, Limits
from cri_imaged.oci.reference import Reference
from cri_imaged.ports import Activity, Priority
from tests.images.gated import GatedRegistry
from tests.images.workbench import Bench, image_of, layer, serve, until
from tests.support import images
from tests.support.registry import BLOB, Fault

SIZE = 300_000


async def pull_from(bench: Bench, registry: GatedRegistry, tag: str = "latest") -> str:
    name = f"{registry.authority}/library/demo:{tag}"
    return (await bench.parts.puller.pull(name)).image.id


def requests(registry: GatedRegistry, digest: str) -> int:
    return sum(digest in seen.path for seen in registry.gets(BLOB))


async def test_a_registry_that_stalls_holds_up_only_its_own_pulls(
    bench: Bench, registry: GatedRegistry
) -> None:
    image = image_of(layer(0, SIZE), layer(1))
    async with GatedRegistry() as slow:
        put, _ = serve(slow, image), serve(registry, image)
        gate = slow.hold(put.layers[0].digest, 1000)
        hostile = asyncio.create_task(pull_from(bench, slow))
        await slow.held(gate)
        async with asyncio.timeout(15):
            assert await pull_from(bench, registry) == image.id
        gate.opened.set()
        assert await hostile == image.id  # once its own registry has said that it may
        assert requests(registry, put.layers[0].digest) == 1


async def test_wrong_bytes_of_another_registry_cost_a_pull_nothing(
    bench: Bench, registry: GatedRegistry
) -> None:
    image = image_of(layer(0, SIZE))
    async with GatedRegistry() as slow:
        put, _ = serve(slow, image), serve(registry, image)
        digest = put.layers[0].digest
        slow.blobs[digest] = bytes(put.layers[0].size)
        gate = slow.hold(digest, SIZE // 2)
        hostile = asyncio.create_task(pull_from(bench, slow))
        await slow.held(gate)
        async with asyncio.timeout(15):
            assert await pull_from(bench, registry) == image.id
        gate.opened.set()
        await hostile
        assert (await bench.tree(image.id))["top"] == b"0"


async def test_the_ninth_pull_from_one_slow_registry_makes_no_request_of_its_own(
    bench: Bench, registry: GatedRegistry
) -> None:
    """All of them wait for the same host: asking it again makes nothing faster."""
    put = serve(registry, image_of(layer(0, SIZE)))
    gate = registry.hold(put.layers[0].digest, 1000)
    pulls = [bench.start() for _ in range(9)]
    await registry.held(gate)
    await asyncio.sleep(2.5)
    gate.opened.set()
    await asyncio.gather(*pulls)
    assert requests(registry, put.layers[0].digest) == 1


async def test_two_race_and_a_third_takes_the_place_of_the_slower_one(
    bench: Bench, registry: GatedRegistry
) -> None:
    image = image_of(layer(0, SIZE))
    async with GatedRegistry() as first, GatedRegistry() as second:
        gates = []
        for slow in (first, second):
            put = serve(slow, image)
            gates.append(slow.hold(put.layers[0].digest, 1000))
        serve(registry, image)
        hostile = [asyncio.create_task(pull_from(bench, first))]
        await first.held(gates[0])
        hostile.append(asyncio.create_task(pull_from(bench, second)))
        async with asyncio.timeout(15):
            await second.held(gates[1])
            assert await pull_from(bench, registry) == image.id
        for gate in gates:
            gate.opened.set()
        await asyncio.gather(*hostile)


async def test_a_registry_that_is_known_to_deliver_waits_for_few_that_are_not(
    bench: Bench, registry: GatedRegistry
) -> None:
    serve(registry, image_of(layer(1, 2 * MIB)), "before")
    await bench.pull("before")
    image = image_of(layer(0, SIZE))
    serve(registry, image)
    async with AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(GatedRegistry()) for _ in range(8)]
        [blob] = {serve(slow, image).layers[0].digest for slow in crowd}
        gates = [slow.hold(blob, 1000) for slow in crowd]
        hostile = [asyncio.create_task(pull_from(bench, slow)) for slow in crowd]
        await until(lambda: len(bench.parts.running.list()) == len(crowd))
        async with asyncio.timeout(15):
            assert await pull_from(bench, registry) == image.id
        assert sum(requests(slow, blob) for slow in crowd) <= 4
        for gate in gates:
            gate.opened.set()
        await asyncio.gather(*hostile)


async def test_a_client_does_not_wait_for_who_gives_way_to_clients(
    bench: Bench, registry: GatedRegistry
) -> None:
    blob = serve(registry, image_of(layer(0))).layers[0]
    reference = Reference.parse(bench.name()).canonical()
    fetcher = (await bench.parts.client.resolve(reference, None, None, Activity())).fetcher
    rates = Rates()

    async def room_for(size: int) -> None: ...

    def begin() -> BlobFlight:
        return BlobFlight(blob, bench.parts.base.stores, rates, lambda _: None, room_for, 1)

    def waiter(registry: str, priority: Priority) -> Waiter[BlobMeans]:
        return Waiter(BlobMeans(Origin(fetcher, registry, "", Activity(priority=priority)), blob))

    client, prefetch = waiter("", Priority.CLIENT), waiter("known", Priority.PREFETCH)
    rates.measured(prefetch.means.place, 1e9, 0.0)
    flights: Flights[str, BlobFlight] = Flights()
    async with flights.join("", begin, client) as flight, flights.join("", begin, prefetch):
        await client.done
        assert flight.landed_by is client


@pytest.mark.parametrize("size", [-10, 10])
async def test_a_false_size_holds_up_nobody(
    bench: Bench, registry: GatedRegistry, size: int
) -> None:
    image = image_of(layer(0, SIZE))
    put = serve(registry, image)
    document = json.loads(image.manifest)
    document["layers"][0]["size"] += size
    registry.add_manifest("library/demo", "bad", images.MANIFEST, json.dumps(document).encode())
    registry.faults.append(Fault(where=BLOB, no_length=True))  # who lies is not told at once
    gate = registry.hold(put.layers[0].digest, 1000)
    bad = bench.start("bad")
    await registry.held(gate)
    good = bench.start()
    await until(lambda: gate.waiting == 2)  # it does not wait for the other's end
    gate.opened.set()
    assert (await good).image.id == image.id
    await asyncio.wait([bad])
    assert bad.exception() is not None


async def test_a_layer_waits_for_nobody_elses_lower_layer(
    bench: Bench, registry: GatedRegistry
) -> None:
    """Two pulls share the upper layer; what one of them takes for the lower one never comes."""
    tree = {"lower": images.file(os.urandom(SIZE))}
    upper = layer(1)
    honest = image_of(images.layer(tree), upper)
    serve(registry, honest)
    async with GatedRegistry() as slow:
        put = serve(slow, image_of(images.layer(tree, "zstd"), upper))
        gate = slow.hold(put.layers[0].digest, 1000)
        hostile = asyncio.create_task(pull_from(bench, slow))
        await slow.held(gate)
        await until(lambda: requests(slow, put.layers[1].digest) == 1)
        async with asyncio.timeout(15):
            assert await pull_from(bench, registry) == honest.id
        gate.opened.set()
        await asyncio.wait([hostile])


async def test_a_layer_waits_for_nobody_elses_turn(bench: Bench, registry: GatedRegistry) -> None:
    """Two pulls share a layer; all that one of them may unpack at a time stalls."""
    shared, stalled = layer(0), layer(1, SIZE)
    async with GatedRegistry() as slow:
        put = serve(slow, image_of(shared, *[stalled] * 12))
        serve(registry, image_of(shared))
        gate = slow.hold(put.layers[1].digest, 1000)
        hostile = asyncio.create_task(pull_from(bench, slow))
        await slow.held(gate)
        await until(lambda: requests(slow, put.layers[0].digest) == 1)
        async with asyncio.timeout(15):
            assert await pull_from(bench, registry) == image_of(shared).id
        gate.opened.set()
        await asyncio.wait([hostile])


async def test_a_pull_that_waits_for_its_registry_gives_up_its_place(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    serve(registry, image_of(layer(0)))
    limits = Limits(running_pulls=1, retry_seconds=5.0)
    async with GatedRegistry() as slow, Bench.open(tmp_path, registry, limits=limits) as bench:
        put = serve(slow, image_of(layer(1, SIZE)))
        gate = slow.hold(put.layers[0].digest, 1000)
        hostile = asyncio.create_task(pull_from(bench, slow))
        await slow.held(gate)
        async with asyncio.timeout(15):
            await bench.pull()
        assert not hostile.done()
        gate.opened.set()
        await hostile
