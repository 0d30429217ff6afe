"""Windows of zstd over 8 MiB: their memory is drawn before it is taken."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cri_imaged.budget import MemoryBudget
from cri_imaged.errors import LimitExceededError
from cri_imaged.layers.worker.pool import WorkerPool
from cri_imaged.limits import MIB, Limits
from cri_imaged.oci import media_types
from cri_imaged.ports import DirectoryTarget
from tests.layers.sources import Growing, Whole, described
from tests.layers.test_pool import LAYER, check

ZSTD = described(media_types.OCI_LAYER_ZSTD)
_BLOCK = 100_000


def with_window(exponent: int) -> bytes:
    """`LAYER` in a frame that wants 2**exponent bytes."""
    head = b"\x28\xb5\x2f\xfd" + bytes([0, (exponent - 10) << 3])
    pieces = [LAYER[at : at + _BLOCK] for at in range(0, len(LAYER), _BLOCK)]
    blocks = [(len(each) << 3).to_bytes(3, "little") + each for each in pieces]
    return head + b"".join(blocks) + b"\1\0\0"


def whole(folder: Path, blob: bytes) -> Whole:
    path = folder / "blob"
    path.write_bytes(blob)
    return Whole(path)


def target(folder: Path, name: str = "root") -> DirectoryTarget:
    (folder / name).mkdir()
    return DirectoryTarget(folder / name)


@pytest.mark.parametrize("exponent", [20, 23, 24, 27])
async def test_all_windows_that_are_allowed(tmp_path: Path, exponent: int) -> None:
    into = target(tmp_path)
    async with WorkerPool(Limits(), max_workers=1) as pool:
        check(
            await pool.apply(whole(tmp_path, with_window(exponent)), ZSTD, into),
            LAYER,
            into.directory,
        )


async def test_a_large_window_waits_for_memory_and_nobody_waits_for_it(tmp_path: Path) -> None:
    into, other = target(tmp_path), target(tmp_path, "other")
    memory = MemoryBudget(64 * MIB)
    async with WorkerPool(Limits(), max_workers=1, memory=memory) as pool:
        async with memory.holding(50 * MIB, "another"):
            large = asyncio.create_task(pool.apply(whole(tmp_path, with_window(25)), ZSTD, into))
            await asyncio.wait([large], timeout=1)
            (tmp_path / "small").mkdir()
            small = whole(tmp_path / "small", with_window(20))
            check(await pool.apply(small, ZSTD, other), LAYER, other.directory)
            assert not large.done()
        check(await large, LAYER, into.directory)


async def test_a_window_larger_than_all_memory_is_refused(tmp_path: Path) -> None:
    async with WorkerPool(Limits(memory_bytes=64 * MIB), max_workers=1) as pool:
        with pytest.raises(LimitExceededError, match=r"zstd window needs .*memory_bytes"):
            await pool.apply(whole(tmp_path, with_window(27)), ZSTD, target(tmp_path))


async def test_a_layer_that_still_arrives_holds_no_memory(tmp_path: Path) -> None:
    into = target(tmp_path)
    memory = MemoryBudget(64 * MIB)
    blob = with_window(25)
    async with WorkerPool(Limits(), max_workers=1, memory=memory) as pool:
        source = Growing(tmp_path)
        task = asyncio.create_task(pool.apply(source, ZSTD, into))
        await source.write(blob[:100])
        await asyncio.wait([task], timeout=1)
        async with asyncio.timeout(5), memory.holding(60 * MIB, "all of it"):
            pass
        await source.write(blob[100:])
        await source.complete()
        check(await task, LAYER, into.directory)
