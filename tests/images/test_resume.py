"""Partial blobs: what a failed or cancelled pull leaves is taken up by the next one."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from cri_imaged.config.values import ByteSize
from cri_imaged.errors import RegistryError
from cri_imaged.limits import Limits
from tests.images.gated import GatedRegistry
from tests.images.workbench import Bench, image_of, layer, serve, until
from tests.support.registry import BLOB, Image, corrupt, cut
from tests.support.require import require_real

SIZE = 300_000


def ranges(registry: GatedRegistry, put: Image) -> list[tuple[int, int]]:
    """Status and offset of each request for the first layer."""
    return [
        (seen.status, seen.offset)
        for seen in registry.gets(BLOB)
        if seen.path.endswith(put.layers[0].digest)
    ]


async def leave_half(bench: Bench, registry: GatedRegistry, put: Image) -> None:
    """A pull that is cancelled with 100,000 bytes of the layer."""
    gate = registry.hold(put.layers[0].digest, 100_000)
    pull = bench.start()
    await registry.held(gate)
    await until(lambda: bench.partial() == {put.layers[0].digest: 100_000})
    pull.cancel()
    await asyncio.wait([pull])
    gate.opened.set()
    assert bench.shown() == set()
    assert "pull" not in bench.leases()
    assert bench.partial() == {put.layers[0].digest: 100_000}


async def test_the_next_pull_carries_on(bench: Bench, registry: GatedRegistry) -> None:
    put = serve(registry, image_of(layer(0, SIZE)))
    await leave_half(bench, registry, put)
    pulled = await bench.pull()
    assert ranges(registry, put) == [(200, 0), (206, 100_000)]
    assert pulled.received == put.layers[0].size - 100_000
    assert bench.partial() == {}
    assert (await bench.tree(pulled.image.id))["top"] == b"0"


async def test_partial_blobs_take_no_room_twice(tmp_path: Path, registry: GatedRegistry) -> None:
    """A disk with room for the rest is large enough, whoever fetches it now."""
    require_real(os.geteuid() == 0, "mounting a small file system needs root")
    put = serve(registry, image_of(layer(0, 6 << 20)))
    gate = registry.hold(put.layers[0].digest, 5 << 20)
    await asyncio.to_thread(
        subprocess.run, ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", tmp_path], check=True
    )
    try:
        options = {"disk_reserve": ByteSize(18 << 20)}
        async with Bench.open(tmp_path / "root", registry, **options) as bench:
            pulls = [bench.start()]
            await registry.held(gate)
            await until(lambda: bench.partial() == {put.layers[0].digest: 5 << 20})
            pulls.append(bench.start())
            await until(lambda: pulls[1].done() or bench.parts.running.list()[-1].layers)
            for pull in pulls:
                pull.cancel()
            await asyncio.wait(pulls)
            gate.opened.set()
            assert [pull.cancelled() for pull in pulls] == [True, True]
        # What it unpacks to takes room, too.
        options = {"disk_reserve": ByteSize(12 << 20)}
        async with Bench.open(tmp_path / "root", registry, **options) as bench:
            await bench.pull()
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", "--lazy", tmp_path], check=True)


async def test_also_after_a_restart(tmp_path: Path, registry: GatedRegistry) -> None:
    put = serve(registry, image_of(layer(0, SIZE)))
    async with Bench.open(tmp_path, registry) as bench:
        await leave_half(bench, registry, put)
    async with Bench.open(tmp_path, registry) as bench:
        assert bench.shown() == set()
        await bench.pull()
    assert ranges(registry, put) == [(200, 0), (206, 100_000)]


async def test_a_failed_pull_leaves_what_it_had(bench: Bench, registry: GatedRegistry) -> None:
    put = serve(registry, image_of(layer(0, SIZE)))
    registry.faults.append(cut(70_000, where=BLOB, reference=put.layers[0].digest, times=1))
    registry.faults.append(cut(0, where=BLOB, reference=put.layers[0].digest))
    with pytest.raises(RegistryError):
        await bench.pull()
    (held,) = bench.partial().values()
    assert 0 < held <= 70_000
    registry.faults.clear()
    await bench.pull()
    assert ranges(registry, put)[-1] == (206, held)


async def test_kept_bytes_that_are_wrong_cost_one_restart(
    bench: Bench, registry: GatedRegistry
) -> None:
    put = serve(registry, image_of(layer(0, SIZE)))
    await leave_half(bench, registry, put)
    (path,) = (bench.root / "content" / "ingest").iterdir()
    path.write_bytes(bytes(100_000))
    pulled = await bench.pull()
    assert ranges(registry, put) == [(200, 0), (206, 100_000), (200, 0)]
    assert (await bench.tree(pulled.image.id))["top"] == b"0"


async def test_a_whole_partial_blob_needs_no_request(bench: Bench, registry: GatedRegistry) -> None:
    image = image_of(layer(0, SIZE))
    put = serve(registry, image)
    blob = put.layers[0]
    ingest = bench.root / "content/ingest" / f"{blob.digest.replace(':', '-')}-{blob.size}"
    ingest.write_bytes(image.layers[0].blob)
    pulled = await bench.pull()
    assert (ranges(registry, put), pulled.received) == ([], 0)


async def test_wrong_bytes_from_a_registry_are_fetched_anew_once_it_is_healed(
    bench: Bench, registry: GatedRegistry
) -> None:
    put = serve(registry, image_of(layer(0, SIZE)))
    await leave_half(bench, registry, put)
    registry.faults.append(corrupt(where=BLOB, reference=put.layers[0].digest, times=1))
    pulled = await bench.pull()
    assert ranges(registry, put) == [(200, 0), (206, 100_000), (200, 0)]
    assert (await bench.tree(pulled.image.id))["top"] == b"0"


async def test_partial_blobs_go_when_asked(bench: Bench, registry: GatedRegistry) -> None:
    put = serve(registry, image_of(layer(0, SIZE)))
    await leave_half(bench, registry, put)
    await bench.parts.collector.collect()
    assert bench.partial() == {put.layers[0].digest: 100_000}
    collected = await bench.parts.collector.collect_now(resumable=True)
    assert collected.bytes >= 100_000
    await bench.nothing_is_left()


@pytest.mark.parametrize("limits", [Limits(resumable_bytes=50_000), Limits(resumable_seconds=0)])
async def test_partial_blobs_are_capped_in_size_and_age(
    tmp_path: Path, registry: GatedRegistry, limits: Limits
) -> None:
    put = serve(registry, image_of(layer(0, SIZE)))
    async with Bench.open(tmp_path, registry, limits=limits) as bench:
        await leave_half(bench, registry, put)
        await bench.parts.collector.collect()
        assert bench.partial() == {}


async def test_verified_layers_of_a_cancelled_pull_are_not_fetched_again(
    bench: Bench, registry: GatedRegistry
) -> None:
    put = serve(registry, image_of(layer(0, 10_000), layer(1, SIZE)))
    gate = registry.hold(put.layers[1].digest, 100_000)
    pull = bench.start()
    await registry.held(gate)
    await until(lambda: bench.rows("SELECT * FROM snapshots WHERE chain_id IS NOT NULL"))
    pull.cancel()
    await asyncio.wait([pull])
    gate.opened.set()
    assert set(bench.leases()) == {"resume"}
    await bench.parts.collector.collect()
    await bench.pull()
    assert ranges(registry, put) == [(200, 0)]
    for image in bench.parts.store.all():
        await bench.parts.remover.remove(image.id)
    await bench.nothing_is_left()
