"""What a policy wants to be signed is pulled with a signature by one of its keys alone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cri_imaged.config.options import PolicyOptions, VerificationOptions
from cri_imaged.config.values import Directory, FilePath, RepositoryPrefix
from cri_imaged.cri.errors import status_of
from cri_imaged.errors import (
    Category,
    ConfigError,
    CorruptContentError,
    RegistryError,
    SignatureRejectedError,
)
from cri_imaged.images.health.problems import Unverified
from cri_imaged.images.verification.policy import Policy, Rule
from cri_imaged.images.verification.signatures import bundled
from cri_imaged.limits import MIB, Limits
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.reference import Reference
from tests.images.gated import GatedRegistry
from tests.images.workbench import REPOSITORY, Bench, image_of, layer, serve, serve_index
from tests.support import images, signing
from tests.support.registry import BLOB, MANIFEST, REFERRERS, Fault, Image, corrupt, status
from tests.support.signing import Signer, signer


def policy(match: str, require: str, *keys: Signer) -> PolicyOptions:
    return PolicyOptions(
        match=RepositoryPrefix(match),
        require=require,  # type: ignore[arg-type]
        keys=[FilePath(key.file) for key in keys],
    )


@asynccontextmanager
async def guarded(
    root: Path, registry: GatedRegistry, *policies: PolicyOptions, limits: Limits | None = None
) -> AsyncIterator[Bench]:
    options = VerificationOptions(
        bin_dir=Directory(root.parent / "no-verifiers"), policy=list(policies)
    )
    async with Bench.open(root, registry, verification=options, limits=limits) as bench:
        yield bench


@pytest.fixture
def team(tmp_path: Path) -> Signer:
    return signer(tmp_path, "team")


async def refused(bench: Bench, tag: str = "latest") -> str:
    """The message that the kubelet gets; no image comes of it."""
    known = len(bench.rows("SELECT * FROM images"))
    with pytest.raises(SignatureRejectedError) as error:
        await bench.pull(tag)
    _, message = status_of(error.value)
    assert message.startswith("SignatureValidationFailed: ")
    assert len(bench.rows("SELECT * FROM images")) == known
    return message


def put(registry: GatedRegistry, tag: str = "latest") -> Image:
    return serve(registry, image_of(layer(0)), tag)


# --- signatures ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", signing.KINDS)
async def test_an_image_is_pulled_with_a_signature_by_one_of_the_keys(
    tmp_path: Path, registry: GatedRegistry, kind: str
) -> None:
    ours, other = signer(tmp_path, "ours", kind), signer(tmp_path, "other")
    signing.sign(registry, REPOSITORY, put(registry).manifest.digest, ours)
    async with guarded(tmp_path / "root", registry, policy("*", "signed", other, ours)) as bench:
        await bench.pull()
        assert bench.shown()


@pytest.mark.parametrize(
    "change",
    [{"signatures": []}, {"signatures": [{"sig": ""}] * 2}, {"payloadType": "text/plain"}, None],
)
def test_a_bundle_is_of_one_signed_statement(
    tmp_path: Path, change: dict[str, object] | None
) -> None:
    digest = images.sha256(b"image")
    document = json.loads(signing.bundle(digest, signer(tmp_path, "team")))
    assert bundled(json.dumps(document).encode(), Digest(digest))
    envelope = document["dsseEnvelope"]
    document["dsseEnvelope"] = None if change is None else {**envelope, **change}
    with pytest.raises(CorruptContentError, match="no signed statement"):
        bundled(json.dumps(document).encode(), Digest(digest))


@pytest.mark.parametrize("listed", [signing.list_referrers, signing.tag_referrers])
@pytest.mark.parametrize("kind", signing.KINDS)
async def test_a_bundle_among_the_referrers_is_a_signature(
    tmp_path: Path, registry: GatedRegistry, kind: str, listed: Callable[..., None]
) -> None:
    ours = signer(tmp_path, "ours", kind)
    digest = put(registry).manifest.digest
    entry = signing.refer(registry, REPOSITORY, digest, signing.bundle(digest, ours))
    listed(registry, REPOSITORY, digest, entry)
    async with guarded(tmp_path / "root", registry, policy("*", "signed", ours)) as bench:
        await bench.pull()


async def test_without_a_signature_nothing_is_fetched(
    tmp_path: Path, registry: GatedRegistry, team: Signer
) -> None:
    put(registry)
    async with guarded(tmp_path / "root", registry, policy("*", "signed", team)) as bench:
        message = await refused(bench)
        assert "has no signature" in message
        assert str(team.file) in message
        assert registry.gets(BLOB) == []
        assert bench.rows("SELECT * FROM blobs") == []


async def test_a_signature_by_another_key_is_none(
    tmp_path: Path, registry: GatedRegistry, team: Signer
) -> None:
    signing.sign(registry, REPOSITORY, put(registry).manifest.digest, signer(tmp_path, "stranger"))
    async with guarded(tmp_path / "root", registry, policy("*", "signed", team)) as bench:
        assert "signatures by other keys: 1" in await refused(bench)


async def test_a_signature_of_another_image_is_none(
    tmp_path: Path, registry: GatedRegistry, team: Signer
) -> None:
    digest = put(registry).manifest.digest
    other = signing.payload(images.sha256(b"another image"))
    signing.attach(registry, REPOSITORY, digest, (other, team.sign(other)))
    foreign = signing.bundle(images.sha256(b"another image"), team)
    signing.list_referrers(
        registry, REPOSITORY, digest, signing.refer(registry, REPOSITORY, digest, foreign)
    )
    async with guarded(tmp_path / "root", registry, policy("*", "signed", team)) as bench:
        message = await refused(bench)
        assert "is of another image" in message
        assert "the bundle is of another image" in message


async def test_what_else_is_attested_is_no_signature(
    tmp_path: Path, registry: GatedRegistry, team: Signer
) -> None:
    """That somebody found faults in an image, and signed that, is no reason to pull it."""
    digest = put(registry).manifest.digest
    report = signing.bundle(digest, team, "https://cosign.sigstore.dev/attestation/vuln/v1")
    signing.list_referrers(
        registry, REPOSITORY, digest, signing.refer(registry, REPOSITORY, digest, report)
    )
    async with guarded(tmp_path / "root", registry, policy("*", "signed", team)) as bench:
        assert "attestation/vuln/v1" in await refused(bench)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"critical":{}}', b'{"critical":1}', b"[" * 100_000]
)
async def test_what_is_malformed_does_not_hide_a_signature(
    tmp_path: Path, registry: GatedRegistry, team: Signer, data: bytes
) -> None:
    digest = put(registry).manifest.digest
    good = signing.payload(digest)
    signing.attach(registry, REPOSITORY, digest, (data, team.sign(data)), (good, team.sign(good)))
    async with guarded(tmp_path / "root", registry, policy("*", "signed", team)) as bench:
        await bench.pull()
    registry.manifests.pop((REPOSITORY, digest.replace(":", "-") + ".sig"))
    entries = [
        signing.refer(registry, REPOSITORY, digest, each)
        for each in (data, signing.bundle(digest, team))
    ]
    signing.list_referrers(registry, REPOSITORY, digest, *entries)
    async with guarded(tmp_path / "other", registry, policy("*", "signed", team)) as bench:
        await bench.pull()


@pytest.mark.parametrize(
    "found",
    [
        b"{}",
        b'{"schemaVersion":2,"mediaType":"application/vnd.oci.artifact.manifest.v1+json"}',
        signing.signature_manifest((b"", b"x" * 200_000))[0],
    ],
)
async def test_a_tag_for_signatures_that_has_something_else_does_not_hide_a_bundle(
    tmp_path: Path, registry: GatedRegistry, team: Signer, found: bytes
) -> None:
    digest = put(registry).manifest.digest
    tag = signing.signature_tag(digest)
    registry.add_manifest(REPOSITORY, tag, images.MANIFEST, found)
    async with guarded(tmp_path / "root", registry, policy("*", "signed", team)) as bench:
        assert tag in await refused(bench)
        entry = signing.refer(registry, REPOSITORY, digest, signing.bundle(digest, team))
        signing.list_referrers(registry, REPOSITORY, digest, entry)
        await bench.pull()


async def test_so_many_signatures_are_looked_at_and_so_large_ones(
    tmp_path: Path, registry: GatedRegistry, team: Signer
) -> None:
    digest = put(registry).manifest.digest
    stranger = signer(tmp_path, "stranger")
    good = signing.payload(digest)
    many = [(signing.payload(digest, f"r{n}"), stranger.sign(b"")) for n in range(4)]
    limits = Limits(signatures=4, signature_bytes=5000)
    async with guarded(
        tmp_path / "root", registry, policy("*", "signed", team), limits=limits
    ) as bench:
        signing.attach(registry, REPOSITORY, digest, *many, (good, team.sign(good)))
        assert "signatures by other keys: 4" in await refused(bench)
        large = signing.payload(digest, "r" * 5000)
        signing.attach(registry, REPOSITORY, digest, (large, team.sign(large)))
        assert "limit 5000 (signature_bytes)" in await refused(bench)
        signing.attach(registry, REPOSITORY, digest, *many[:3], (good, team.sign(good)))
        await bench.pull()


async def test_signatures_are_read_within_the_budget_of_memory(
    tmp_path: Path, registry: GatedRegistry, team: Signer
) -> None:
    digest = put(registry).manifest.digest
    large, good = signing.payload(digest, "r" * 600_000), signing.payload(digest)
    limits = Limits(memory_bytes=4 * MIB)
    async with guarded(
        tmp_path / "root", registry, policy("*", "signed", team), limits=limits
    ) as bench:
        signing.attach(registry, REPOSITORY, digest, (large, team.sign(large)))
        assert "(of image.limits.memory_bytes)" in await refused(bench)
        signing.attach(
            registry, REPOSITORY, digest, *((each, team.sign(each)) for each in (large, good))
        )
        await bench.pull()


async def test_a_signature_of_the_index_is_one_of_its_image(
    tmp_path: Path, registry: GatedRegistry, team: Signer
) -> None:
    image = image_of(layer(0))
    serve(registry, image, "platform")
    entry = {**images.descriptor(image.manifest, images.MANIFEST)}
    signing.sign(registry, REPOSITORY, serve_index(registry, [entry]), team)
    async with guarded(tmp_path / "root", registry, policy("*", "signed", team)) as bench:
        await bench.pull()
        await refused(bench, "platform")


async def test_a_signature_that_comes_with_other_bytes_is_told(
    tmp_path: Path, registry: GatedRegistry, team: Signer
) -> None:
    signing.sign(registry, REPOSITORY, put(registry).manifest.digest, team)
    registry.faults.append(corrupt(where=BLOB))
    async with guarded(tmp_path / "root", registry, policy("*", "signed", team)) as bench:
        assert "the registry sent other bytes" in await refused(bench)


async def test_a_signature_that_the_registry_has_lost_does_not_hide_another(
    tmp_path: Path, registry: GatedRegistry, team: Signer
) -> None:
    digest = put(registry).manifest.digest
    lost, good = signing.payload(digest, "lost"), signing.payload(digest)
    signed = [(data, team.sign(data)) for data in (lost, good)]
    signing.attach(registry, REPOSITORY, digest, *signed)
    del registry.blobs[images.sha256(lost)]
    async with guarded(tmp_path / "root", registry, policy("*", "signed", team)) as bench:
        await bench.pull()
        del registry.blobs[images.sha256(good)]
        assert "cannot fetch" in await refused(bench)


async def test_what_else_is_signed_in_that_form_is_no_signature(
    tmp_path: Path, registry: GatedRegistry, team: Signer
) -> None:
    digest = put(registry).manifest.digest
    other = signing.payload(digest).replace(b"cosign container", b"another container")
    signing.attach(registry, REPOSITORY, digest, (other, team.sign(other)))
    async with guarded(tmp_path / "root", registry, policy("*", "signed", team)) as bench:
        assert "'another container image signature'" in await refused(bench)


@pytest.mark.parametrize("where", [MANIFEST, "referrers"])
async def test_signatures_that_cannot_be_asked_for_are_no_refusal(
    tmp_path: Path, registry: GatedRegistry, team: Signer, where: str
) -> None:
    """The kubelet is told that the registry is away, not that the image is bad."""
    digest = put(registry).manifest.digest
    limits = Limits(tries_per_request=1)
    reference = digest.replace(":", "-") + ".sig" if where == MANIFEST else digest
    registry.faults.append(status(503, where=where, reference=reference))
    async with guarded(
        tmp_path / "root", registry, policy("*", "signed", team), limits=limits
    ) as bench:
        with pytest.raises(RegistryError) as error:
            await bench.pull()
        assert error.value.category is Category.REGISTRY_UNAVAILABLE


@pytest.mark.parametrize("code", [400, 404, 405, 406, 415, 501])
async def test_a_registry_that_knows_no_referrers_has_them_under_a_tag(
    tmp_path: Path, registry: GatedRegistry, team: Signer, code: int
) -> None:
    digest = put(registry).manifest.digest
    entry = signing.refer(registry, REPOSITORY, digest, signing.bundle(digest, team))
    signing.tag_referrers(registry, REPOSITORY, digest, entry)
    registry.faults.append(status(code, where="referrers"))
    async with guarded(tmp_path / "root", registry, policy("*", "signed", team)) as bench:
        await bench.pull()


async def test_a_signature_may_be_on_any_page_of_the_referrers(
    tmp_path: Path, registry: GatedRegistry, team: Signer
) -> None:
    digest = put(registry).manifest.digest
    report = signing.bundle(digest, team, "https://example/report")
    entries = [
        signing.refer(registry, REPOSITORY, digest, data)
        for data in (report, signing.bundle(digest, team))
    ]
    signing.list_referrers(registry, REPOSITORY, digest, *entries)
    registry.referrers_a_page = 1
    async with guarded(tmp_path / "root", registry, policy("*", "signed", team)) as bench:
        await bench.pull()
        put(registry, "endless")
        registry.faults.append(
            Fault(
                where=REFERRERS,
                status=200,
                headers={"Content-Type": images.INDEX, "Link": '<?from=0>; rel="next"'},
                body=b'{"schemaVersion": 2, "manifests": []}',
            )
        )
        assert "it has no signature" in await refused(bench, "endless")


async def test_a_list_of_no_referrers_is_none(
    tmp_path: Path, registry: GatedRegistry, team: Signer
) -> None:
    """Whoever lists none may not know of those that are under the tag, as a mirror may not."""
    digest = put(registry).manifest.digest
    entry = signing.refer(registry, REPOSITORY, digest, signing.bundle(digest, team))
    signing.tag_referrers(registry, REPOSITORY, digest, entry)
    registry.referrers = {}
    async with guarded(tmp_path / "root", registry, policy("*", "signed", team)) as bench:
        await bench.pull()


# --- what is here ----------------------------------------------------------------------------


async def test_a_moved_tag_is_verified_again(
    tmp_path: Path, registry: GatedRegistry, team: Signer
) -> None:
    signing.sign(registry, REPOSITORY, put(registry).manifest.digest, team)
    async with guarded(tmp_path / "root", registry, policy("*", "signed", team)) as bench:
        first = await bench.pull()
        put(registry)
        await refused(bench)
        assert bench.parts.store.get(bench.name()).id == first.image.id


async def test_what_is_here_is_not_used_by_a_pull_that_the_policy_refuses(
    tmp_path: Path, registry: GatedRegistry, team: Signer
) -> None:
    signing.sign(registry, REPOSITORY, put(registry).manifest.digest, team)
    root, newer = tmp_path / "root", signer(tmp_path, "newer")
    async with guarded(root, registry) as bench:  # before there is a policy
        await bench.pull()
        assert await told(bench) == {}
    async with guarded(root, registry, policy("*", "signed", team)) as bench:
        assert {*await told(bench)} == bench.shown()
        await bench.pull()
        assert await told(bench) == {}
    async with guarded(root, registry, policy("*", "signed", newer)) as bench:  # one withdrawn
        assert "no pull has seen a signature" in (await told(bench))[bench.name()]
        await refused(bench)
        assert {*await told(bench)} == bench.shown()
    async with guarded(root, registry, policy("*", "reject")) as bench:
        assert 'the policy for "*" rejects it' in (await told(bench))[bench.name()]
        await refused(bench)


async def test_check_repairs_what_was_signed_meanwhile(
    tmp_path: Path, registry: GatedRegistry, team: Signer
) -> None:
    signed, unsigned = put(registry, "signed"), put(registry, "unsigned")
    root = tmp_path / "root"
    async with guarded(root, registry) as bench:
        await bench.pull("signed")
        await bench.pull("unsigned")
    signing.sign(registry, REPOSITORY, signed.manifest.digest, team)
    put(registry, "signed")  # the tag has moved on, and stays what it is here
    async with guarded(root, registry, policy("*", "signed", team)) as bench:
        problems = [
            event
            async for event in bench.parts.checker.check(repair=True)
            if isinstance(event, Unverified)
        ]
        repaired = {each.subject: each.repaired for each in problems}
        assert repaired[bench.name("signed")]
        assert not repaired[bench.name("unsigned")]
        assert {*await told(bench)} == {
            bench.name("unsigned"),
            bench.name(f"@{unsigned.manifest.digest}"),
        }


async def told(bench: Bench) -> dict[str, str]:
    """Names that a check objects to, and why."""
    return {
        event.subject: event.description
        async for event in bench.parts.checker.check(repair=False)
        if isinstance(event, Unverified)
    }


async def test_a_key_counts_as_long_as_its_file_is_there(
    tmp_path: Path, registry: GatedRegistry, team: Signer
) -> None:
    signing.sign(registry, REPOSITORY, put(registry).manifest.digest, team)
    async with guarded(tmp_path / "root", registry, policy("*", "signed", team)) as bench:
        await bench.pull()
        team.file.unlink()
        with pytest.raises(ConfigError, match=f"key {team.file} cannot be read"):
            await bench.pull()


@pytest.mark.parametrize("text", ["", "-----BEGIN PUBLIC KEY-----\nAAAA\n", "nothing"])
async def test_a_file_that_is_no_key_ends_the_start(
    tmp_path: Path, registry: GatedRegistry, team: Signer, text: str
) -> None:
    team.file.write_text(text)
    with pytest.raises(ConfigError, match="holds no public key in PEM"):
        async with guarded(tmp_path / "root", registry, policy("*", "signed", team)):
            pass


async def test_a_key_that_can_be_broken_ends_the_start(
    tmp_path: Path, registry: GatedRegistry, team: Signer
) -> None:
    short = rsa.generate_private_key(65537, 1024).public_key()
    team.file.write_bytes(short.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(ConfigError, match="RSA of at least 2048 bits"):
        async with guarded(tmp_path / "root", registry, policy("*", "signed", team)):
            pass


# --- policies --------------------------------------------------------------------------------


def rule(match: str) -> Rule:
    return Rule(match, "accept")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("busybox", "docker.io/library"),
        ("docker.io/team/app", "docker.io"),
        ("docker.io/library/busybox@sha256:" + 64 * "0", "docker.io/library"),
        ("r.example/team/app:1", "r.example/team"),
        ("r.example/teammate/app", "r.example"),
        ("r.example/team", "r.example/team"),
        ("r.example:5000/team/app", "*"),
        ("R.Example/team/app", "r.example/team"),
        ("r.example:443/team/app", "r.example/team"),
        ("r.example:0443/team/app", "r.example/team"),
        ("registry-1.docker.io/library/busybox", "docker.io/library"),
    ],
)
def test_the_longest_prefix_counts(name: str, expected: str) -> None:
    prefixes = ("*", "docker.io", "docker.io/library", "r.example", "r.example/team")
    found = Policy(map(rule, prefixes)).rule(Reference.parse(name))
    assert found is not None
    assert found.match == expected


def test_without_a_rule_nothing_is_wanted() -> None:
    assert Policy([rule("r.example")]).rule(Reference.parse("busybox")) is None


async def test_a_policy_is_for_its_repositories_alone(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    for repository in ("open/app", "closed/app"):
        serve(registry, image_of(layer(0)), repository=repository)
    closed = policy(f"{registry.authority}/closed", "reject")
    async with guarded(tmp_path / "root", registry, closed) as bench:
        await bench.pull(repository="open/app")
        with pytest.raises(SignatureRejectedError, match='/closed" rejects it'):
            await bench.pull(repository="closed/app")


async def test_a_registry_is_closed_however_its_port_is_spelt(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    serve(registry, image_of(layer(0)))
    host, port = registry.authority.split(":")
    async with guarded(tmp_path / "root", registry, policy(registry.authority, "reject")) as bench:
        with pytest.raises(SignatureRejectedError):
            await bench.parts.puller.pull(f"{host}:0{port}/{REPOSITORY}")
