"""`image_pull_progress_timeout`, counted as containerd does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cri_imaged.config.values import Duration
from cri_imaged.errors import Category, RegistryError
from cri_imaged.images.pull.silence import ended_by_silence
from cri_imaged.ports import Activity
from tests.images.gated import GatedRegistry
from tests.images.workbench import Bench, image_of, layer, serve, until
from tests.support.registry import BLOB, MANIFEST, Fault, stall

SECONDS = 0.8


@pytest.fixture
async def bench(tmp_path: Path, registry: GatedRegistry) -> AsyncIterator[Bench]:
    timeout = Duration(SECONDS)
    async with Bench.open(tmp_path, registry, image_pull_progress_timeout=timeout) as opened:
        await opened.pull_and_remove(registry)
        yield opened


@pytest.mark.parametrize(
    "fault", [stall(-1, where=MANIFEST), stall(20, where=MANIFEST), stall(400, where=BLOB)]
)
async def test_a_silent_registry_ends_the_pull(
    bench: Bench, registry: GatedRegistry, fault: Fault
) -> None:
    serve(registry, image_of(layer(0)))
    registry.faults.append(fault)
    with pytest.raises(RegistryError, match=r"0\.8 s \(image_pull_progress_timeout\)") as caught:
        await bench.pull()
    assert caught.value.category is Category.REGISTRY_UNAVAILABLE
    assert [attempt.host for attempt in caught.value.attempts] == [registry.authority]
    assert bench.name() in str(caught.value)
    await bench.nothing_is_left()


async def test_any_byte_of_any_request_counts(bench: Bench, registry: GatedRegistry) -> None:
    put = serve(registry, image_of(layer(0), layer(1, 2000)))
    gate = registry.hold(put.layers[0].digest)
    slow = Fault(reference=put.layers[1].digest, pace=0.2, piece=200)
    registry.faults.append(slow)
    began = asyncio.get_running_loop().time()
    pull = bench.start()
    await until(lambda: bench.partial().get(put.layers[1].digest, 0) > 1900 or pull.done())
    assert asyncio.get_running_loop().time() - began > 2 * SECONDS
    gate.opened.set()
    assert (await pull).image


async def test_bytes_that_another_pull_fetches_count(bench: Bench, registry: GatedRegistry) -> None:
    shared = layer(0, 2000)
    put = serve(registry, image_of(shared))
    both = serve(registry, image_of(shared, layer(1)), "both")
    registry.faults.append(Fault(reference=put.layers[0].digest, pace=0.2, piece=200))
    gate = registry.hold(both.layers[1].digest)
    first = bench.start()
    await until(lambda: bench.partial().get(put.layers[0].digest, 0))
    second = bench.start("both")
    await first
    assert not second.done(), "its own request is silent, but what it waits for comes"
    gate.opened.set()
    assert (await second).image
    assert len([seen for seen in registry.gets(BLOB) if put.layers[0].digest in seen.path]) == 1


async def test_who_waits_for_a_silent_fetch_goes_on_by_itself(
    bench: Bench, registry: GatedRegistry
) -> None:
    put = serve(registry, image_of(layer(0)))
    registry.faults.append(stall(10, reference=put.layers[0].digest, times=1))
    first = bench.start()
    await until(lambda: bench.partial())
    second = bench.start()
    with pytest.raises(RegistryError, match="image_pull_progress_timeout"):
        await first
    assert (await second).image


async def silent(activity: Activity, seconds: float | None, *pauses: float) -> None:
    """Requests wait for as long as each of `pauses`, with a time without any after each."""
    async with ended_by_silence(activity, seconds, "a"):
        for pause in pauses:
            with activity.waiting("host"):
                await asyncio.sleep(pause)
            await asyncio.sleep(0.5)


async def test_a_time_without_requests_begins_the_count_anew() -> None:
    await silent(Activity(), 0.2, 0.15, 0.15, 0.15)
    await silent(Activity(), None, 0.5)
    with pytest.raises(RegistryError, match="cannot pull a: host: not a byte"):
        await silent(Activity(), 0.2, 10)


async def test_what_times_out_by_itself_is_something_else() -> None:
    with pytest.raises(TimeoutError):
        async with ended_by_silence(Activity(), 0.2, "a"):
            raise TimeoutError
