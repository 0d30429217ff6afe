"""Decoders that go on to the next layer: of whom, and that none can harm a layer of another."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from cri_imaged.errors import CorruptContentError
from cri_imaged.layers.worker import decoders
from cri_imaged.layers.worker import pool as pools
from cri_imaged.layers.worker.pool import WorkerPool
from cri_imaged.limits import MIB
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Applied, DirectoryTarget
from tests.layers.sources import Growing, Whole
from tests.layers.test_pool import GZIP, LAYER, check, pool, until, workers
from tests.support import tarballs as t
from tests.support.process import open_files
from tests.support.require import require_real

__all__ = ["pool"]  # a fixture

DIFF_ID = Digest.of(LAYER)
_WRITABLE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p")


class Layers:
    """Applies `LAYER` again and again, each time into a new directory."""

    def __init__(self, pool: WorkerPool, folder: Path) -> None:
        self._pool, self._folder = pool, folder
        self.opened = 0
        """How often a layer was begun."""
        self.into = DirectoryTarget(folder)
        (folder / "blob").write_bytes(t.gz(LAYER))

    async def apply(
        self, origin: str, diff_id: Digest | None = DIFF_ID, layer: Descriptor = GZIP
    ) -> Applied:
        self.into = DirectoryTarget(self._folder / f"{self.opened}")
        self.into.directory.mkdir()
        source = Whole(self._folder / "blob")
        return await self._pool.apply(
            _Counted(source, self), layer, self.into, diff_id=diff_id, origin=origin
        )

    async def check(self, origin: str) -> None:
        check(await self.apply(origin), LAYER, self.into.directory)


class _Counted:
    def __init__(self, source: Whole, layers: Layers) -> None:
        self._source, self._layers = source, layers
        self.watermarks = source.watermarks

    async def open(self) -> int:
        self._layers.opened += 1
        return await self._source.open()


@pytest.fixture
def layers(pool: WorkerPool, tmp_path: Path) -> Layers:
    return Layers(pool, tmp_path)


async def test_layers_of_one_origin_have_one_decoder(layers: Layers) -> None:
    await layers.check("a")
    (decoder,) = workers()
    await layers.check("a")
    assert workers() == [decoder]
    await layers.check("b")
    assert len(workers()) == 2
    assert decoder in workers()


async def test_layers_at_the_same_time_have_one_each(
    pool: WorkerPool, layers: Layers, tmp_path: Path
) -> None:
    await layers.check("a")
    source = Growing(tmp_path)
    into = DirectoryTarget(tmp_path / "other")
    into.directory.mkdir()
    task = asyncio.create_task(pool.apply(source, GZIP, into, diff_id=DIFF_ID, origin="a"))
    await source.write(t.gz(LAYER)[:2000])
    await until(lambda: len(workers()) == 2)
    await layers.check("a")
    await source.write(t.gz(LAYER)[2000:])
    await source.complete()
    check(await task, LAYER, into.directory)
    assert len(workers()) == 2


async def test_a_layer_that_is_large_or_of_which_not_all_is_known_has_its_own(
    layers: Layers,
) -> None:
    await layers.check("")
    await layers.apply("a", None)
    await layers.apply("a", layer=replace(GZIP, size=9 * MIB))
    assert workers() == []


def no_more_threads(pid: int) -> bool:
    return "Seccomp_filters:\t2" in Path(f"/proc/{pid}/status").read_text()


async def test_a_waiting_decoder_holds_nothing_of_the_layers_before(layers: Layers) -> None:
    require_real(os.geteuid() == 0, "only root sees what a confined process holds")
    await layers.check("a")
    (decoder,) = workers()

    def held() -> list[str]:
        return sorted(link.partition(":")[0] for link in open_files(decoder).values())

    await until(lambda: held() == ["pipe", "pipe", "pipe", "socket"])
    assert no_more_threads(decoder)


async def test_what_cannot_be_decoded_ends_its_decoder(layers: Layers, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(t.gz(LAYER)[:-100])
    with pytest.raises(CorruptContentError, match="gzip stream is truncated"):
        await layers.apply("a")
    assert workers() == []
    assert layers.opened == 1


async def test_a_decoder_that_was_killed_while_it_waited(layers: Layers) -> None:
    await layers.check("a")
    (decoder,) = workers()
    os.kill(decoder, signal.SIGKILL)
    await layers.check("a")
    assert decoder not in workers()


async def test_a_decoder_that_hangs_after_another_layer(
    monkeypatch: pytest.MonkeyPatch, layers: Layers
) -> None:
    monkeypatch.setattr(pools, "_SHARED_SECONDS", 1.0)
    await layers.check("a")
    (decoder,) = workers()
    os.kill(decoder, signal.SIGSTOP)
    await layers.check("a")
    assert decoder not in workers()


def take_over(decoder: int) -> None:
    """From now on it takes compressed layers for plain ones."""
    magic, changed = b"\x1f\x8b\x08\0", 0
    with Path(f"/proc/{decoder}/mem").open("r+b", buffering=0) as memory:
        for start, end in _WRITABLE.findall(Path(f"/proc/{decoder}/maps").read_text()):
            first, last = int(start, 16), int(end, 16)
            memory.seek(first)
            for found in re.finditer(re.escape(magic), memory.read(last - first)):
                memory.seek(first + found.start())
                memory.write(b"none")
                changed += 1
    assert changed


async def test_a_decoder_that_another_layer_took_over_fails_no_layer(layers: Layers) -> None:
    require_real(os.geteuid() == 0, "only root changes the memory of others")
    await layers.check("a")
    (decoder,) = workers()
    take_over(decoder)
    begun = layers.opened
    await layers.check("a")
    assert layers.opened == begun + 2
    await until(lambda: decoder not in workers())


async def test_only_a_decoder_of_its_own_is_believed_that_a_layer_is_another(
    layers: Layers,
) -> None:
    other = Digest.of(b"other")
    assert (await layers.apply("a", other)).diff_id == DIFF_ID
    assert layers.opened == 1
    assert (await layers.apply("a", other)).diff_id == DIFF_ID
    assert layers.opened == 3


def idle(kept: decoders.IdleDecoders, origin: str) -> subprocess.Popen[bytes]:
    """A process that waits as a decoder."""
    process = subprocess.Popen(["sleep", "60"])
    kept.keep(decoders.Decoder(origin, process.pid, socket.socketpair()[0]))
    return process


def test_few_decoders_wait_and_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = decoders.IdleDecoders()
    monkeypatch.setattr(decoders, "_IDLE", 2)
    waiting = [idle(kept, origin) for origin in "abc"]
    assert waiting[0].wait(10) == -signal.SIGKILL
    assert kept.take("a") is None
    left = kept.expire()
    assert left is not None
    assert 0 < left <= 5
    monkeypatch.setattr(decoders, "_IDLE_SECONDS", 0.0)
    assert kept.expire() is None
    assert [process.wait(10) for process in waiting[1:]] == [-signal.SIGKILL] * 2
