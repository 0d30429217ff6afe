"""Bytes that come at the rate that is allowed: by priority, and fairly among pulls."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri_imaged.ports import Activity, Priority
from cri_imaged.registry.hosts.host import Host
from cri_imaged.registry.http.bucket import Bucket, Payment
from cri_imaged.registry.http.traffic import Caps, Traffic
from tests.registry.helpers import REPOSITORY, client, noise, read, resolve
from tests.support.registry import FaultRegistry

HOST = Host("https", "registry.example", "")
PREFETCH, REPAIR = Priority.PREFETCH, Priority.REPAIR


class Served:
    """A bucket at a rate of 1000, its clock, and what it has served."""

    def __init__(self) -> None:
        self.bucket = Bucket(lambda: 1000.0)
        self.now = 0.0
        self.order: list[Activity] = []
        self.bytes: Counter[Activity] = Counter()

    def add(self, pull: Activity, size: int = 100) -> None:
        def served() -> None:
            self.order.append(pull)
            self.bytes[pull] += size

        self.bucket.add(Payment(size, pull, served))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while (left := self.bucket.serve(self.now)) is not None and self.now + left < end:
            self.now += left + 1e-9
        self.now = end


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 3000)), min_size=1, max_size=40))
def test_no_more_is_served_than_the_rate_gives(steps: list[tuple[float, int]]) -> None:
    served, pull = Served(), Activity()
    served.now = 50.0  # idle for long
    for pause, size in steps:
        served.add(pull, size)
        served.run(pause)
        most = 1000 * (served.now - 50.0) + 1000 * 0.25 + 3000
        assert served.bytes.total() <= most
    served.run(200)
    assert served.bytes.total() == sum(size for _, size in steps)


def test_a_pull_of_many_connections_gets_no_more_than_one_of_one() -> None:
    served, many, one = Served(), Activity(), Activity()
    for _ in range(50):
        served.add(many)
    for _ in range(10):
        served.add(one)
        served.run(0.2)
    assert abs(served.bytes[many] - served.bytes[one]) <= 200


def test_clients_go_first_then_prefetches_then_repairs() -> None:
    served = Served()
    served.add(Activity())
    served.run(0.01)
    repair, prefetch = Activity(priority=REPAIR), Activity(priority=PREFETCH)
    awaited, mine = Activity(priority=REPAIR), Activity()
    for pull in (repair, awaited, prefetch, mine):
        served.add(pull)
    awaited.awaited_by(mine)
    served.run(10)
    assert served.order[1:] == [awaited, mine, prefetch, repair]


def test_who_gave_up_waiting_pays_nothing() -> None:
    served = Served()
    served.add(Activity(), 1000)
    served.run(0)
    payment = Payment(10**9, Activity(), lambda: None)
    served.bucket.add(payment)
    served.bucket.drop(payment)
    last = Activity()
    served.add(last)
    served.run(1.1)
    assert served.order[-1] is last


async def test_who_has_a_lower_priority_waits_while_bytes_come_for_others() -> None:
    traffic = Traffic()
    await traffic.admit(HOST, 1 << 20, Activity())
    waits = asyncio.create_task(traffic.admit(HOST, 1, Activity(priority=PREFETCH)))
    async with asyncio.timeout(5):
        await traffic.admit(HOST, 1 << 20, Activity())
        assert not waits.done()
        await waits


async def test_a_peer_that_trickles_is_in_nobodys_way() -> None:
    traffic = Traffic()
    await traffic.admit(HOST, 1000, Activity())
    waits = asyncio.create_task(traffic.admit(HOST, 1, Activity(priority=REPAIR)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert waits.done()


@pytest.mark.parametrize("of_host", [False, True])
async def test_a_blob_waits_for_the_cap_and_for_nothing_when_it_is_lifted(of_host: bool) -> None:
    async with FaultRegistry() as registry, client() as opened:
        data = noise(3_000_000)
        layer = registry.add_image(REPOSITORY, "latest", [data]).layers[0]
        resolved = await resolve(opened, registry)
        cap = 1
        node = Caps(lambda: cap)
        opened.traffic.configure(Caps(hosts={registry.authority: cap}) if of_host else node)
        reading = asyncio.create_task(read(resolved.fetcher, layer))
        await asyncio.wait([reading], timeout=0.3)
        assert not reading.done()
        opened.traffic.configure(Caps(hosts={"other.example": 1}))
        async with asyncio.timeout(20):
            assert await reading == data
