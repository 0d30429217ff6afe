"""Places are shared by registry, then by namespace: nobody's pulls keep out all others'."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri_imaged.errors import QueueFullError
from cri_imaged.images.pull.places import Places
from cri_imaged.images.pull.shares import Share, Shares
from cri_imaged.images.reports import Cause
from cri_imaged.limits import Limits
from cri_imaged.oci.reference import Reference
from cri_imaged.ports import Activity, Priority
from cri_imaged.registry.hosts.host import Host
from tests.images.gated import GatedRegistry
from tests.images.workbench import Bench, image_of, layer, serve, until

CAPACITY = 128
REGISTRIES = ("a", "b", "c", "d", "e")
shares = st.builds(Share, st.sampled_from(REGISTRIES), st.sampled_from(("", "x", "y")))
steps = st.lists(st.tuples(shares, st.integers(1, CAPACITY), st.booleans()), max_size=60)


def after(steps: list[tuple[Share, int, bool]], capacity: int) -> tuple[Shares, list[Share]]:
    """Shares after each of `steps`: so many places more, or less, as far as can be."""
    state, held = Shares(capacity), list[Share]()
    for share, count, more in steps:
        for _ in range(count):
            if more and state.admits(share):
                state.take(share)
                held.append(share)
            elif not more and share in held:
                state.give_back(share)
                held.remove(share)
    return state, held


@given(steps, st.integers(1, CAPACITY))
def test_no_more_places_are_held_than_there_are(
    steps: list[tuple[Share, int, bool]], capacity: int
) -> None:
    state, held = after(steps, capacity)
    assert len(held) <= capacity
    assert all(state.held(share) == held.count(share) for share in held)


@given(steps)
def test_a_registry_that_holds_none_finds_a_place_whatever_five_others_did(
    steps: list[tuple[Share, int, bool]],
) -> None:
    state, _ = after(steps, CAPACITY)
    assert state.admits(Share("honest", "library"))


@given(st.lists(st.tuples(st.sampled_from("xy"), st.integers(1, 99), st.booleans()), max_size=40))
def test_a_namespace_that_holds_none_finds_a_place_whatever_two_others_of_its_registry_did(
    steps: list[tuple[str, int, bool]],
) -> None:
    state, _ = after([(Share("a", name), n, more) for name, n, more in steps], CAPACITY)
    assert state.admits(Share("a", "honest"))


@given(steps, st.integers(1, CAPACITY))
def test_a_place_is_never_left_empty_while_nobody_holds_one(
    steps: list[tuple[Share, int, bool]], capacity: int
) -> None:
    state, held = after(steps, capacity)
    for share in held:
        state.give_back(share)
    assert state.next([Share("a", "x")]) == Share("a", "x")


@given(steps, st.lists(shares, min_size=1))
def test_the_turn_is_of_who_may_have_one_and_holds_least(
    steps: list[tuple[Share, int, bool]], waiting: list[Share]
) -> None:
    state, held = after(steps, CAPACITY)
    turn = state.next(waiting)
    may = [share for share in waiting if state.admits(share)]
    assert (turn is None) == (not may)
    if turn is not None:
        of = [share.registry for share in held]
        assert of.count(turn.registry) == min(of.count(share.registry) for share in may)


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("busybox", "docker.io/library"),
        ("ghcr.io/org/team/app", "ghcr.io/org"),
        ("localhost:5000/app", "localhost:5000"),
    ],
)
def test_a_share_is_a_registry_and_the_first_component_of_a_path(name: str, share: str) -> None:
    assert str(Share.of(Reference.parse(name))) == share


@pytest.mark.parametrize("crowd", [64, 128, 1000])
@pytest.mark.parametrize("honest", [Share("good", "library"), Share("bad", "library")])
async def test_a_crowd_of_one_namespace_keeps_no_other_waiting(crowd: int, honest: Share) -> None:
    places = Places(Limits())

    async def stay() -> None:
        async with places.place(Share("bad", "crowd"), lambda: 0, Activity()):
            await asyncio.Event().wait()

    pulls = [asyncio.create_task(stay()) for _ in range(crowd)]
    await asyncio.sleep(0)
    place = places.place(honest, lambda: 0, Activity())
    entered = asyncio.create_task(place.__aenter__())
    await asyncio.sleep(0)
    assert entered.done()
    await place.__aexit__(None, None, None)
    for pull in pulls:
        pull.cancel()
    ended = await asyncio.gather(*pulls, return_exceptions=True)
    refused = {str(error) for error in ended if isinstance(error, QueueFullError)}
    assert all("from bad/crowd wait" in text and "waiting_pulls" in text for text in refused)
    async with AsyncExitStack() as stack:  # all of it is given back, by those who waited too
        for _ in range(32):
            await stack.enter_async_context(
                places.place(Share("bad", "crowd"), lambda: 0, Activity())
            )


async def test_a_pull_starts_beside_twice_as_many_from_another_registry_as_have_places(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    serve(registry, image_of(layer(0)))
    limits = Limits(running_pulls=4, retry_seconds=5.0)
    async with GatedRegistry() as slow, Bench.open(tmp_path, registry, limits=limits) as bench:
        put = serve(slow, image_of(layer(1, 100_000)))
        gate = slow.hold(put.layers[0].digest, 1000)
        name = f"{slow.authority}/library/demo:latest"
        crowd = [asyncio.create_task(bench.parts.puller.pull(name)) for _ in range(8)]
        await slow.held(gate)
        await until(lambda: len(bench.parts.running.list()) == 8)
        async with asyncio.timeout(3):  # before any of the others counts as slow
            await bench.pull()
        gate.opened.set()
        await asyncio.gather(*crowd)


async def test_places_go_by_priority_and_are_given_up_to_higher_ones() -> None:
    places, order = Places(Limits(running_pulls=1)), list[Priority]()
    share, done = Share("a", "x"), asyncio.Event()

    async def pull(priority: Priority) -> None:
        async with places.place(share, lambda: None, Activity(priority=priority)):
            order.append(priority)
            if priority is not Priority.CLIENT:
                await done.wait()

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for priority in reversed(Priority):
            group.create_task(pull(priority))
            await asyncio.sleep(0)
        await until(lambda: order == [Priority.REPAIR, Priority.CLIENT, Priority.PREFETCH])
        done.set()


async def test_a_pull_that_a_client_joins_gives_way_no_longer(
    bench: Bench, registry: GatedRegistry
) -> None:
    put = serve(registry, image_of(layer(0, 3_000_000)))
    gate = registry.hold(put.layers[0].digest, 1000)
    name = bench.name()
    prefetch = asyncio.create_task(
        bench.parts.puller.pull(name, cause=Cause(priority=Priority.PREFETCH))
    )
    await registry.held(gate)
    client = bench.start()
    await until(lambda: all(each.layers for each in bench.parts.running.list()))
    busy = asyncio.create_task(always_busy(bench))
    gate.opened.set()
    async with asyncio.timeout(10):
        assert (await client).received > 3_000_000
    busy.cancel()
    await prefetch


async def always_busy(bench: Bench) -> None:
    """Bytes of another client's pull."""
    host, pull = Host("https", "elsewhere.example", ""), Activity()
    while True:
        await bench.parts.client.traffic.admit(host, 1 << 20, pull)
        await asyncio.sleep(0.05)
