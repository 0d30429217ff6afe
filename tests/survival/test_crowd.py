"""Many clients at once: pulls, removals, lists, views and collections of overlapping images, with
cancellations at random moments. What is shown mounts, all the time; and afterwards nothing is left:
no row, no file, no process, no thread, no descriptor, no request.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import grpc
import pytest

from cri_imaged import disk, mounting
from cri_imaged.ports import Mount
from cri_imaged.rpc.node.v1 import node_pb2 as node
from cri_imaged.rpc.node.v1 import node_pb2_grpc
from cri_imaged.rpc.runtime.v1 import api_pb2, api_pb2_grpc
from tests.support.oracle import Oracle, Sample, check_store, processes_of, release_views
from tests.support.process import wait_until
from tests.support.registry import BLOB, Fault
from tests.support.store import contents
from tests.survival.conftest import SECONDS, SEED, Scratch, chance
from tests.survival.samples import family
from tests.survival.victim import Source, Victim

pytestmark = pytest.mark.real

CLIENTS = 64
NEVER_REMOVED = 0

# Pools start their threads one by one, when many tasks wait. A leak has one for each of hundreds.
POOLED = disk.THREADS + min(32, (os.cpu_count() or 1) + 4)

EXPECTED = {
    "pull": {"OK", "CANCELLED", "DEADLINE_EXCEEDED"},
    "remove": {"OK", "CANCELLED", "DEADLINE_EXCEEDED"},
    "list": {"OK"},
    "fs info": {"OK"},
    "collect": {"OK", "CANCELLED", "DEADLINE_EXCEEDED"},
    "view": {"OK", "NOT_FOUND"},
}


class Crowd:
    """Clients that share a daemon and do whatever comes to their minds."""

    def __init__(
        self, victim: Victim, samples: list[Sample], references: list[str], place: Path
    ) -> None:
        self.victim, self.samples, self.references, self.place = victim, samples, references, place
        self.oracle = Oracle(samples)
        self.codes: Counter[tuple[str, str]] = Counter()
        self.complaints: list[str] = []

    async def live(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        async with grpc.aio.insecure_channel(self.victim.endpoint) as channel:
            self.images = api_pb2_grpc.ImageServiceStub(channel)
            self.node = node_pb2_grpc.NodeStub(channel)
            async with asyncio.TaskGroup() as group:
                for number in range(CLIENTS):
                    group.create_task(self._client(random.Random(f"{SEED} {number}"), end))

    async def _client(self, dice: random.Random, end: float) -> None:
        acts: list[tuple[int, str, Callable[[random.Random], Awaitable[object]]]] = [
            (10, "pull", self._pull),
            (6, "remove", self._remove),
            (3, "list", self._list),
            (2, "fs info", self._fs_info),
            (1, "collect", self._collect),
            (3, "view", self._view),
        ]
        weights = [weight for weight, _, _ in acts]
        while time.monotonic() < end:
            _, name, act = dice.choices(acts, weights)[0]
            try:
                await act(dice)
                code = "OK"
            except grpc.aio.AioRpcError as error:
                code = error.code().name
                if code not in EXPECTED[name]:
                    self.complaints.append(f"{name}: {code} {error.details()}")
            except asyncio.CancelledError:
                if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                    raise
                code = "CANCELLED"
            self.codes[name, code] += 1

    async def _perhaps_not(self, dice: random.Random, call: grpc.aio.UnaryUnaryCall) -> None:
        """Wait for the answer, or cancel at some moment."""
        if dice.random() < 0.25:
            await asyncio.sleep(dice.uniform(0, 0.3))
            call.cancel()
        await call

    async def _pull(self, dice: random.Random) -> None:
        number = dice.randrange(len(self.references))
        request = api_pb2.PullImageRequest()
        request.image.image = self.references[number]
        timeout = dice.uniform(0.01, 1) if dice.random() < 0.2 else 120
        await self._perhaps_not(dice, self.images.PullImage(request, timeout=timeout))

    async def _remove(self, dice: random.Random) -> None:
        number = dice.randrange(NEVER_REMOVED + 1, len(self.references))
        request = api_pb2.RemoveImageRequest()
        name = dice.choice((self.references[number], self.samples[number].image.id))
        request.image.image = name
        await self._perhaps_not(dice, self.images.RemoveImage(request, timeout=60))

    async def _list(self, dice: random.Random) -> None:
        answer = await self.images.ListImages(api_pb2.ListImagesRequest(), timeout=60)
        shown = [image.id for image in answer.images]
        if len(shown) != len(set(shown)) or not set(shown) <= self.oracle.samples.keys():
            self.complaints.append(f"list shows {shown}")
        if self.samples[NEVER_REMOVED].image.id not in shown:
            self.complaints.append("list lacks the image that nobody removes")

    async def _fs_info(self, dice: random.Random) -> None:
        answer = await self.images.ImageFsInfo(api_pb2.ImageFsInfoRequest(), timeout=60)
        if not answer.image_filesystems[0].used_bytes.value:
            self.complaints.append("ImageFsInfo says that nothing is used")

    async def _collect(self, dice: random.Random) -> None:
        request = node.CollectGarbageRequest(resumable=dice.random() < 0.5)
        await self._perhaps_not(dice, self.node.CollectGarbage(request, timeout=120))

    async def _view(self, dice: random.Random) -> None:
        """An image that is shown mounts, and stays whole though it is removed meanwhile. Between
        List and CreateView somebody may remove it."""
        answer = await self.images.ListImages(api_pb2.ListImagesRequest(), timeout=60)
        image_id = dice.choice(answer.images).id
        request = node.CreateViewRequest(image=image_id, key=uuid.uuid4().hex)
        try:
            view = await self.node.CreateView(request, timeout=60)
        except grpc.aio.AioRpcError:
            if image_id == self.samples[NEVER_REMOVED].image.id:
                self.complaints.append("the image that nobody removes cannot be mounted")
            raise
        await asyncio.to_thread(self._look, image_id, view.mounts)
        await self.node.ReleaseView(node.ReleaseViewRequest(key=view.key), timeout=60)

    def _look(self, image_id: str, mounts: list[node.Mount]) -> None:
        target = self.place / uuid.uuid4().hex
        target.mkdir()
        for each in mounts:
            mounting.mount(Mount(each.type, each.source, tuple(each.options)), target)
        try:
            self.oracle.compare(image_id, target)
        except AssertionError as error:
            self.complaints.append(str(error))
        finally:
            for _ in mounts:
                mounting.unmount(target)
            target.rmdir()


@pytest.fixture(params=["overlay", "native", "erofs"])
def victim(request: pytest.FixtureRequest, scratch: Scratch) -> Iterator[Victim]:
    running = Victim(scratch("crowd"), snapshotter=request.param)
    running.start()
    try:
        yield running
    finally:
        running.kill()


def tracebacks(victim: Victim) -> list[str]:
    """What was logged of errors that nobody expected."""
    return [line["exception"] for line in victim.log_lines() if "exception" in line]


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


async def test_a_crowd(victim: Victim, scratch: Scratch, source: Source) -> None:
    samples = [*family(SEED), *family(SEED + 1)]
    place = source.place()
    references = [
        source.add(sample, f"{place}/s{number}:1") for number, sample in enumerate(samples)
    ]
    dice = chance("crowd", victim.snapshotter)
    source.registry.faults[:] = [Fault(where=BLOB, pace=dice.choice((0.005, 0.02)))]
    fresh = contents(victim.root)
    crowd = Crowd(victim, samples, references, scratch("mounts"))
    pid = victim.process.pid
    # Once with a few, so that all that is made at first use is there.
    await asyncio.to_thread(victim.pull, references[NEVER_REMOVED])
    await crowd.live(2)
    processes = len(processes_of(pid))
    await asyncio.to_thread(settle, victim, source, processes)
    before = descriptors(pid), threads(pid)

    await crowd.live(SECONDS / 2)
    assert crowd.complaints == [], tracebacks(victim)
    for name in EXPECTED:
        assert crowd.codes[name, "OK"] > 0, crowd.codes
    assert crowd.codes["pull", "CANCELLED"] > 0

    await asyncio.to_thread(settle, victim, source, processes)
    assert threads(pid) <= before[1] + POOLED
    await asyncio.to_thread(
        wait_until, lambda: descriptors(pid) <= before[0], "descriptors are closed", victim.process
    )
    assert tracebacks(victim) == []
    await asyncio.to_thread(release_views, victim)
    await asyncio.to_thread(crowd.oracle.check, victim)
    await asyncio.to_thread(check_store, victim)
    await asyncio.to_thread(crowd.oracle.check_empty, victim, fresh)


def settle(victim: Victim, source: Source, processes: int) -> None:
    """Wait until what was given up has ended."""
    wait_until(lambda: source.registry.active == 0, "no request is under way", victim.process)
    wait_until(
        lambda: len(processes_of(victim.process.pid)) <= processes,
        "no worker lives",
        victim.process,
    )
