"""Decompression bombs stop at the default limits, in little memory."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cri_imaged.errors import LimitExceededError
from cri_imaged.layers.pool import WorkerPool
from cri_imaged.limits import GIB, MIB, Limits
from cri_imaged.oci import media_types
from cri_imaged.ports import DirectoryExtraction
from tests.layers.sources import Whole
from tests.support import tarballs as t

GZIP, ZSTD = media_types.OCI_LAYER_GZIP, media_types.OCI_LAYER_ZSTD
MEMORY = 300 * MIB
STEP = 64 * MIB
ZEROS = t.header("zeros", size=32 * GIB)


def repeated_gzip(head: bytes, unit: bytes, count: int) -> Iterator[bytes]:
    """One gzip member of `head` and `count` times `unit`, each compressed once."""
    compressor = zlib.compressobj(9, wbits=31)
    yield compressor.compress(head) + compressor.flush(zlib.Z_FULL_FLUSH)
    part = compressor.compress(unit) + compressor.flush(zlib.Z_FULL_FLUSH)
    for _ in range(count):
        yield part


def gzip_zeros() -> Iterator[bytes]:
    yield from repeated_gzip(ZEROS, bytes(STEP), 32 * GIB // STEP)


def zstd_zeros() -> Iterator[bytes]:
    yield t.zst(ZEROS)
    part = t.zst(bytes(STEP))
    for _ in range(32 * GIB // STEP):
        yield part


def zeros_after_the_end() -> Iterator[bytes]:
    yield from repeated_gzip(t.END, bytes(STEP), 32 * GIB // STEP)


def empty_entries() -> Iterator[bytes]:
    thousand = t.header("empty/", b"5") * 1000
    yield from repeated_gzip(b"", thousand, 10_000)


def many_members() -> Iterator[bytes]:
    part = t.gz(b"") * 10_000
    for _ in range(401):
        yield part


def large_window() -> Iterator[bytes]:
    exponent = 30 - 10
    raw_block = (5 << 3 | 1).to_bytes(3, "little") + b"hello"
    yield b"\x28\xb5\x2f\xfd" + bytes([0, exponent << 3]) + raw_block


def pax_of_gigabytes() -> Iterator[bytes]:
    yield from repeated_gzip(t.header("pax", b"x", size=4 * GIB), b"9 a=bcde\n" * 7_000_000, 64)


BOMBS: dict[str, tuple[str, Callable[[], Iterator[bytes]], str]] = {
    "32 GiB of zeros in gzip": (GZIP, gzip_zeros, "expansion_ratio"),
    "32 GiB of zeros in zstd": (ZSTD, zstd_zeros, "expansion_ratio"),
    "32 GiB of zeros after the end": (GZIP, zeros_after_the_end, "expansion_ratio"),
    "10 million empty entries": (GZIP, empty_entries, "expansion_ratio|layer_entries"),
    "4 million gzip members": (GZIP, many_members, "layer_entries"),
    "a zstd window of 1 GiB": (ZSTD, large_window, "zstd_window_bytes"),
    "a PAX header of 4 GiB": (GZIP, pax_of_gigabytes, "pax_header_bytes"),
}


@pytest.fixture
def memory_backed() -> Iterator[Path]:
    """A folder that takes a GiB quickly, where there is one."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as folder:
        yield Path(folder)


@pytest.mark.parametrize("name", BOMBS)
async def test_bomb(name: str, memory_backed: Path) -> None:
    media_type, make, limit = BOMBS[name]
    blob, root = memory_backed / "blob", memory_backed / "root"
    with blob.open("wb") as file:
        file.writelines(make())
    root.mkdir()
    async with WorkerPool(Limits(worker_memory_bytes=MEMORY), max_workers=1) as pool:
        with pytest.raises(LimitExceededError, match=limit):
            await pool.apply(Whole(blob), media_type, DirectoryExtraction(root))
    taken = sum(path.lstat().st_size for path in root.rglob("*"))
    assert taken <= GIB + 2 * MIB


async def test_memory_is_limited(memory_backed: Path) -> None:
    """What needs more than it may have ends with a clear error."""
    with (memory_backed / "blob").open("wb") as file:
        file.writelines(t.whiteout(f"{n:090}") for n in range(200_000))
        file.write(t.END)
    (memory_backed / "root").mkdir()
    limits = Limits(worker_memory_bytes=72 * MIB)
    async with WorkerPool(limits, max_workers=1) as pool:
        with pytest.raises(LimitExceededError, match="worker_memory_bytes"):
            await pool.apply(
                Whole(memory_backed / "blob"),
                media_types.OCI_LAYER,
                DirectoryExtraction(memory_backed / "root"),
            )
