"""What every content store does, through `ports.ContentStore` alone.

At least the cases of containerd's core/content/testsuite, as far as an image daemon has them
(Writer, CommitExists, Resume, ResumeTruncate, ResumeDiscard, ResumeCopy, SmallBlob,
CommitErrorState): refs are digests here, and there are no labels and no namespaces.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager

import pytest

from cri_imaged import disk
from cri_imaged.errors import (
    CorruptContentError,
    LimitExceededError,
    NoSpaceError,
    NotFoundError,
)
from cri_imaged.limits import KIB, MIB
from cri_imaged.metadata import leases
from cri_imaged.ports import Ingest, Lease
from cri_imaged.threads import Threads
from tests.content.workbench import PIECE, Bench, bring, descriptor, present

DATA = os.urandom(256)
BIG = os.urandom(3 << 20) * 2


async def stored(bench: Bench, data: bytes, algorithm: str = "sha256") -> bytes:
    with bench.store.path(descriptor(data, algorithm).digest).open("rb") as file:
        return file.read()


# --- writing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize(
    ("data", "piece"),
    [(b"", 1), (b"x", 1), (DATA, 32), (BIG, 100_000)],
    ids=["empty", "byte", "small", "big"],
)
async def test_what_is_written_is_there(
    bench: Bench, data: bytes, piece: int, algorithm: str
) -> None:
    wanted = descriptor(data, algorithm)
    assert await bench.store.info(wanted.digest) is None
    async with bench.store.writer(wanted, bench.lease) as ingest:
        for at in range(0, len(data), piece):
            assert ingest.offset == at
            await ingest.write(data[at : at + piece])
        assert await ingest.commit() == present(data, algorithm)
    assert await bench.store.info(wanted.digest) == present(data, algorithm)
    assert await stored(bench, data, algorithm) == data
    assert await bench.store.read(wanted.digest, len(data)) == data
    assert await bench.store.verify(wanted.digest)
    assert await bench.held_by(bench.lease) == {wanted.digest}


async def test_several_writers_at_once(bench: Bench) -> None:
    blobs = [os.urandom(1000) for _ in range(5)]

    async def write(data: bytes) -> None:
        async with bench.store.writer(descriptor(data), bench.lease) as ingest:
            for at in range(0, len(data), 10):
                await ingest.write(data[at : at + 10])
                await asyncio.sleep(0)
            await ingest.commit()

    async with asyncio.TaskGroup() as group:
        for data in blobs:
            group.create_task(write(data))
    for data in blobs:
        assert await stored(bench, data) == data


async def test_one_writer_at_a_time_for_each_digest(bench: Bench) -> None:
    async def second() -> int:
        async with bench.store.writer(descriptor(DATA), bench.lease) as ingest:
            return ingest.offset

    async with bench.store.writer(descriptor(DATA), bench.lease) as ingest:
        await ingest.write(DATA[:3])
        waiting = asyncio.create_task(second())
        await asyncio.sleep(0)
        assert not waiting.done()
    assert await waiting == 3


async def test_a_blob_that_is_there_may_be_written_again(bench: Bench) -> None:
    await bench.add(DATA)
    other = leases.new()
    await bench.database.write(lambda db: leases.insert(db, other))
    async with bench.store.writer(descriptor(DATA), other) as ingest:
        assert ingest.offset == 0
        await ingest.write(DATA)
        await ingest.commit()
    assert await stored(bench, DATA) == DATA
    assert await bench.held_by(other) == {descriptor(DATA).digest}


async def test_committing_twice_changes_nothing(bench: Bench) -> None:
    async with bench.store.writer(descriptor(DATA), bench.lease) as ingest:
        await ingest.write(DATA)
        assert await ingest.commit() == await ingest.commit()
    assert await stored(bench, DATA) == DATA


@pytest.mark.parametrize("steps", range(4))
async def test_a_cancelled_commit_may_be_repeated(bench: Bench, steps: int) -> None:
    """The next waiter of a flight commits what the one before it was cancelled at."""
    async with bench.store.writer(descriptor(DATA), bench.lease) as ingest:
        await ingest.write(DATA)
        commit = asyncio.create_task(ingest.commit())
        for _ in range(steps):
            await asyncio.sleep(0)
        commit.cancel()
        await asyncio.wait([commit])
        assert await ingest.commit() == present(DATA)
    assert await stored(bench, DATA) == DATA


# --- what is wrong ---------------------------------------------------------------------------


async def test_wrong_bytes_are_refused_and_may_be_replaced(bench: Bench) -> None:
    wanted = descriptor(DATA)
    async with bench.store.writer(wanted, bench.lease) as ingest:
        await ingest.write(DATA[::-1])
        with pytest.raises(CorruptContentError, match=f"{wanted.digest} has other bytes"):
            await ingest.commit()
        assert await bench.store.info(wanted.digest) is None
        await ingest.restart()
        assert ingest.offset == 0
        await ingest.write(DATA)
        await ingest.commit()
    assert await stored(bench, DATA) == DATA


async def test_too_few_bytes_are_refused_and_may_be_completed(bench: Bench) -> None:
    async with bench.store.writer(descriptor(DATA), bench.lease) as ingest:
        await ingest.write(DATA[:255])
        with pytest.raises(CorruptContentError, match="has 255 bytes, its descriptor says 256"):
            await ingest.commit()
        await ingest.write(DATA[255:])
        await ingest.commit()
    assert await stored(bench, DATA) == DATA


async def test_a_blob_longer_than_its_descriptor_is_cut_off_at_once(bench: Bench) -> None:
    wanted = descriptor(DATA, size=200)
    async with bench.store.writer(wanted, bench.lease) as ingest:
        await ingest.write(DATA[:199])
        with pytest.raises(CorruptContentError, match="longer than its descriptor's 200 bytes"):
            await ingest.write(DATA[199:])
        assert ingest.offset == 199
    assert sum(bench.on_disk().values()) == 199


async def test_a_descriptor_with_the_wrong_size(bench: Bench) -> None:
    wanted = descriptor(DATA, size=257)
    async with bench.store.writer(wanted, bench.lease) as ingest:
        await ingest.write(DATA)
        with pytest.raises(CorruptContentError, match="256 bytes, its descriptor says 257"):
            await ingest.commit()
    assert await bench.store.info(wanted.digest) is None


# --- resuming --------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [1, 128, 255, 256])
async def test_a_later_writer_goes_on_where_the_first_one_stopped(bench: Bench, held: int) -> None:
    await bench.leave(DATA, held)
    assert await bench.store.info(descriptor(DATA).digest) is None
    async with bench.store.writer(descriptor(DATA), bench.lease) as ingest:
        assert ingest.offset == held
        await ingest.write(DATA[held:])
        await ingest.commit()
    assert await stored(bench, DATA) == DATA


async def test_partial_blobs_survive_a_restart(bench: Bench) -> None:
    await bench.leave(BIG, 2 << 20)
    again = Bench(bench.root, bench.database, bench.trash)
    await again.store.reap()
    async with again.store.writer(descriptor(BIG), bench.lease) as ingest:
        assert ingest.offset == 2 << 20
        await ingest.write(BIG[2 << 20 :])
        await ingest.commit()
    assert await stored(again, BIG) == BIG


async def test_a_resumed_blob_may_be_discarded(bench: Bench) -> None:
    await bench.leave(DATA, 100)
    async with bench.store.writer(descriptor(DATA), bench.lease) as ingest:
        await ingest.restart()
        assert ingest.offset == 0
    assert bench.on_disk() == {}


async def test_resumed_bytes_that_are_wrong_are_found_out(bench: Bench) -> None:
    await bench.leave(DATA, 128)
    (name,) = bench.on_disk()
    (bench.root / "content" / name).write_bytes(bytes(128))
    async with bench.store.writer(descriptor(DATA), bench.lease) as ingest:
        assert ingest.offset == 128
        await ingest.write(DATA[128:])
        with pytest.raises(CorruptContentError, match="other bytes"):
            await ingest.commit()


async def test_more_partial_bytes_than_the_descriptor_allows_are_thrown_away(bench: Bench) -> None:
    await bench.leave(DATA, 200)
    async with bench.store.writer(descriptor(DATA, size=100), bench.lease) as ingest:
        assert ingest.offset == 0


async def test_a_writer_that_is_left_early_keeps_what_it_has(bench: Bench) -> None:
    async def fail() -> None:
        async with bench.store.writer(descriptor(DATA), bench.lease) as ingest:
            await ingest.write(DATA[:9])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with bench.store.writer(descriptor(DATA), bench.lease) as ingest:
        assert ingest.offset == 9


@pytest.mark.parametrize("steps", range(5))
async def test_cancelled_while_it_takes_up_partial_bytes(bench: Bench, steps: int) -> None:
    await bench.leave(BIG, len(BIG) - 1)

    async def resume() -> None:
        async with bench.store.writer(descriptor(BIG), bench.lease):
            await asyncio.sleep(0)

    task = asyncio.create_task(resume())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    async with bench.store.writer(descriptor(BIG), bench.lease) as ingest:
        assert ingest.offset == len(BIG) - 1
        await ingest.write(BIG[-1:])
        await ingest.commit()


async def test_an_ingest_without_bytes_leaves_nothing(bench: Bench) -> None:
    async with bench.store.writer(descriptor(DATA), bench.lease):
        pass
    assert bench.on_disk() == {}


# --- small documents -------------------------------------------------------------------------


async def test_put(bench: Bench) -> None:
    digest = descriptor(DATA).digest
    await bench.store.put(digest, DATA, bench.lease)
    assert await bench.store.info(digest) == present(DATA)
    assert await stored(bench, DATA) == DATA
    assert await bench.held_by(bench.lease) == {digest}
    assert len(bench.on_disk()) == 1


async def test_many_put_the_same_at_once(bench: Bench) -> None:
    digest = descriptor(DATA).digest
    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(bench.store.put(digest, DATA, bench.lease))
    assert await stored(bench, DATA) == DATA
    assert len(bench.on_disk()) == 1


@pytest.mark.parametrize("steps", range(4))
async def test_a_cancelled_put_leaves_no_file_behind(bench: Bench, steps: int) -> None:
    digest = descriptor(DATA).digest
    task = asyncio.create_task(bench.store.put(digest, DATA, bench.lease))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    info = await bench.store.info(digest)  # after whatever the cancelled put had begun
    assert len(bench.on_disk()) == (0 if info is None else 1)


async def test_read_is_capped_and_verified(bench: Bench) -> None:
    digest = await bench.add(DATA)
    with pytest.raises(LimitExceededError, match="more than 255 bytes"):
        await bench.store.read(digest, 255)
    (name,) = bench.on_disk()
    (bench.root / "content" / name).write_bytes(DATA[::-1])
    with pytest.raises(CorruptContentError, match="damaged on disk"):
        await bench.store.read(digest, 256)
    assert not await bench.store.verify(digest)


async def test_what_was_never_there(bench: Bench) -> None:
    digest = descriptor(DATA).digest
    assert await bench.store.info(digest) is None
    assert await bench.store.hold(digest, bench.lease) is None
    assert not await bench.store.verify(digest)
    assert not await bench.store.has_file(digest)
    with pytest.raises(NotFoundError):
        await bench.store.read(digest, 10)
    with pytest.raises(NotFoundError):
        await bench.store.source(digest).open()
    assert await bench.held_by(bench.lease) == set()


async def test_hold(bench: Bench) -> None:
    digest = await bench.add(DATA)
    other = Lease("other")
    await bench.database.write(lambda db: leases.insert(db, other))
    assert await bench.store.hold(digest, other) == present(DATA)
    assert await bench.held_by(other) == {digest}


# --- a disk that is slow, or stands still -------------------------------------------------------


@contextmanager
def frozen_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Until the end. Tells what was written since: the size of each piece."""
    thawed = threading.Event()
    pwrite_now = os.pwrite
    written: list[int] = []

    def pwrite(fd: int, data: memoryview, at: int) -> int:
        thawed.wait(60)
        written.append(len(data))
        return pwrite_now(fd, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    try:
        yield written
    finally:
        thawed.set()


async def standstill(ingests: Sequence[Ingest]) -> None:
    """Until nobody brings more."""
    offsets = [-1]
    while offsets != (now := [ingest.offset for ingest in ingests]):
        offsets = now
        await asyncio.sleep(0.01)


async def test_what_comes_meanwhile_waits_up_to_a_bound(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop goes on, and whoever brings the bytes is held back."""
    async with bench.store.writer(descriptor(BIG), bench.lease) as ingest:
        with frozen_disk(monkeypatch):
            bringing = asyncio.create_task(bring(ingest, BIG))
            await standstill([ingest])
            assert not bringing.done()
            assert 0 < ingest.offset <= 4 * MIB + PIECE
        await bringing
    assert await bench.store.verify(descriptor(BIG).digest)


async def test_the_more_waits_of_all_the_less_waits_of_each(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = [bytes([number]) + BIG[1:] for number in range(20)]
    async with AsyncExitStack() as opened:
        ingests = [
            await opened.enter_async_context(bench.store.writer(descriptor(data), bench.lease))
            for data in blobs
        ]
        with frozen_disk(monkeypatch):
            bringing = [
                asyncio.create_task(bring(ingest, data))
                for ingest, data in zip(ingests, blobs, strict=True)
            ]
            await standstill(ingests)
            waiting = [ingest.offset for ingest in ingests]
            assert min(waiting) >= 256 * KIB
            assert sum(waiting) <= 16 * MIB + len(blobs) * (256 * KIB + PIECE)
        await asyncio.gather(*bringing)
    for data in blobs:
        assert await bench.store.verify(descriptor(data).digest)


async def test_a_blob_that_comes_lets_others_at_the_disk(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread writes for as long as there is something to write, but for them."""
    monkeypatch.setattr(disk, "_threads", Threads(1, "disk"))
    async with bench.store.writer(descriptor(BIG), bench.lease) as ingest:
        with frozen_disk(monkeypatch) as written:
            bringing = asyncio.create_task(bring(ingest, BIG))
            await standstill([ingest])
            before = disk.on_disk(lambda: sum(written))
        assert await before <= MIB
        await bringing


async def test_what_was_brought_is_kept_though_nobody_waited_for_it(bench: Bench) -> None:
    async with bench.store.writer(descriptor(BIG), bench.lease) as ingest:
        for at in range(0, 100_000, 1000):
            await ingest.write(BIG[at : at + 1000])
    assert list(bench.on_disk().values()) == [100_000]
    async with bench.store.writer(descriptor(BIG), bench.lease) as ingest:
        await ingest.write(BIG[100_000:])
        await ingest.commit()


@pytest.mark.parametrize("pieces", [1, 3, 40])
async def test_a_write_that_failed_is_told_and_begun_anew(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    written, left = os.pwrite, [pieces]

    def pwrite(fd: int, data: memoryview, at: int) -> int:
        left[0] -= 1
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(fd, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    async with bench.store.writer(descriptor(BIG), bench.lease) as ingest:
        with pytest.raises(NoSpaceError):
            await bring(ingest, BIG)
        assert ingest.offset == 0
        await ingest.write(BIG)
        assert await ingest.commit() == present(BIG)
    assert await bench.store.verify(descriptor(BIG).digest)
