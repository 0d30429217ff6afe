"""OCI artifacts: pulled, shown, looked into, mended and removed as images are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cri_imaged.errors import CorruptContentError, LimitExceededError, RegistryError
from cri_imaged.images.pins import Pins
from cri_imaged.limits import Limits
from cri_imaged.runtimes.images import ImageReader
from tests.images.gated import GatedRegistry
from tests.images.test_check import problems
from tests.images.workbench import REPOSITORY, Bench, image_of, layer, serve, serve_index
from tests.support import images
from tests.support.artifacts import WASM, Artifact, Blob, archive, chart, module, titled
from tests.support.images import descriptor, sha256
from tests.support.registry import BLOB, status

MODEL = Artifact(
    [
        titled("model.bin", bytes(range(256)) * 1000, "application/octet-stream"),
        titled("docs/readme.md", b"# Model\n"),
        titled("empty", b"", "text/plain"),
    ]
)
MODEL_TREE = {
    "model.bin": bytes(range(256)) * 1000,
    "docs": None,
    "docs/readme.md": b"# Model\n",
    "empty": b"",
}


def put(
    registry: GatedRegistry, artifact: Artifact, tag: str = "latest", repository: str = REPOSITORY
) -> None:
    for data in (artifact.config, *(blob.data for blob in artifact.blobs)):
        registry.add_blob(data)
    registry.add_manifest(repository, tag, images.MANIFEST, artifact.manifest)


def hexed(data: bytes) -> str:
    return sha256(data).removeprefix("sha256:")


@pytest.mark.parametrize(
    ("artifact", "tree"),
    [
        (MODEL, MODEL_TREE),
        (chart(b"chart"), {hexed(b"chart"): b"chart"}),
        (module(), {hexed(WASM): WASM}),
        (Artifact([]), {}),
        (Artifact([Blob(b"{}", "application/vnd.oci.empty.v1+json")]), {}),
    ],
)
async def test_an_artifact_from_its_pull_to_its_removal(
    bench: Bench, registry: GatedRegistry, artifact: Artifact, tree: dict[str, bytes | None]
) -> None:
    put(registry, artifact)
    pulled = await bench.pull()
    assert (pulled.image.id, pulled.image.record.size) == (artifact.id, artifact.size)
    assert pulled.repo_digest == bench.name(f"@{artifact.id}")
    assert bench.parts.store.all() == [pulled.image]
    for name in (artifact.id, hexed(artifact.manifest)[:12], bench.name(), pulled.repo_digest):
        assert bench.parts.store.get(name) == pulled.image
    assert await bench.tree(artifact.id) == tree
    async with bench.parts.inspector.details(pulled.image) as details:
        assert (details.config, details.warnings) == (artifact.config.decode(), ())
    before = len(registry.gets(BLOB))
    assert (await bench.pull()).received == 0
    assert len(registry.gets(BLOB)) == before
    assert await problems(bench) == []
    await bench.parts.remover.remove(artifact.id)
    assert bench.shown() == set()
    await bench.nothing_is_left()


async def test_archives_are_unpacked_and_files_lie_over_them(
    bench: Bench, registry: GatedRegistry
) -> None:
    base, upper = layer(0), layer(1, compression="zstd")
    put(registry, Artifact([titled("top", b"a file"), archive(base), archive(upper)]))
    tree = await bench.tree((await bench.pull()).image.id)
    assert set(tree) == {"d", "d/0", "d/1", "top"}
    assert tree["top"] == b"a file"
    (skipped, *_) = bench.rows("SELECT count(*) FROM provenance WHERE diff_id = ''")
    assert skipped == (0,)
    made = bench.rows("SELECT blob, diff_id FROM provenance")
    assert (sha256(base.blob), base.diff_id) in made, "what was seen is what is written down"


@pytest.mark.parametrize("config", [b"", b"no JSON", b"[]", b"\xff", b'{"a": }', b"{" * 50_000])
async def test_a_config_of_any_kind_spoils_no_answer(
    bench: Bench, registry: GatedRegistry, config: bytes
) -> None:
    put(registry, Artifact([titled("a", b"a")], config, "text/plain"))
    pulled = await bench.pull()
    async with bench.parts.inspector.details(pulled.image) as details:
        assert details.config == "{}"


async def test_artifacts_that_share_a_config_are_different_images(
    bench: Bench, registry: GatedRegistry
) -> None:
    one, two = Artifact([titled("a", b"1")]), Artifact([titled("a", b"2")])
    assert one.config == two.config
    put(registry, one, "one")
    put(registry, two, "two")
    await bench.pull("one")
    await bench.pull("two")
    assert {image.id for image in bench.parts.store.all()} == {one.id, two.id}
    await bench.parts.remover.remove(one.id)
    assert await bench.tree(bench.name("two")) == {"a": b"2"}
    assert [image.id for image in bench.parts.store.all()] == [two.id]
    await bench.parts.remover.remove(two.id)
    await bench.nothing_is_left()


@pytest.mark.parametrize("title", ["../escape", "/etc/escape", "a/../../escape", "nul\0", ".wh.a"])
async def test_a_hostile_title_is_refused_before_anything_is_fetched(
    bench: Bench, registry: GatedRegistry, title: str
) -> None:
    put(registry, Artifact([titled(title, b"x"), titled("good", b"g")]))
    with pytest.raises(CorruptContentError, match="cannot be a file's name in a view"):
        await bench.pull()
    assert bench.shown() == set()
    assert not list(bench.root.parent.rglob("escape"))
    assert {seen.path.rpartition("/")[2] for seen in registry.gets(BLOB)} == {sha256(b"{}")}
    await bench.nothing_is_left()


async def test_a_file_that_is_no_archive_fails_by_name(
    bench: Bench, registry: GatedRegistry
) -> None:
    """Nothing but its type says what it is."""
    put(registry, Artifact([Blob(b"no archive" * 100)]))
    with pytest.raises(CorruptContentError, match=sha256(b"no archive" * 100)):
        await bench.pull()


async def test_the_limits_of_layers_are_those_of_files(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    limits = Limits(layer_bytes=100, layers=3, retry_seconds=5.0)
    put(registry, Artifact([titled("big", bytes(101))]), "big")
    put(registry, Artifact([titled(f"{n}", b"%d" % n) for n in range(4)]), "many")
    async with Bench.open(tmp_path / "root", registry, limits=limits) as bench:
        for tag in ("big", "many"):
            with pytest.raises(LimitExceededError):
                await bench.pull(tag)


# --- in an index ------------------------------------------------------------------------------


@pytest.mark.parametrize("described", [{}, {"artifactType": "application/vnd.example.model"}])
async def test_an_index_of_artifacts(
    bench: Bench, registry: GatedRegistry, described: dict[str, str]
) -> None:
    put(registry, MODEL, "model")
    serve_index(registry, [descriptor(MODEL.manifest, images.MANIFEST, **described)])
    assert (await bench.pull()).image.id == MODEL.id


async def test_an_artifact_of_this_platform(bench: Bench, registry: GatedRegistry) -> None:
    put(registry, MODEL, "model")
    here = {"os": "linux", "architecture": image_of().architecture}
    serve_index(
        registry,
        [
            descriptor(b"of another one", images.MANIFEST, platform={**here, "os": "plan9"}),
            descriptor(MODEL.manifest, images.MANIFEST, platform=here),
        ],
    )
    assert (await bench.pull()).image.id == MODEL.id


# --- what is here -----------------------------------------------------------------------------


async def test_blobs_that_are_here_are_kept_from_who_may_not_have_them(
    bench: Bench, registry: GatedRegistry
) -> None:
    put(registry, MODEL)
    await bench.pull()
    put(registry, MODEL, repository="evil/app")
    registry.faults.append(status(403, where=BLOB, reference=sha256(MODEL.blobs[0].data)))
    with pytest.raises(RegistryError, match="403"):
        await bench.pull(repository="evil/app")


async def test_an_image_cannot_claim_the_snapshots_of_an_artifact(
    bench: Bench, registry: GatedRegistry
) -> None:
    put(registry, Artifact([titled("a", b"secret")]), "artifact")
    pulled = await bench.pull("artifact")
    other = layer(0)
    config = json.loads(image_of(other).config)
    config["rootfs"]["diff_ids"] = [pulled.image.record.chain_id]
    data = json.dumps(config).encode()
    put(registry, Artifact([archive(other)], data, images.CONFIG), "image")
    with pytest.raises(CorruptContentError, match="the image's config says"):
        await bench.pull("image")


async def test_what_is_damaged_is_made_again(bench: Bench, registry: GatedRegistry) -> None:
    put(registry, MODEL)
    await bench.pull()
    (path,) = (bench.root / "snapshots" / "native").glob("*/fs/docs/readme.md")
    path.unlink()
    path.write_bytes(b"# Other\n")
    (found,) = await problems(bench, repair=True)
    assert (found.kind, found.repaired) == ("damaged-snapshot", True)
    assert await bench.tree(MODEL.id) == MODEL_TREE


async def test_blobs_are_discarded_once_their_files_are_safe(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    put(registry, MODEL)
    options = {"image_pull_with_sync_fs": True, "discard_unpacked_layers": True}
    async with Bench.open(tmp_path / "root", registry, **options) as bench:
        await bench.pull()
        await bench.parts.durability.sync()
        discarded = {
            row[0] for row in bench.rows("SELECT digest FROM blobs WHERE state != 'present'")
        }
        assert discarded == {sha256(blob.data) for blob in MODEL.blobs}
        assert await bench.tree(MODEL.id) == MODEL_TREE
        assert await problems(bench) == []


async def test_it_is_salvaged_when_the_database_is_gone(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    put(registry, MODEL)
    async with Bench.open(tmp_path / "root", registry) as bench:
        await bench.pull()
    for file in (tmp_path / "root").glob("metadata.db*"):
        file.unlink()
    async with Bench.open(tmp_path / "root", registry) as bench:
        assert [image.id for image in bench.parts.store.all()] == [MODEL.id]
        assert await bench.tree(MODEL.id) == MODEL_TREE


async def test_runtimes_are_not_told_of_it(bench: Bench, registry: GatedRegistry) -> None:
    """What they make of an image begins with its config."""
    image = image_of(layer(0))
    serve(registry, image, "image")
    put(registry, MODEL, "model")
    await bench.pull("image")
    await bench.pull("model")
    stores = bench.parts.base.stores
    reader = ImageReader(
        stores.database, stores.content, Limits(), Pins().holds, stores.snapshotters
    )
    assert set((await reader.names()).values()) == {image.id}
    model = bench.parts.store.get(MODEL.id)
    assert model is not None
    assert await reader.read(model.id) is None
