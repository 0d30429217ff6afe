"""`discard_unpacked_layers` beside pulls and removals."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.images.gated import GatedRegistry
from tests.images.workbench import Bench, image_of, layer, serve


async def test_what_is_removed_meanwhile_fails_no_pull(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    """Pulls that wait for the disk list the trees of all images, also of those that just go."""
    base = layer(0)
    tags = [f"{number}" for number in range(1, 9)]
    for tag in tags:
        serve(registry, image_of(base, layer(int(tag), 50_000)), tag)

    async def come_and_go(bench: Bench, tag: str) -> None:
        for _ in range(4):
            pulled = await bench.pull(tag)
            await bench.parts.remover.remove(pulled.image.id)

    options = {"image_pull_with_sync_fs": True, "discard_unpacked_layers": True}
    async with Bench.open(tmp_path / "root", registry, **options) as bench:
        await asyncio.gather(*(come_and_go(bench, tag) for tag in tags))
        await asyncio.gather(*(bench.pull(tag) for tag in tags))
        await bench.parts.durability.sync()
        assert (
            bench.rows(
                "SELECT * FROM image_blobs JOIN blobs ON blob = digest"
                " WHERE layer AND state != 'discarded'"
            )
            == []
        )
        trees = list((bench.root / "snapshots" / "native").iterdir())
        assert [tree for tree in trees if not (tree / "listing").exists()] == []
        await asyncio.gather(*(bench.parts.remover.remove(bench.name(tag)) for tag in tags))
        await bench.nothing_is_left()
