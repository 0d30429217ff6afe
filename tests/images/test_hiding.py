"""Images whose content is found to be damaged while it is used."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from cri_imaged.errors import CorruptContentError
from cri_imaged.images.health import hiding
from cri_imaged.oci.digest import Digest
from cri_imaged.process import background
from tests.images.gated import GatedRegistry
from tests.images.workbench import Bench, image_of, layer, serve, until


async def test_an_image_with_a_damaged_document_is_not_shown_until_it_is_pulled_again(
    bench: Bench, registry: GatedRegistry
) -> None:
    """A kubelet would never pull it, and a runtime that is to be told of it cannot be."""
    put = serve(registry, image_of(layer(0)), "bad")
    serve(registry, image_of(layer(1)), "good")
    for tag in ("bad", "good"):
        await bench.pull(tag)
    config = Digest(put.config.digest)
    (bench.root / "content" / "blobs" / "sha256" / config.hex).write_bytes(b"{")
    with pytest.raises(CorruptContentError, match="damaged"):
        await bench.parts.base.stores.content.read(config, 1 << 20)
    await until(lambda: bench.name("bad") not in bench.shown())
    assert bench.name("good") in bench.shown()
    await bench.pull("bad")
    assert bench.name("bad") in bench.shown()


async def test_an_image_whose_lost_layer_another_pull_brings_is_shown_again(
    bench: Bench, registry: GatedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hiding, "_AGAIN_SECONDS", 0.05)
    shared = layer(0)
    put = serve(registry, image_of(shared), "one")
    serve(registry, image_of(shared, layer(1)), "two")
    await bench.pull("one")
    lost = put.layers[0].digest
    (bench.root / "content" / "blobs" / "sha256" / lost[7:]).unlink()
    gate = registry.hold(lost)
    pull = bench.start("two")
    await registry.held(gate)
    await until(lambda: bench.name("one") not in bench.shown())
    gate.opened.set()
    await pull
    await until(lambda: bench.name("one") in bench.shown())


async def test_one_loss_is_looked_at_once(bench: Bench) -> None:
    base, lost = bench.parts.base, asyncio.Event()
    lost.set()
    async with background(hiding.show_what_is_whole(lost, base.stores.database, base.publisher)):
        await until(lambda: not lost.is_set())


async def test_what_is_damaged_is_hidden_though_the_database_failed_at_first(
    bench: Bench, registry: GatedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hiding, "_AGAIN_SECONDS", 0.05)
    put = serve(registry, image_of(layer(0)))
    await bench.pull()
    config = Digest(put.config.digest)
    (bench.root / "content" / "blobs" / "sha256" / config.hex).write_bytes(b"{")
    database, content = bench.parts.base.stores.database, bench.parts.base.stores.content
    with structlog.testing.capture_logs() as log:
        with pytest.raises(CorruptContentError):
            await content.read(config, 1 << 20)
        await database.write(lambda db: db.execute("ALTER TABLE images RENAME TO away"))
        await until(lambda: any("could not hide" in line["event"] for line in log))
    await database.write(lambda db: db.execute("ALTER TABLE away RENAME TO images"))
    await until(lambda: bench.name() not in bench.shown())
