"""What comes in a file is judged by policy and programs as what comes from a registry is."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cri_imaged.config.options import PolicyOptions, VerificationOptions
from cri_imaged.config.values import Directory, FilePath, RepositoryPrefix
from cri_imaged.errors import SignatureRejectedError
from cri_imaged.images.health.problems import Unverified
from tests.images.gated import GatedRegistry
from tests.images.test_archives import docker_archive, files_below, import_into, tar_of
from tests.images.test_verifiers import program
from tests.images.workbench import Bench, image_of, layer
from tests.support import images, signing
from tests.support.images import Image, sha256, write_index_entry, write_layout
from tests.support.signing import Signer, signer

NAME = "registry.example/team/app:1"


@pytest.fixture
def team(tmp_path: Path) -> Signer:
    return signer(tmp_path, "team")


@asynccontextmanager
async def guarded(
    tmp_path: Path, registry: GatedRegistry, require: str, *keys: Signer, match: str = "*"
) -> AsyncIterator[Bench]:
    folder = tmp_path / "verifiers"
    folder.mkdir(exist_ok=True)
    policy = PolicyOptions(
        match=RepositoryPrefix(match),
        require=require,  # type: ignore[arg-type]
        keys=[FilePath(key.file) for key in keys],
    )
    options = VerificationOptions(bin_dir=Directory(folder), policy=[policy])
    async with Bench.open(tmp_path / "root", registry, verification=options) as bench:
        yield bench


def put(directory: Path, data: bytes) -> None:
    (directory / "blobs/sha256" / sha256(data)[7:]).write_bytes(data)


def by_tag(directory: Path, digest: str, by: Signer) -> None:
    """As `skopeo copy` of the tag beside the image."""
    data = signing.payload(digest)
    manifest, blobs = signing.signature_manifest((data, by.sign(data)))
    for each in (manifest, *blobs):
        put(directory, each)
    described = images.descriptor(manifest, images.MANIFEST)
    write_index_entry(directory, described, signing.signature_tag(digest))


def by_cosign(directory: Path, digest: str, by: Signer) -> None:
    """As `cosign save`."""
    by_tag(directory, digest, by)
    index = json.loads((directory / "index.json").read_text())
    image, signature = index["manifests"]
    signature["annotations"] = {"kind": "dev.cosignproject.cosign/sigs"}
    image["annotations"]["kind"] = "dev.cosignproject.cosign/image"
    (directory / "index.json").write_text(json.dumps(index))


def by_bundle(directory: Path, digest: str, by: Signer) -> None:
    """As `skopeo copy` of the tag that stands for the list of referrers."""
    data = signing.bundle(digest, by)
    manifest = signing.bundle_manifest(digest, data)
    index = signing.referrers_index(manifest)
    for each in (data, b"{}", manifest, index):
        put(directory, each)
    write_index_entry(directory, images.descriptor(index, images.INDEX), digest.replace(":", "-"))


def signed(at: Path, image: Image, by: Signer, how: Callable[[Path, str, Signer], None]) -> bytes:
    write_layout(at, NAME, image)
    how(at, sha256(image.manifest), by)
    return tar_of(files_below(at))


@pytest.mark.parametrize("how", [by_tag, by_cosign, by_bundle])
async def test_an_archive_brings_its_signatures(
    tmp_path: Path,
    registry: GatedRegistry,
    team: Signer,
    how: Callable[[Path, str, Signer], None],
) -> None:
    image, other = image_of(layer(0)), signer(tmp_path, "other")
    async with guarded(tmp_path, registry, "signed", team) as bench:
        with pytest.raises(SignatureRejectedError, match=r"archive: .*signatures by other keys: 1"):
            await import_into(bench, signed(tmp_path / "other", image, other, how))
        assert bench.shown() == set()
        [imported] = await import_into(bench, signed(tmp_path / "team", image, team, how))
        assert imported.image_id == image.id
        assert NAME in bench.shown()
        events = [event async for event in bench.parts.checker.check(repair=False)]
        assert not any(isinstance(event, Unverified) for event in events)


async def test_each_name_of_an_image_is_judged(
    tmp_path: Path, registry: GatedRegistry, team: Signer
) -> None:
    image, refused = image_of(layer(0)), "closed.example/team/app:1"
    layout = tmp_path / "layout"
    write_layout(layout, NAME, image)
    write_index_entry(layout, images.descriptor(image.manifest, images.MANIFEST), refused)
    async with guarded(tmp_path, registry, "reject", match="closed.example") as bench:
        with pytest.raises(SignatureRejectedError, match=refused):
            await import_into(bench, tar_of(files_below(layout)))
        assert bench.shown() == set()


async def test_what_the_policy_refuses_leaves_nothing(
    tmp_path: Path, registry: GatedRegistry, team: Signer
) -> None:
    image = image_of(layer(0))
    bare = tar_of(files_below(write_layout(tmp_path / "bare", NAME, image)))
    files, links = docker_archive((image, [NAME]))
    async with guarded(tmp_path, registry, "signed", team) as bench:
        for archive in (bare, tar_of(files, links)):
            with pytest.raises(SignatureRejectedError, match="it has no signature"):
                await import_into(bench, archive)
        await bench.nothing_is_left()
    async with guarded(tmp_path, registry, "reject", match="registry.example/team") as bench:
        with pytest.raises(SignatureRejectedError, match="rejects it"):
            await import_into(bench, bare)
        await import_into(bench, bare, "registry.example/teammate:1")
        assert "registry.example/teammate:1" in bench.shown()


async def test_what_has_no_name_is_judged_as_all_others_are(
    tmp_path: Path, registry: GatedRegistry, team: Signer
) -> None:
    nameless = tar_of(files_below(write_layout(tmp_path / "l", "v1", image_of(layer(0)))))
    for require, keys in (("reject", []), ("signed", [team])):
        async with guarded(tmp_path, registry, require, *keys) as bench:
            with pytest.raises(SignatureRejectedError, match="no name"):
                await import_into(bench, nameless)
    async with guarded(tmp_path, registry, "reject", match="registry.example") as bench:
        [imported] = await import_into(bench, nameless)
        assert await told(bench) == {}
    async with guarded(tmp_path, registry, "reject") as bench:
        for repair in (False, True):
            assert "no name" in (await told(bench, repair=repair))[imported.image_id]


async def told(bench: Bench, *, repair: bool = False) -> dict[str, str]:
    """What a check objects to and cannot mend, and why."""
    return {
        event.subject: event.description
        async for event in bench.parts.checker.check(repair=repair)
        if isinstance(event, Unverified) and not event.repaired
    }


async def test_programs_are_asked(tmp_path: Path, registry: GatedRegistry) -> None:
    image = image_of(layer(0))
    archive = tar_of(files_below(write_layout(tmp_path / "l", NAME, image)))
    async with guarded(tmp_path, registry, "accept") as bench:
        program(tmp_path / "verifiers", "a", 'echo "$2 $4"; exit 1')
        said = f"{NAME} {sha256(image.manifest)}"
        with pytest.raises(SignatureRejectedError, match=said):
            await import_into(bench, archive)
        await bench.nothing_is_left()


async def test_programs_are_told_the_digest_of_what_has_no_name(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    image = image_of(layer(0))
    nameless = tar_of(files_below(write_layout(tmp_path / "l", "v1", image)))
    async with guarded(tmp_path, registry, "accept") as bench:
        program(tmp_path / "verifiers", "a", 'echo "$2 $4"; exit 1')
        digest = sha256(image.manifest)
        with pytest.raises(SignatureRejectedError, match=f"{digest} {digest}"):
            await import_into(bench, nameless)
