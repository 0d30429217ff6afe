"""A pull from end to end: what it makes, what it refuses, and what a failure leaves."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cri_imaged.errors import (
    Category,
    CorruptContentError,
    InvalidRequestError,
    LimitExceededError,
    NoSpaceError,
    NotFoundError,
    QueueFullError,
    RegistryError,
    UnsupportedContentError,
)
from cri_imaged.images.events import PullEnded, Subscription
from cri_imaged.limits import Limits
from cri_imaged.oci import media_types
from cri_imaged.ports import Credentials
from cri_imaged.registry.options import RegistryOptions
from tests.images.gated import GatedRegistry
from tests.images.workbench import Bench, image_of, layer, serve, serve_index
from tests.support import images
from tests.support.images import descriptor, file, sha256
from tests.support.leaks import MARK
from tests.support.registry import BLOB, MANIFEST, BasicAuth, FaultRegistry, corrupt, status

ARTIFACT = {
    "schemaVersion": 2,
    "mediaType": images.MANIFEST,
    "config": descriptor(b"{}", "application/vnd.oci.empty.v1+json"),
    "layers": [],
}


async def test_an_image(bench: Bench, registry: FaultRegistry) -> None:
    layers = [layer(0), layer(1, compression="zstd"), layer(2, compression="none")]
    image = image_of(*layers, User="1000:1000")
    put = serve(registry, image)
    pulled = await bench.pull()
    assert pulled.image.id == image.id
    assert pulled.repo_digest == bench.name(f"@{put.manifest.digest}")
    assert pulled.received == sum(len(each.blob) for each in layers)
    (shown,) = bench.parts.store.all()
    assert shown == pulled.image
    assert shown.repo_tags == (bench.name(),)
    assert shown.repo_digests == (pulled.repo_digest,)
    assert (shown.record.size, shown.record.user) == (image.size, "1000:1000")
    assert shown.record.chain_id == image.chain_id
    tree = await bench.tree(image.id)
    assert set(tree) == {"d", "d/0", "d/1", "d/2", "top"}
    assert tree["top"] == b"2"
    assert bench.leases() == []
    assert len(registry.gets(BLOB)) == 4
    await bench.parts.remover.remove(bench.name())
    assert bench.parts.store.all() == []
    await bench.nothing_is_left()


async def test_a_second_pull_asks_the_registry_but_fetches_nothing(
    bench: Bench, registry: FaultRegistry
) -> None:
    serve(registry, image_of(layer(0), layer(1)))
    first = await bench.pull()
    registry.seen.clear()
    for tag in ("latest", "@" + first.repo_digest.partition("@")[2]):
        again = await bench.pull(tag)
        assert again.image == first.image
        assert again.received == 0
    assert [(seen.kind, seen.method) for seen in registry.seen] == [(MANIFEST, "HEAD")] * 2
    assert bench.leases() == []


async def test_a_second_pull_takes_as_many_transactions_however_many_layers(
    bench: Bench, registry: FaultRegistry
) -> None:
    """Each is a way to a thread and back."""
    database = bench.parts.base.stores.database
    begun: list[str] = []

    def note(statement: str) -> None:
        if statement.startswith("BEGIN"):
            begun.append(statement)

    async def transactions(*layers: int) -> int:
        serve(registry, image_of(*map(layer, layers)))
        await bench.pull()
        await database.read(lambda db: db.set_trace_callback(note))
        begun.clear()
        await bench.pull()
        count = len(begun)
        await database.read(lambda db: db.set_trace_callback(None))
        return count

    assert await transactions(*range(9)) == await transactions(9) > 0


async def test_a_second_pull_of_an_index(bench: Bench, registry: FaultRegistry) -> None:
    put = serve(registry, image_of(layer(0)), "ours")
    index = serve_index(registry, [descriptor(put.document, images.MANIFEST)])
    first = await bench.pull()
    registry.seen.clear()
    assert (await bench.pull()).repo_digest == first.repo_digest == bench.name(f"@{index}")
    assert [(seen.kind, seen.method) for seen in registry.seen] == [(MANIFEST, "HEAD")]


async def test_what_is_not_known_is_not_asked_for_twice(
    bench: Bench, registry: FaultRegistry
) -> None:
    image = image_of(layer(0))
    serve(registry, image)
    serve(registry, image, "other")
    pulled = await bench.pull()
    await bench.pull("other")
    await bench.parts.remover.remove(pulled.image.id)
    await bench.pull()
    assert registry.heads() == []


async def test_a_document_that_was_damaged_is_fetched_again(
    bench: Bench, registry: FaultRegistry
) -> None:
    put = serve(registry, image_of(layer(0)))
    await bench.pull()
    blobs = bench.root / "content" / "blobs" / "sha256"
    for path in (blobs / put.manifest.digest.hex, blobs / put.config.digest[7:]):
        whole = path.read_bytes()
        for damage in (partial(path.write_bytes, b"x" * len(whole)), path.unlink):
            damage()
            registry.seen.clear()
            await bench.pull()
            assert path.read_bytes() == whole
            assert bench.parts.store.all() != []
            assert [seen.method for seen in registry.seen] == ["HEAD", "GET"]


async def test_an_image_that_is_removed_while_it_is_pulled_again(
    bench: Bench, registry: GatedRegistry
) -> None:
    """Each pull has the document, whatever a collection takes away meanwhile."""
    image = image_of(layer(0))
    put = serve(registry, image)
    await bench.pull()
    gates = [registry.hold("latest"), registry.hold(put.manifest.digest)]
    registry.seen.clear()
    pulls = [bench.start(), bench.start(f"@{put.manifest.digest}")]
    for gate in gates:
        await registry.held(gate)
    await bench.parts.remover.remove(image.id)
    await bench.parts.collector.collect_now(resumable=True)
    assert bench.shown() == set()
    for gate in gates:
        gate.opened.set()
    assert {(await pull).image.id for pull in pulls} == {image.id}
    assert {seen.method for seen in registry.seen if seen.kind == MANIFEST} == {"HEAD"}


async def test_a_tag_that_moves_leaves_the_old_image(bench: Bench, registry: FaultRegistry) -> None:
    old = image_of(layer(0))
    serve(registry, old)
    await bench.pull()
    new = image_of(layer(1))
    serve(registry, new)
    await bench.pull()
    assert {image.id: image.repo_tags for image in bench.parts.store.all()} == {
        old.id: (),
        new.id: (bench.name(),),
    }
    assert bench.parts.store.resolve(bench.name()) == new.id


async def test_two_tags_of_one_image(bench: Bench, registry: FaultRegistry) -> None:
    image = image_of(layer(0))
    serve(registry, image, "b")
    serve(registry, image, "a")
    await bench.pull("b")
    await bench.pull("a")
    (shown,) = bench.parts.store.all()
    assert shown.repo_tags == (bench.name("a"), bench.name("b"))
    assert len(shown.repo_digests) == 1
    assert await bench.parts.remover.remove(bench.name("a")) == shown
    assert bench.parts.store.all() == []
    await bench.nothing_is_left()


async def test_by_digest_there_is_no_tag(bench: Bench, registry: FaultRegistry) -> None:
    put = serve(registry, image_of(layer(0)))
    pulled = await bench.pull(f"@{put.manifest.digest}")
    assert pulled.image.repo_tags == ()
    assert pulled.image.repo_digests == (pulled.repo_digest,)
    tagged = f"{bench.name('latest')}@{put.manifest.digest}"
    assert (await bench.parts.puller.pull(tagged)).image == pulled.image


async def test_odd_images(bench: Bench, registry: FaultRegistry) -> None:
    same = layer(0)
    shared = image_of(layer(1))
    other = json.loads(shared.manifest) | {"annotations": {"another": "manifest"}}
    serve(registry, image_of(), "without-layers")
    serve(registry, image_of(images.layer({})), "empty-layer")
    serve(registry, image_of(same, layer(2), same), "one-layer-twice")
    serve(registry, shared, "shared-config")
    registry.add_manifest(
        "library/demo", "same-config", images.MANIFEST, json.dumps(other).encode()
    )
    for tag in ("without-layers", "empty-layer", "one-layer-twice", "shared-config", "same-config"):
        pulled = await bench.pull(tag)
        await bench.tree(bench.name(tag))
        assert bench.parts.store.get(bench.name(tag)) == pulled.image
    (both,) = [each for each in bench.parts.store.all() if each.id == shared.id]
    assert both.repo_tags == (bench.name("same-config"), bench.name("shared-config"))
    assert len(both.repo_digests) == 2


async def test_sha512_blobs_and_diff_ids(bench: Bench, registry: FaultRegistry) -> None:
    good = layer(0)
    tar = gzip.decompress(good.blob)
    image = image_of(replace(good, diff_id=f"sha512:{hashlib.sha512(tar).hexdigest()}"))
    document = json.loads(image.manifest)
    digest = f"sha512:{hashlib.sha512(good.blob).hexdigest()}"
    document["layers"][0]["digest"] = digest
    registry.blobs[digest] = good.blob
    registry.add_blob(image.config)
    registry.add_manifest("library/demo", "latest", images.MANIFEST, json.dumps(document).encode())
    pulled = await bench.pull()
    assert pulled.image.record.chain_id == image.layers[0].diff_id
    assert (await bench.tree(image.id))["top"] == b"0"


# --- indexes and platforms -------------------------------------------------------------------


def platform(architecture: str, variant: str = "") -> dict[str, str]:
    return {"os": "linux", "architecture": architecture, "variant": variant}


async def test_the_manifest_of_this_platform(bench: Bench, registry: FaultRegistry) -> None:
    ours, other = image_of(layer(0)), replace(image_of(layer(1)), architecture="s390x")
    entries = [
        descriptor(other.manifest, images.MANIFEST, platform=platform("s390x")),
        descriptor(ours.manifest, images.MANIFEST, platform=platform(ours.architecture)),
    ]
    serve(registry, ours, "ours")
    serve(registry, other, "other")
    index = serve_index(registry, entries, "both")
    pulled = await bench.pull("both")
    assert pulled.image.id == ours.id
    assert pulled.repo_digest == bench.name(f"@{index}")
    only = serve_index(registry, entries[:1], "only-other")
    with pytest.raises(NotFoundError, match="the image is there for linux/s390x"):
        await bench.pull(f"@{only}")


async def test_indexes_within_indexes(bench: Bench, registry: FaultRegistry) -> None:
    image = image_of(layer(0))
    put = serve(registry, image, "0")
    entry = {"mediaType": images.MANIFEST, "digest": put.manifest.digest}
    size = put.manifest.size
    for depth in range(1, 5):
        digest = serve_index(registry, [{**entry, "size": size}], str(depth))
        entry = {"mediaType": images.INDEX, "digest": digest}
        size = len(registry.manifests["library/demo", digest][1])
    pulled = await bench.pull("3")
    assert pulled.image.id == image.id
    with pytest.raises(LimitExceededError, match="nested more than 3 deep"):
        await bench.pull("4")


async def test_an_index_whose_entry_tells_no_platform(
    bench: Bench, registry: FaultRegistry
) -> None:
    other = replace(image_of(layer(1)), architecture="s390x")
    serve(registry, other, "other")
    serve_index(registry, [descriptor(other.manifest, images.MANIFEST)])
    with pytest.raises(NotFoundError, match="the image is there for linux/s390x"):
        await bench.pull()
    image = image_of(layer(0))
    serve(registry, image, "ours")
    serve_index(registry, [descriptor(image.manifest, images.MANIFEST)])
    assert (await bench.pull()).image.id == image.id
    both = [descriptor(each.manifest, images.MANIFEST) for each in (other, image)]
    serve_index(registry, both)
    assert (await bench.pull()).image.id == image.id, "the configs were asked in turn"


async def test_no_more_manifests_are_looked_into_than_the_limit(
    bench: Bench, registry: FaultRegistry
) -> None:
    entries = []
    for number in range(Limits().index_candidates + 5):
        other = replace(image_of(layer(number)), architecture="s390x")
        serve(registry, other, str(number))
        entries.append(descriptor(other.manifest, images.MANIFEST))
    serve_index(registry, entries)
    before = len(registry.gets(MANIFEST))
    with pytest.raises(NotFoundError, match="the image is there for linux/s390x"):
        await bench.pull()
    assert len(registry.gets(MANIFEST)) - before == 1 + Limits().index_candidates


async def test_a_manifest_that_stands_alone_is_pulled_whatever_its_config_names(
    bench: Bench, registry: FaultRegistry
) -> None:
    other = replace(image_of(layer(1)), architecture="s390x")
    serve(registry, other)
    with bench.parts.events.subscribe() as events:
        pulled = await bench.pull()
        assert pulled.image.id == other.id
        ended = [event async for event in until_ended(events)][-1]
    (warning,) = await bench.warnings(pulled.image)
    assert warning.startswith("its config is for linux/s390x, it was pulled for linux/")
    assert ended.report.warnings == (warning,)


async def until_ended(events: Subscription) -> AsyncIterator[PullEnded]:
    async for event in events:
        if isinstance(event, PullEnded):
            yield event
            return


async def test_what_a_root_file_system_lacks_is_told(bench: Bench, registry: FaultRegistry) -> None:
    never = {"user.overlay.opaque": b"y"}
    lower = images.layer({"a": file(b"a", xattrs=never), "b": file(b"b", xattrs=never)})
    serve(registry, image_of(lower, images.layer({"c": file(b"c", xattrs=never)})))
    pulled = await bench.pull()
    (warning,) = await bench.warnings(pulled.image)
    assert "root file system lacks" in warning
    assert "3 xattrs" in warning
    serve(registry, image_of(layer(0)), "whole")
    whole = await bench.pull("whole")
    if os.geteuid() == 0:
        assert await bench.warnings(whole.image) == ()


async def test_an_index_decides_whatever_the_config_names(
    bench: Bench, registry: FaultRegistry
) -> None:
    ours, other = image_of(layer(0)), replace(image_of(layer(1)), architecture="s390x")
    serve(registry, other, "other")
    here = platform(ours.architecture)
    serve_index(registry, [descriptor(other.manifest, images.MANIFEST, platform=here)])
    assert (await bench.pull()).image.id == other.id
    inner = serve_index(registry, [descriptor(other.manifest, images.MANIFEST)], "inner")
    size = len(registry.manifests["library/demo", inner][1])
    entry = {"mediaType": images.INDEX, "digest": inner, "size": size, "platform": here}
    serve_index(registry, [entry])
    assert (await bench.pull()).image.id == other.id


UNUSABLE: list[dict[str, Any]] = [
    {"platform": {"os.features": ["nydus.remoteimage.v1"]}},
    {"mediaType": "application/vnd.example.unknown+json"},
    {"mediaType": media_types.OCI_LAYER},
    {"mediaType": None},
]


@pytest.mark.parametrize("first", [*UNUSABLE, {"artifactType": "application/vnd.example.sbom"}])
async def test_what_is_no_plain_image_does_not_hide_the_one_behind_it(
    bench: Bench, registry: FaultRegistry, first: dict[str, Any]
) -> None:
    ours, other = image_of(layer(0)), image_of(layer(1))
    here = platform(ours.architecture)
    for image in (ours, other):
        serve(registry, image, image.id[-5:])
    odd = descriptor(other.manifest, images.MANIFEST, **first)
    odd["platform"] = here | first.get("platform", {})
    serve_index(registry, [odd, descriptor(ours.manifest, images.MANIFEST, platform=here)])
    assert (await bench.pull()).image.id == ours.id


@pytest.mark.parametrize("only", UNUSABLE)
async def test_what_is_no_plain_image_is_not_pulled_for_want_of_one(
    bench: Bench, registry: FaultRegistry, only: dict[str, Any]
) -> None:
    other = image_of(layer(1))
    serve(registry, other, "other")
    odd = descriptor(other.manifest, images.MANIFEST, **only)
    odd["platform"] = platform(other.architecture) | only.get("platform", {})
    serve_index(registry, [odd])
    with pytest.raises(NotFoundError, match="no manifest for platform"):
        await bench.pull()


async def test_an_artifact_that_only_its_manifest_tells_does_not_hide_the_image_behind_it(
    bench: Bench, registry: FaultRegistry
) -> None:
    ours = image_of(layer(0))
    serve(registry, ours, "ours")
    here = platform(ours.architecture)
    registry.add_blob(b"{}")
    artifact = json.dumps(ARTIFACT).encode()
    registry.add_manifest("library/demo", "artifact", images.MANIFEST, artifact)
    for described in ({"platform": here}, {}):
        entries = [
            descriptor(artifact, images.MANIFEST, **described),
            descriptor(ours.manifest, images.MANIFEST, **described),
        ]
        serve_index(registry, entries)
        assert (await bench.pull()).image.id == ours.id
        await bench.parts.remover.remove(ours.id)


async def test_the_chosen_entry_must_be_sound(bench: Bench, registry: FaultRegistry) -> None:
    """Another platform that would do is not taken in its stead."""
    ours = image_of(layer(0))
    serve(registry, ours, "ours")
    good = descriptor(ours.manifest, images.MANIFEST, platform=platform("386"))
    bad = {**good, "platform": platform(ours.architecture), "digest": "sha384:" + "a" * 96}
    serve_index(registry, [bad, good])
    with pytest.raises(UnsupportedContentError, match=r"index: manifest 0: .*sha384"):
        await bench.pull()


async def test_a_blob_that_is_no_layer_is_kept_and_makes_no_part_of_the_tree(
    bench: Bench, registry: FaultRegistry
) -> None:
    image = image_of(layer(0))
    document = json.loads(image.manifest)
    document["layers"].append(descriptor(b"\0asm\1\0\0\0", "application/wasm"))
    serve(registry, image, "plain")
    registry.add_blob(b"\0asm\1\0\0\0")
    data = json.dumps(document).encode()
    registry.add_manifest("library/demo", "latest", images.MANIFEST, data)
    pulled = await bench.pull()
    assert pulled.image.record.size == len(data) + sum(
        each["size"] for each in (document["config"], *document["layers"])
    )
    assert set(await bench.tree(image.id)) == {"d", "d/0", "top"}
    await bench.parts.collector.collect_now(resumable=True)
    hexadecimal = document["layers"][-1]["digest"].partition(":")[2]
    blob = bench.root / "content" / "blobs" / "sha256" / hexadecimal
    assert blob.read_bytes() == b"\0asm\1\0\0\0"
    await bench.parts.remover.remove(image.id)
    await bench.nothing_is_left()


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "lower/UPPER", "a:b:c", "host/a@sha256:x", "a" * 300, "0" * 64]
)
async def test_a_name_that_is_none(bench: Bench, name: str) -> None:
    with pytest.raises(InvalidRequestError):
        await bench.parts.puller.pull(name)
    assert bench.parts.running.list() == []


async def refused(bench: Bench, error: type[Exception], says: str) -> None:
    """The pull fails so, shows nothing, and leaves nothing that a collection does not find."""
    with pytest.raises(error, match=says):
        await bench.pull()
    assert bench.parts.store.all() == []
    assert "pull" not in bench.leases()
    await bench.nothing_is_left()


async def test_an_unknown_tag(bench: Bench) -> None:
    await refused(bench, RegistryError, "MANIFEST_UNKNOWN|404")


async def test_wrong_diff_id(bench: Bench, registry: FaultRegistry) -> None:
    serve(registry, image_of(layer(0), images.with_wrong_diff_id(layer(1)), layer(2)))
    await refused(bench, CorruptContentError, "layer sha256:.* unpacks to diffID")


async def test_a_layer_that_is_no_archive(bench: Bench, registry: FaultRegistry) -> None:
    bad = images.Layer(gzip.compress(b"x" * 5000), media_types.OCI_LAYER_GZIP, sha256(b"x" * 5000))
    serve(registry, image_of(layer(0), bad))
    await refused(bench, CorruptContentError, "layer sha256")


async def test_wrong_bytes_of_a_layer(bench: Bench, registry: FaultRegistry) -> None:
    serve(registry, image_of(layer(0)))
    registry.faults.append(corrupt(where=BLOB, reference=image_layer(registry)))
    await refused(bench, CorruptContentError, "other bytes|delivered something else")


def image_layer(registry: FaultRegistry) -> str:
    """The digest of the first layer of the demo image."""
    (_, document) = registry.manifests["library/demo", "latest"]
    return str(json.loads(document)["layers"][0]["digest"])


async def test_layers_and_diff_ids_differ_in_number(bench: Bench, registry: FaultRegistry) -> None:
    image = image_of(layer(0), layer(1))
    document = json.loads(image.manifest)
    document["layers"].pop()
    registry.add_blob(image.config)
    registry.add_manifest("library/demo", "latest", images.MANIFEST, json.dumps(document).encode())
    await refused(bench, CorruptContentError, "1 layers, its config 2 diffIDs")


@pytest.mark.parametrize("wrong", [-1, 1])
async def test_a_descriptor_with_a_wrong_size(
    bench: Bench, registry: FaultRegistry, wrong: int
) -> None:
    image = image_of(layer(0))
    serve(registry, image)
    document = json.loads(image.manifest)
    document["layers"][0]["size"] += wrong
    registry.add_manifest("library/demo", "latest", images.MANIFEST, json.dumps(document).encode())
    await refused(bench, Exception, "bytes")


@pytest.mark.parametrize("wrong", [-1, 1])
async def test_a_wrong_size_is_wrong_whether_or_not_the_blob_is_here(
    bench: Bench, registry: FaultRegistry, wrong: int
) -> None:
    image = image_of(layer(0))
    serve(registry, image, "good")
    await bench.pull("good")
    for part in ("layers", "config"):
        document = json.loads(image.manifest)
        described = document[part] if part == "config" else document[part][0]
        described["size"] += wrong
        registry.add_manifest("library/demo", "bad", images.MANIFEST, json.dumps(document).encode())
        with pytest.raises((CorruptContentError, RegistryError), match="bytes"):
            await bench.pull("bad")
    assert [each.repo_tags for each in bench.parts.store.all()] == [(bench.name("good"),)]
    assert bench.parts.store.all()[0].record.size == image.size


async def test_no_space_for_what_is_missing(bench: Bench, registry: FaultRegistry) -> None:
    image = image_of(layer(0))
    document = json.loads(image.manifest)
    document["layers"][0]["size"] = 100 << 30
    disk = os.statvfs(bench.root)
    if disk.f_bavail * disk.f_frsize > 100 << 30:
        pytest.skip("this disk is very large")
    serve(registry, image)
    registry.add_manifest("library/demo", "latest", images.MANIFEST, json.dumps(document).encode())
    await refused(bench, NoSpaceError, f"{100 << 30} compressed bytes are missing")
    assert registry.gets(BLOB)[-1].path.endswith(json.loads(image.manifest)["config"]["digest"])


async def test_an_unauthorised_pull_is_not_told_that_the_image_is_here(
    bench: Bench, registry: FaultRegistry
) -> None:
    serve(registry, image_of(layer(0)))
    registry.auth = BasicAuth({"user": MARK})
    await bench.pull(credentials=Credentials(username="user", password=MARK))
    for credentials in (None, Credentials(username="user", password=f"{MARK}-wrong")):
        with pytest.raises(RegistryError) as error:
            await bench.pull(credentials=credentials)
        assert error.value.category is Category.UNAUTHENTICATED


async def test_a_failed_pull_is_taken_up_again(bench: Bench, registry: FaultRegistry) -> None:
    image = image_of(*(layer(number) for number in range(4)))
    put = serve(registry, image)
    registry.faults.append(status(404, where=BLOB, reference=put.layers[3].digest))
    with pytest.raises(RegistryError, match="404"):
        await bench.pull()
    assert bench.shown() == set()
    had = bench.rows("SELECT digest FROM blobs")
    assert set(bench.leases()) <= {"resume"}
    registry.faults.clear()
    fetched = len(registry.gets(BLOB))
    await bench.pull()
    assert len(registry.gets(BLOB)) - fetched <= 5 - (len(had) - 1)
    assert (await bench.tree(image.id))["top"] == b"3"
    assert "pull" not in bench.leases()


async def test_too_many_pulls(tmp_path: Path, registry: GatedRegistry) -> None:
    put = serve(registry, image_of(layer(0)))
    gate = registry.hold(put.layers[0].digest)
    limits = Limits(running_pulls=5, waiting_pulls=9)  # for one namespace: 2 and 3
    async with Bench.open(tmp_path, registry, limits=limits) as bench:
        pulls = [bench.start() for _ in range(5)]
        await registry.held(gate)
        with pytest.raises(QueueFullError, match=r"3 pulls from .*/library wait already"):
            await bench.pull()
        pulls[4].cancel()
        gate.opened.set()
        found = {(await pull).image.id for pull in pulls[:4]}
        assert found == {bench.parts.store.all()[0].id}


async def test_what_somebody_took_away_comes_back_with_the_next_pull(
    bench: Bench, registry: FaultRegistry
) -> None:
    image = image_of(layer(0), layer(1))
    put = serve(registry, image)
    await bench.pull()
    blob = bench.root / "content" / "blobs" / "sha256" / put.layers[0].digest.hex
    blob.unlink()
    for folder in (bench.root / "snapshots" / "native").iterdir():
        shutil.rmtree(folder)
    await bench.pull()
    assert blob.stat().st_size == put.layers[0].size
    assert set(await bench.tree(image.id)) == {"d", "d/0", "d/1", "top"}


async def test_the_config_is_taken_from_the_next_host_where_a_mirror_lies(
    tmp_path: Path, registry: FaultRegistry
) -> None:
    image = image_of(layer(0))
    put = serve(registry, image)
    async with FaultRegistry() as mirror:
        mirror.share(registry)
        mirror.faults.append(corrupt(where=BLOB, reference=put.config.digest))
        folder = tmp_path / "certs.d" / registry.authority
        folder.mkdir(parents=True)
        (folder / "hosts.toml").write_text(
            f'server = "{registry.url}"\n[host."{mirror.url}"]\n'
            'capabilities = ["pull", "resolve"]\n'
        )
        options = RegistryOptions(config_path=str(tmp_path / "certs.d"))
        async with Bench.open(tmp_path / "root", registry, registry_options=options) as bench:
            assert (await bench.pull()).image.id == image.id
        assert len(mirror.gets(BLOB)) >= 1
        assert put.config.digest in {seen.path.rpartition("/")[2] for seen in registry.gets(BLOB)}


async def test_a_file_system_in_a_file(bench: Bench, registry: FaultRegistry) -> None:
    """Upper layers are seen through the views of the stack."""
    lower = images.layer({"a": file("old"), "b": file("gone"), "c": file("kept")})
    upper = images.layer({"a": file("new"), ".wh.b": images.WHITEOUT})
    serve(registry, image_of(lower, upper))
    pulled = await bench.pull()
    assert await bench.tree(pulled.image.id) == {"a": b"new", "c": b"kept"}
