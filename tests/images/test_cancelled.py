"""A pull that is cancelled at any moment: nothing shows, nothing runs on, nothing is held."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import stat
from pathlib import Path

import pytest

from tests.images.gated import GatedRegistry
from tests.images.workbench import Bench, image_of, layer, serve, until


async def step(count: int) -> None:
    """Let the event loop turn so many times, giving threads and sockets a moment now and then."""
    for number in range(count):
        await asyncio.sleep(0.002 if number % 10 == 9 else 0)


def pipes() -> int:
    """How many descriptors of pipes this process has."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            count += stat.S_ISFIFO(os.stat(f"/proc/self/fd/{name}").st_mode)
    return count


async def quiet(bench: Bench) -> None:
    """Wait until flights that close in the background have closed."""
    await until(lambda: "pull" not in bench.leases())


async def cancelled_after(bench: Bench, tag: str, steps: int, times: int = 1) -> bool:
    """Pull and cancel; whether the pull was through already."""
    before = asyncio.all_tasks()
    pull = bench.start(tag)
    await step(steps)
    for _ in range(times):
        pull.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([pull])
    assert bench.parts.running.list() == []
    await quiet(bench)
    left = asyncio.all_tasks() - before
    assert {task for task in left if "aiohttp" not in repr(task)} == set()
    if pull.cancelled():
        return False
    pull.result()
    return True


@pytest.mark.parametrize("times", [1, 3])
async def test_at_every_moment(bench: Bench, registry: GatedRegistry, times: int) -> None:
    """From the first moment on until pulls come to their end before they are cancelled."""
    through = number = 0
    await bench.pull_and_remove(registry)
    while through < 3:
        tag = f"{number}"
        image = image_of(layer(2 * number, 2000), layer(2 * number + 1, 70_000))
        serve(registry, image, tag)
        through += await cancelled_after(bench, tag, 9 * number, times)
        shown = bench.parts.store.get(bench.name(tag))
        known = bench.rows("SELECT name FROM names")
        # Cancelled or not: an image is there whole, or not at all.
        assert (shown is not None) == ((bench.name(tag),) in known)
        if shown is not None:
            assert (await bench.tree(shown.id))["top"] == b"%d" % (2 * number + 1)
            await bench.parts.remover.remove(shown.id)
        await bench.nothing_is_left()
        number += 1


async def test_no_pipe_is_left(bench: Bench, registry: GatedRegistry) -> None:
    await bench.pull_and_remove(registry)
    before = pipes()
    for number in range(45):
        serve(registry, image_of(layer(number, 70_000)), f"{number}")
        await cancelled_after(bench, f"{number}", 60 + 4 * number, times=3)
    assert pipes() == before


@pytest.mark.parametrize("seed", range(3))
async def test_again_and_again_until_it_is_through(
    bench: Bench, registry: GatedRegistry, seed: int
) -> None:
    """What the cancelled ones leave never hinders the next."""
    chance = random.Random(seed)
    image = image_of(*(layer(number, 30_000) for number in range(4)))
    serve(registry, image)
    for _ in range(15):
        await cancelled_after(bench, "latest", chance.randrange(300))
    pulled = await bench.pull()
    assert pulled.image.id == image.id
    assert len(await bench.tree(image.id)) == 6
    await bench.parts.remover.remove(image.id)
    await bench.nothing_is_left()


@pytest.mark.parametrize("seed", range(4))
async def test_the_others_are_not_disturbed(
    bench: Bench, registry: GatedRegistry, seed: int
) -> None:
    chance = random.Random(seed)
    image = image_of(*(layer(number, 30_000) for number in range(3)))
    serve(registry, image)
    for _ in range(6):
        pulls = [bench.start() for _ in range(4)]
        for pull in pulls[:3]:
            await step(chance.randrange(80))
            pull.cancel()
        assert (await pulls[3]).image.id == image.id
        await asyncio.wait(pulls)
        await bench.parts.remover.remove(image.id)
        await bench.nothing_is_left()


async def test_a_daemon_that_stops_in_mid_pull(tmp_path: Path, registry: GatedRegistry) -> None:
    put = serve(registry, image_of(layer(0, 300_000)))
    gate = registry.hold(put.layers[0].digest, 100_000)
    async with Bench.open(tmp_path, registry) as bench:
        pull = bench.start()
        await registry.held(gate)
        pull.cancel()
        await asyncio.wait([pull])
    gate.opened.set()
    async with Bench.open(tmp_path, registry) as bench:
        assert bench.shown() == set()
        await bench.pull()
