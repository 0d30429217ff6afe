"""A layer that is here is used only by who may have it, and for what it was seen to give."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cri_imaged.errors import Category, CorruptContentError, RegistryError
from cri_imaged.images.pull.plan import Step
from cri_imaged.images.transfers.rights import gives
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.media_types import OCI_LAYER_GZIP
from cri_imaged.ports import LayerSecret, Provenance, Skipped, SnapshotInfo, Usage
from tests.images.gated import GatedRegistry
from tests.images.workbench import Bench, image_of, layer, serve, serve_index, until
from tests.support import images
from tests.support.registry import BLOB, Image, status

PRIVATE, EVIL = "library/demo", "evil/app"


def hostile(
    registry: GatedRegistry, wanted: images.Image, blobs: list[dict[str, object]], **process: str
) -> None:
    """An image of `EVIL` that names the layers of another one, by blobs as told."""
    document = json.loads(wanted.config)
    document["config"] = process
    config = json.dumps(document).encode()
    registry.add_blob(config, images.CONFIG)
    manifest = {
        "schemaVersion": 2,
        "mediaType": images.MANIFEST,
        "config": images.descriptor(config, images.CONFIG),
        "layers": blobs,
    }
    registry.add_manifest(EVIL, "latest", images.MANIFEST, json.dumps(manifest).encode())


def blobs_of(image: images.Image) -> list[dict[str, object]]:
    return [images.descriptor(each.blob, each.media_type) for each in image.layers]


def refuse(registry: GatedRegistry, put: Image) -> None:
    """Refuse the layers to whoever asks from now on."""
    for each in put.layers:
        registry.faults.append(status(403, where=BLOB, reference=each.digest))


BLOB_OF_IT, DIFF_ID = Digest.of(b"blob"), Digest.of(b"layer")
MADE = Provenance(BLOB_OF_IT, 10, DIFF_ID, 20, 1, "registry.example/library/demo")
WANTED = Step(Descriptor(OCI_LAYER_GZIP, BLOB_OF_IT, 10), DIFF_ID, None, DIFF_ID)
SECRET = LayerSecret(b"key", b"nonce", b"hmac")


@pytest.mark.parametrize(
    ("made", "wanted", "secret", "given"),
    [
        (MADE, WANTED, None, True),
        (MADE, replace(WANTED, diff_id=None), None, True),
        (replace(MADE, blob=Digest.of(b"as long")), WANTED, None, False),
        (replace(MADE, blob_size=11), WANTED, None, False),
        (replace(MADE, diff_id=Digest.of(b"an artifact's")), WANTED, None, False),
        (replace(MADE, secret=SECRET.fingerprint), WANTED, None, False),
        (replace(MADE, secret=SECRET.fingerprint), WANTED, SECRET, True),
        (MADE, WANTED, SECRET, False),
    ],
)
def test_a_blob_gives_what_it_was_seen_to_give_and_nothing_else(
    made: Provenance, wanted: Step, secret: LayerSecret | None, given: bool
) -> None:
    info = SnapshotInfo(DIFF_ID, None, Usage(0, 0), Skipped(), (made,))
    assert gives(info, wanted, secret) is given


async def test_layers_that_are_here_are_kept_from_who_may_not_have_them(
    bench: Bench, registry: GatedRegistry
) -> None:
    image = image_of(layer(0), layer(1))
    put = serve(registry, image, repository=PRIVATE)
    await bench.pull(repository=PRIVATE)
    refuse(registry, put)
    hostile(registry, image, blobs_of(image), User="evil")
    with pytest.raises(RegistryError) as refused:
        await bench.pull(repository=EVIL)
    assert refused.value.category is Category.PERMISSION_DENIED
    assert bench.shown() == {name for name in bench.shown() if PRIVATE in name}


async def test_a_layer_that_the_registry_confirms_is_not_fetched_again(
    bench: Bench, registry: GatedRegistry
) -> None:
    image = image_of(layer(0), layer(1))
    serve(registry, image, repository=PRIVATE)
    await bench.pull(repository=PRIVATE)
    before = len(registry.gets(BLOB))
    hostile(registry, image, blobs_of(image), User="honest")
    await bench.pull(repository=EVIL)
    (config,) = registry.gets(BLOB)[before:]
    assert config.path.endswith(bench.parts.store.get(bench.name(repository=EVIL)).id)


async def test_a_pull_from_the_same_repository_asks_for_nothing(
    bench: Bench, registry: GatedRegistry
) -> None:
    base = layer(0)
    put = serve(registry, image_of(base), "one")
    await bench.pull("one")
    refuse(registry, put)
    serve(registry, image_of(base, User="other"), "two")
    await bench.pull("two")


async def test_a_blob_that_only_claims_to_give_a_diff_id_is_applied(
    bench: Bench, registry: GatedRegistry
) -> None:
    image, other = image_of(layer(0)), layer(1)
    serve(registry, image)
    await bench.pull()
    registry.add_blob(other.blob, other.media_type)
    hostile(registry, image, [images.descriptor(other.blob, other.media_type)])
    with pytest.raises(CorruptContentError, match="unpacks to diffID"):
        await bench.pull(repository=EVIL)
    assert (await bench.tree(image.id))["top"] == b"0"


async def test_two_blobs_of_one_layer_are_each_applied_once(
    bench: Bench, registry: GatedRegistry
) -> None:
    """The same archive, compressed in two ways: one snapshot, and both are known to give it."""
    plain = images.layer({"top": images.file("x" * 1000)}, "none")
    packed = images.layer({"top": images.file("x" * 1000)}, "gzip")
    assert plain.diff_id == packed.diff_id
    for tag, each in (("plain", plain), ("packed", packed), ("plain", plain), ("packed", packed)):
        serve(registry, image_of(each), tag)
        await bench.pull(tag)
    assert len(bench.rows("SELECT * FROM snapshots")) == 1
    fetched = [seen for seen in registry.gets(BLOB) if images.sha256(plain.blob) in seen.path]
    assert len(fetched) == 1


async def test_bytes_that_an_earlier_fetch_left_whole_are_kept_from_who_may_not_have_them(
    bench: Bench, registry: GatedRegistry
) -> None:
    """There is nothing left to ask the registry for, but whether this pull may have it."""
    image = image_of(layer(0))
    put = serve(registry, image, repository=PRIVATE)
    (base,) = image.layers
    name = f"{put.layers[0].digest.replace(':', '-')}-{len(base.blob)}"
    (bench.root / "content" / "ingest" / name).write_bytes(base.blob)
    refuse(registry, put)
    hostile(registry, image, blobs_of(image), User="evil")
    with pytest.raises(RegistryError) as refused:
        await bench.pull(repository=EVIL)
    assert refused.value.category is Category.PERMISSION_DENIED
    assert not bench.shown()


async def test_a_fetch_by_another_repository_is_confirmed(
    bench: Bench, registry: GatedRegistry
) -> None:
    """Who joins a fetch under way gets what another pull's credentials brought."""
    image = image_of(layer(0, 100_000))
    put = serve(registry, image, repository=PRIVATE)
    gate = registry.hold(put.layers[0].digest, 1000)
    private = bench.start()
    await registry.held(gate)
    hostile(registry, image, blobs_of(image), User="evil")
    evil = bench.start_in(EVIL)
    await until(lambda: all(pull.layers for pull in bench.parts.running.list()))
    await until(lambda: len(bench.parts.running.list()) == 2)
    refuse(registry, put)
    gate.opened.set()
    assert (await private).image.id == image.id
    with pytest.raises(RegistryError):
        await evil


async def test_a_store_that_is_trusted_gives_all_it_has(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    image, other = image_of(layer(0)), layer(1)
    put = serve(registry, image)
    async with Bench.open(tmp_path, registry, trust_store=True) as bench:
        await bench.pull()
        refuse(registry, put)
        registry.add_blob(other.blob, other.media_type)
        hostile(registry, image, [images.descriptor(other.blob, other.media_type)])
        await bench.pull(repository=EVIL)
        found = [event async for event in bench.parts.checker.check(repair=False)]
        assert found[-1].problems == 0  # type: ignore[union-attr]


async def test_a_repair_leaves_alone_what_another_image_only_claims_to_give(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    """The blob that it claims it by is here, and gives something else."""
    image, other = image_of(layer(0)), layer(1)
    serve(registry, image)
    serve(registry, image_of(other), "other", repository=EVIL)
    async with Bench.open(tmp_path, registry, trust_store=True) as bench:
        await bench.pull()
        await bench.pull("other", repository=EVIL)
        lie = images.descriptor(other.blob, other.media_type)
        hostile(registry, image, [lie], User="evil")
        evil = await bench.pull(repository=EVIL)
        await bench.parts.remover.remove(image.id)  # else its blob would be tried first
        for repair in (False, True, True):
            found = [event async for event in bench.parts.checker.check(repair=repair)]
            assert found[-1].problems == 0  # type: ignore[union-attr]
        assert (await bench.tree(evil.image.id))["top"] == b"0"


async def test_documents_that_are_here_are_kept_from_who_may_not_have_them(
    bench: Bench, registry: GatedRegistry
) -> None:
    image = image_of(layer(0))
    put = serve(registry, image, repository=PRIVATE)
    await bench.pull(repository=PRIVATE)
    for each in (put.manifest, put.config):
        registry.faults.append(status(403, reference=each.digest))
    registry.add_blob(b"{}")
    artifact = {
        "schemaVersion": 2,
        "mediaType": images.MANIFEST,
        "artifactType": "application/vnd.example",
        "config": images.descriptor(b"{}", "application/vnd.oci.empty.v1+json"),
        "layers": [images.descriptor(image.config, "application/octet-stream")],
    }
    registry.add_manifest(EVIL, "artifact", images.MANIFEST, json.dumps(artifact).encode())
    serve_index(registry, [images.descriptor(image.manifest, images.MANIFEST)], "index", EVIL)
    for tag in ("artifact", "index"):
        with pytest.raises(RegistryError) as refused:
            await bench.pull(tag, repository=EVIL)
        assert refused.value.category is Category.PERMISSION_DENIED
    assert bench.shown() == {name for name in bench.shown() if PRIVATE in name}
