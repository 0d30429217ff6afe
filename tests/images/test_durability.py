"""What has reached the disk, as far as the kernel says."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import threading
from pathlib import Path

import pytest

from cri_imaged import libc
from cri_imaged.images.health.durability import Durability
from cri_imaged.metadata import blobs
from cri_imaged.metadata.database import Database
from cri_imaged.metadata.durability import Volatile, volatile
from cri_imaged.oci.digest import Digest
from tests.images.gated import GatedRegistry
from tests.images.workbench import Bench, image_of, layer, serve

FIRST, SECOND = Digest.of(b"first"), Digest.of(b"second")


class FailingOnce:
    """A C library whose disk has lost something, which it tells once, as Linux does."""

    told = False

    def syncfs(self, _: int) -> int:
        if self.told:
            return 0
        self.told = True
        ctypes.set_errno(errno.EIO)
        return -1


class Recording:
    """A C library that tells which file systems were synced."""

    def __init__(self) -> None:
        self.devices: list[int] = []

    def syncfs(self, fd: int) -> int:
        self.devices.append(os.fstat(fd).st_dev)
        return 0


async def nothing() -> None:
    """Write nothing down."""


async def test_what_a_failed_sync_was_for_is_never_taken_for_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libc, "lib", FailingOnce())
    database = await Database.open(tmp_path / "metadata.db")
    syncing = Durability(database, [tmp_path], wait=True, discard=None, record=nothing)
    await database.write(lambda db: blobs.insert(db, FIRST, 1, None))
    with pytest.raises(OSError, match="Input/output error"):
        await syncing.pulled()
    await database.write(lambda db: blobs.insert(db, SECOND, 1, None))
    await syncing.pulled()
    assert await database.read(volatile) == Volatile(frozenset({FIRST}))
    syncing.close()
    await database.close()


async def test_each_file_system_is_synced_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Recording()
    monkeypatch.setattr(libc, "lib", disk)
    database = await Database.open(tmp_path / "metadata.db")
    other = Path("/proc")
    syncing = Durability(
        database, [tmp_path, tmp_path, other], wait=True, discard=None, record=nothing
    )
    await database.write(lambda db: blobs.insert(db, FIRST, 1, None))
    await syncing.pulled()
    assert sorted(disk.devices) == sorted(path.stat().st_dev for path in (tmp_path, other))
    syncing.close()
    await database.close()


async def test_what_a_failed_sync_was_for_is_not_trusted_after_a_restart(
    tmp_path: Path, registry: GatedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(registry, image_of(layer(1)))
    async with Bench.open(tmp_path / "root", registry) as bench:
        await bench.pull()
        with monkeypatch.context() as patched:
            patched.setattr(libc, "lib", FailingOnce())
            with pytest.raises(OSError, match="Input/output error"):
                await bench.parts.durability.sync()
    for _ in range(2):
        async with Bench.open(tmp_path / "root", registry) as bench:
            assert bench.shown() == set()
    async with Bench.open(tmp_path / "root", registry) as bench:
        await bench.pull()
        await bench.parts.durability.sync()
    async with Bench.open(tmp_path / "root", registry) as bench:
        assert bench.name() in bench.shown()


class Slow(FailingOnce):
    """Tells it late."""

    def __init__(self) -> None:
        self.asked, self.go = threading.Event(), threading.Event()

    def syncfs(self, fd: int) -> int:
        self.asked.set()
        self.go.wait()
        return super().syncfs(fd)


async def test_what_the_disk_has_lost_is_heard_though_the_pull_was_cancelled_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Slow()
    monkeypatch.setattr(libc, "lib", disk)
    database = await Database.open(tmp_path / "metadata.db")
    syncing = Durability(database, [tmp_path], wait=True, discard=None, record=nothing)
    await database.write(lambda db: blobs.insert(db, FIRST, 1, None))
    cancelled = asyncio.create_task(syncing.pulled())
    await asyncio.to_thread(disk.asked.wait)
    cancelled.cancel()
    next_one = asyncio.create_task(syncing.pulled())
    disk.go.set()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await next_one
    assert await database.read(volatile) == Volatile(frozenset({FIRST}))
    syncing.close()
    await database.close()
