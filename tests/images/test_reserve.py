"""`disk_reserve` and a part of the inodes stay free, whatever pulls fetch and unpack; and what
unfinished pulls left makes room for the next."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri_imaged.config.values import ByteSize
from cri_imaged.errors import NoSpaceError
from cri_imaged.full_disk import inodes_left
from cri_imaged.images.pull.reserve import Reserve, offender
from cri_imaged.images.volume import Volume
from cri_imaged.layers.worker.headroom import step
from cri_imaged.limits import KIB, MIB
from cri_imaged.ports import Usage
from tests.images.gated import GatedRegistry
from tests.images.workbench import Bench, image_of, layer, serve, until
from tests.support import images
from tests.support.images import random_bytes
from tests.support.loopfs import LoopFileSystem

RESERVE = 24 * MIB
TOLERANCE = 2 * MIB
"""What the file system itself notes."""

usages = st.builds(Usage, st.integers(0, 1 << 40), st.integers(0, 1 << 20))


@given(st.lists(usages, min_size=1), st.booleans())
def test_the_largest_pull_ends_and_of_equal_ones_the_newest(
    taken: list[Usage], bytes_left: bool
) -> None:
    def size(usage: Usage) -> int:
        return usage.inodes if bytes_left else usage.bytes

    worst = offender(dict(enumerate(taken)), bytes_left=bytes_left)
    assert all(size(each) <= size(taken[worst]) for each in taken)
    assert all(size(each) < size(taken[worst]) for each in taken[worst + 1 :])


@given(st.integers(0, 1 << 30), st.integers(0, 1 << 16), st.integers(0, 1 << 20))
def test_a_worker_looks_again_before_it_can_have_used_up_what_there_is(
    room: int, reserve: int, inodes: int
) -> None:
    total = 1 << 20
    free = (room + reserve) // 4096
    disk = os.statvfs_result((4096, 4096, free, free, free, total, inodes, inodes, 0, 255))
    allowed = step(disk, reserve)
    assert allowed > 0
    assert allowed <= 64 * KIB or 8 * allowed <= free * 4096 - reserve
    left = inodes_left(disk)
    assert left is not None
    assert allowed // 512 <= max(1, left)


class Disk:
    """A bench on a small disk of its own, and the least that was free on it."""

    def __init__(self, bench: Bench, disk: LoopFileSystem) -> None:
        self.bench, self.disk = bench, disk
        self.least, self.least_inodes = disk.free(), disk.free_inodes()

    async def watch(self) -> None:
        while True:
            self.least = min(self.least, self.disk.free())
            self.least_inodes = min(self.least_inodes, self.disk.free_inodes())
            await asyncio.sleep(0.002)


@asynccontextmanager
async def small_disk(
    place: Path, registry: GatedRegistry, *, inodes: int = 0
) -> AsyncIterator[Disk]:
    root = place / "disk"
    disk = LoopFileSystem(place / "disk.img", root, megabytes=96, inodes=inodes)
    await asyncio.to_thread(disk.__enter__)
    try:
        options = {"disk_reserve": ByteSize(RESERVE)}
        async with Bench.open(root / "root", registry, **options) as bench:
            opened = Disk(bench, disk)
            watch = asyncio.create_task(opened.watch())
            yield opened
            watch.cancel()
    finally:
        await asyncio.to_thread(disk.__exit__)


def zeros(megabytes: int) -> images.Layer:
    """Next to nothing to fetch, and so much to unpack."""
    return images.layer({f"zeros{n}": images.file(bytes(MIB)) for n in range(megabytes)})


async def test_what_is_unpacked_leaves_the_reserve_free(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    serve(registry, image_of(zeros(100)), "bomb")
    serve(registry, image_of(zeros(8)), "small")
    async with small_disk(tmp_path, registry) as disk:
        with pytest.raises(NoSpaceError, match="disk_reserve"):
            await disk.bench.pull("bomb")
        assert disk.least >= RESERVE - TOLERANCE
        await disk.bench.pull("small")
        await disk.bench.parts.remover.remove(disk.bench.name("small"))
        await disk.bench.nothing_is_left()


async def test_the_pull_that_takes_most_ends_and_the_one_beside_it_goes_on(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    serve(registry, image_of(zeros(100)), "bomb")
    honest = image_of(layer(0, 2 * MIB), layer(1, 2 * MIB))
    put = serve(registry, honest)
    gate = registry.hold(put.layers[0].digest, 1000)
    async with small_disk(tmp_path, registry) as disk:
        pull = disk.bench.start()
        await registry.held(gate)
        bomb = disk.bench.start("bomb")
        await asyncio.wait([bomb])
        assert isinstance(bomb.exception(), NoSpaceError)
        gate.opened.set()
        assert (await pull).image.id == honest.id
        assert disk.least >= RESERVE - TOLERANCE


class Taken:
    """A `Writing` that took so many bytes."""

    outstanding = 0

    def __init__(self, size: int) -> None:
        self._usage = Usage(size, 1)

    async def taken(self) -> Usage:
        return self._usage


async def test_while_a_pull_that_failed_gives_back_no_other_is_ended(tmp_path: Path) -> None:
    looked = 0

    async def make_room() -> None:
        nonlocal looked
        looked += 1

    reserve = Reserve(Volume(tmp_path, reserve=1 << 60), make_room)  # which is never free
    watch = asyncio.create_task(reserve.watch())
    with reserve.claim(Taken(1)) as honest, honest.at_work():
        with reserve.claim(Taken(100 * MIB)) as bomb:
            with pytest.raises(ValueError, match="bomb"), bomb.at_work():
                raise ValueError("bomb")
            await until(lambda: looked > 2)
        assert not honest.gives_back
        with pytest.raises(asyncio.CancelledError):  # now it is alone
            await asyncio.wait_for(asyncio.Event().wait(), 20)
        assert honest.gives_back
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
    watch.cancel()


async def test_pulls_that_fit_alone_leave_the_reserve_free_together(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    tags = [f"{number}" for number in range(4)]
    for number, tag in enumerate(tags):
        files = {f"{number}": images.file(random_bytes(4 * MIB)), "z": images.file(bytes(16 * MIB))}
        serve(registry, image_of(images.layer(files)), tag)
    async with small_disk(tmp_path, registry) as disk:
        pulls = [disk.bench.start(tag) for tag in tags]
        await asyncio.wait(pulls)
        failures = [pull.exception() for pull in pulls if pull.exception() is not None]
        assert all(isinstance(each, NoSpaceError) for each in failures)
        assert 1 <= len(failures) < len(pulls)
        assert disk.least >= RESERVE - TOLERANCE


async def test_what_a_pull_is_still_to_bring_is_no_room_for_another(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    put = serve(registry, image_of(layer(0, 8 * MIB)), "first")
    gate = registry.hold(put.layers[0].digest, MIB)
    serve(registry, image_of(layer(1, 6 * MIB)), "second")
    async with small_disk(tmp_path, registry) as disk:
        filler = disk.disk.mount_point / "filler"
        await asyncio.to_thread(disk.disk.fill_up_to, filler, RESERVE + 12 * MIB)
        pull = disk.bench.start("first")
        await registry.held(gate)
        with pytest.raises(NoSpaceError, match="other pulls bring"):
            await disk.bench.pull("second")
        pull.cancel()
        await asyncio.wait([pull])


async def test_a_twentieth_of_the_inodes_stays_free(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    many = images.layer({f"{number}": images.file("x") for number in range(3000)})
    serve(registry, image_of(many))
    async with small_disk(tmp_path, registry, inodes=2048) as disk:
        with pytest.raises(NoSpaceError, match="too few inodes"):
            await disk.bench.pull()
        assert disk.least_inodes >= 2048 // 20 - 16


async def test_what_seals_make_leaves_a_twentieth_of_the_inodes_free(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    """Native makes the directories of the layers below once more for each layer."""
    many = images.layer({f"{number}": images.directory() for number in range(500)})
    serve(registry, image_of(many, *(layer(number) for number in range(5))))
    async with small_disk(tmp_path, registry, inodes=2048) as disk:
        with pytest.raises(NoSpaceError, match="too few inodes"):
            await disk.bench.pull()
        assert disk.least_inodes >= 2048 // 20 - 16


async def test_what_seals_copy_leaves_the_reserve_free_and_counts_as_the_pulls(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    """A hardlink to a file of a layer below is a copy of it."""
    bottom = images.layer({"zeros": images.file(bytes(16 * MIB))})
    links = [images.layer({f"link{n}": images.hardlink("zeros")}) for n in range(5)]
    serve(registry, image_of(bottom, *links), "copies")
    honest = image_of(layer(0, 8 * MIB))
    put = serve(registry, honest)
    gate = registry.hold(put.layers[0].digest, 7 * MIB)
    async with small_disk(tmp_path, registry) as disk:
        pull = disk.bench.start()
        await registry.held(gate)
        with pytest.raises(NoSpaceError, match="disk_reserve"):
            await disk.bench.pull("copies")
        gate.opened.set()
        assert (await pull).image.id == honest.id
        assert disk.least >= RESERVE - TOLERANCE


async def test_what_an_unfinished_pull_left_goes_before_another_is_refused(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    """The part of a blob that is kept to be resumed is room for another image."""
    put = serve(registry, image_of(layer(0, 9 * MIB)), "left")
    gate = registry.hold(put.layers[0].digest, 7 * MIB)
    serve(registry, image_of(layer(1, 6 * MIB)), "other")
    async with small_disk(tmp_path, registry) as disk:
        pull = disk.bench.start("left")
        await registry.held(gate)
        await until(lambda: sum(disk.bench.partial().values()) == 7 * MIB)
        pull.cancel()
        await asyncio.wait([pull])
        await disk.bench.parts.collector.collect_now(resumable=False)
        assert sum(disk.bench.partial().values()) == 7 * MIB
        filler = disk.disk.mount_point / "filler"
        await asyncio.to_thread(disk.disk.fill_up_to, filler, RESERVE + 10 * MIB)
        await disk.bench.pull("other")
        assert disk.bench.partial() == {}
        assert disk.least >= RESERVE - TOLERANCE


def test_leftovers_take_a_tenth_of_a_small_disk_and_the_limit_of_a_large_one(
    tmp_path: Path,
) -> None:
    info = os.statvfs(tmp_path)
    size = info.f_blocks * info.f_frsize
    volume = Volume(tmp_path, reserve=0)
    assert volume.resumable_bytes(2 * size) == size // 10
    assert volume.resumable_bytes(MIB) == MIB


@pytest.mark.parametrize(("megabytes", "kept"), [(3, True), (12, False)])
async def test_snapshots_that_an_unfinished_pull_left_count_as_leftovers(
    tmp_path: Path, registry: GatedRegistry, megabytes: int, *, kept: bool
) -> None:
    """Compressed, the layer is next to nothing; leftovers are kept up to a tenth of the disk."""
    put = serve(registry, image_of(zeros(megabytes), layer(1, 70_000)))
    registry.hold(put.layers[1].digest, 1000)
    committed = "SELECT * FROM snapshots WHERE chain_id IS NOT NULL"
    async with small_disk(tmp_path, registry) as disk:
        pull = disk.bench.start()
        await until(lambda: disk.bench.rows(committed))
        pull.cancel()
        await asyncio.wait([pull])
        await until(lambda: "pull" not in disk.bench.leases())
        await disk.bench.parts.collector.collect_now(resumable=False)
        assert bool(disk.bench.rows(committed)) == kept
