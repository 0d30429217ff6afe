"""A blob read while it arrives: what the watermarks tell, and that they tell the truth."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator

import pytest

from cri_imaged.content.growth import Growth
from cri_imaged.errors import CorruptContentError, NotFoundError
from cri_imaged.limits import MIB
from cri_imaged.ports import (
    Available,
    Complete,
    Failed,
    LayerSource,
    Restart,
    Watermark,
)
from tests.content.workbench import Bench, descriptor

DATA = os.urandom(1000)


async def all_of(source: LayerSource) -> list[Watermark]:
    return [each async for each in source.watermarks()]


async def following(marks: AsyncIterator[Watermark]) -> Watermark:
    return await asyncio.wait_for(anext(marks), 10)


async def read(source: LayerSource, size: int) -> bytes:
    fd = await source.open()
    try:
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)


async def test_a_blob_that_is_there_is_complete(bench: Bench) -> None:
    digest = await bench.add(DATA)
    source = bench.store.source(digest)
    assert await all_of(source) == [Complete(1000)]
    assert await read(source, 2000) == DATA


async def test_bytes_as_they_arrive(bench: Bench) -> None:
    async with bench.store.writer(descriptor(DATA), bench.lease) as ingest:
        source = ingest.source()
        marks = source.watermarks()
        assert await following(marks) == Available(0)
        await ingest.write(DATA[:10])
        assert await following(marks) == Available(10)
        assert await read(source, 10) == DATA[:10]
        waiting = asyncio.create_task(following(marks))
        await asyncio.sleep(0)
        assert not waiting.done()
        await ingest.write(DATA[10:])
        assert await waiting == Available(1000)
        await ingest.commit()
        assert await following(marks) == Complete(1000)
        with pytest.raises(StopAsyncIteration):
            await anext(marks)
    assert await read(source, 2000) == DATA


async def test_a_slow_reader_sees_the_newest_state_alone() -> None:
    growth = Growth(0)
    marks = growth.watermarks(growth.generation)
    assert await following(marks) == Available(0)
    for at in range(0, 1000, 10):
        growth.grown(at + 10)
    assert await following(marks) == Available(1000)


async def test_a_resumed_blob_begins_with_what_is_there(bench: Bench) -> None:
    await bench.leave(DATA, 300)
    async with bench.store.writer(descriptor(DATA), bench.lease) as ingest:
        assert await following(ingest.source().watermarks()) == Available(300)


async def test_a_restart_is_never_missed(bench: Bench) -> None:
    async with bench.store.writer(descriptor(DATA), bench.lease) as ingest:
        await ingest.write(DATA[::-1])
        source = ingest.source()
        marks = source.watermarks()
        while await following(marks) != Available(1000):
            pass
        old = await source.open()
        with pytest.raises(CorruptContentError):
            await ingest.commit()
        await ingest.restart()
        await ingest.write(DATA)
        await ingest.commit()
        assert await following(marks) == Restart()
        assert await following(marks) == Complete(1000)
        assert os.pread(old, 2000, 0) == DATA[::-1]
        os.close(old)
        assert await read(source, 2000) == DATA


async def test_who_comes_during_a_restart_is_told_of_no_more_than_there_is(bench: Bench) -> None:
    data = bytes(64 * MIB)  # so much takes a while to be let go
    async with bench.store.writer(descriptor(data), bench.lease) as ingest:
        await ingest.write(data)
        marks = ingest.source().watermarks()
        while await following(marks) != Available(len(data)):
            pass
        restart = asyncio.create_task(ingest.restart())
        while not restart.done():
            source = ingest.source()
            fd = await source.open()
            mark = await following(source.watermarks())
            if isinstance(mark, Available):
                assert os.fstat(fd).st_size >= mark.size
            os.close(fd)


async def test_who_comes_after_a_restart_hears_nothing_of_it(bench: Bench) -> None:
    async with bench.store.writer(descriptor(DATA), bench.lease) as ingest:
        await ingest.write(b"x")
        await ingest.restart()
        assert await following(ingest.source().watermarks()) == Available(0)


async def test_a_fetch_that_is_given_up(bench: Bench) -> None:
    async with bench.store.writer(descriptor(DATA), bench.lease) as ingest:
        source = ingest.source()
        await ingest.write(DATA[:5])
    (end,) = await all_of(source)
    assert isinstance(end, Failed)
    assert str(descriptor(DATA).digest) in end.reason


async def test_a_source_outlives_its_writer(bench: Bench) -> None:
    async with bench.store.writer(descriptor(DATA), bench.lease) as ingest:
        source = ingest.source()
        await ingest.write(DATA)
        await ingest.commit()
    assert await all_of(source) == [Complete(1000)]
    assert await read(source, 2000) == DATA


async def follow(source: LayerSource, random: random.Random) -> bytes | None:
    """What a reader makes of the source; None where it failed."""
    try:
        held, fd = b"", await source.open()
    except NotFoundError:
        return None
    try:
        async for mark in source.watermarks():
            match mark:
                case Restart():
                    held, old = b"", fd
                    fd = await source.open()
                    os.close(old)
                case Failed():
                    return None
                case Available(size) | Complete(size):
                    assert size >= len(held)
                    held += os.pread(fd, size - len(held), len(held))
                    assert len(held) == size
            for _ in range(random.randrange(4)):
                await asyncio.sleep(0)
        return held
    finally:
        os.close(fd)


@pytest.mark.parametrize("seed", range(40))
async def test_every_reader_gets_the_blob_or_hears_that_it_failed(bench: Bench, seed: int) -> None:
    chance = random.Random(seed)
    data = chance.randbytes(2000)
    readers: list[asyncio.Task[bytes | None]] = []
    committed = False
    async with bench.store.writer(descriptor(data), bench.lease) as ingest:
        while ingest.offset < len(data):
            dice = chance.random()
            if dice < 0.01:
                break
            if dice < 0.06:
                await ingest.restart()
            elif dice < 0.3:
                reader = follow(ingest.source(), random.Random(chance.random()))
                readers.append(asyncio.create_task(reader))
            else:
                await ingest.write(data[ingest.offset : ingest.offset + chance.randrange(1, 90)])
            await asyncio.sleep(0)
        else:
            await ingest.commit()
            committed = True
    found = await asyncio.wait_for(asyncio.gather(*readers), 30)
    assert found == [data if committed else None] * len(readers)
