"""Mirrors: order, capabilities, and going on at the next host at any point."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cri_imaged.errors import (
    Category,
    ConfigError,
    CorruptContentError,
    ImagedError,
    LimitExceededError,
    RegistryError,
    UnsupportedContentError,
)
from cri_imaged.limits import Limits
from cri_imaged.oci import media_types
from cri_imaged.oci.digest import Digest
from cri_imaged.registry.retry import RetryPolicy
from tests.registry.conftest import Certificates
from tests.registry.helpers import REPOSITORY, client, noise, read, resolve, write_hosts
from tests.support.registry import (
    BLOB,
    MANIFEST,
    Fault,
    FaultRegistry,
    Image,
    corrupt,
    cut,
    reset,
    stall,
    status,
)

NAME = "registry.invalid"
DATA = noise(600_000)
CONFIG = {"mediaType": media_types.OCI_CONFIG, "digest": Digest.of(b"{}"), "size": 2}


class Pair:
    """A registry and its mirror, with the same content."""

    def __init__(self, upstream: FaultRegistry, mirror: FaultRegistry, root: Path) -> None:
        self.upstream, self.mirror, self.root = upstream, mirror, root
        self.image: Image = upstream.add_image(REPOSITORY, "latest", [DATA])
        mirror.share(upstream)
        self.configure()

    def configure(self, fields: str = "", *, mirror_url: str | None = None) -> None:
        url = mirror_url or self.mirror.url
        text = f'server = "{self.upstream.url}"\n[host."{url}"]\n{fields}\n'
        write_hosts(self.root, NAME, text)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with FaultRegistry() as upstream, FaultRegistry() as mirror:
        yield Pair(upstream, mirror, tmp_path)


async def fetch_all(pair: Pair, **options: object) -> None:
    async with client(config_path=pair.root, **options) as opened:  # type: ignore[arg-type]
        resolved = await resolve(opened, NAME)
        assert resolved.descriptor == pair.image.manifest
        assert await read(resolved.fetcher, pair.image.layers[0]) == DATA


async def test_the_mirror_is_asked_first_and_told_the_registry(pair: Pair) -> None:
    await fetch_all(pair)
    assert pair.upstream.seen == []
    assert [seen.query for seen in pair.mirror.seen] == [{"ns": [NAME]}] * 2


async def test_the_registry_itself_is_not_told_its_name(tmp_path: Path) -> None:
    async with FaultRegistry() as registry:
        registry.add_image(REPOSITORY, "latest")
        write_hosts(tmp_path, registry.authority, f'server = "{registry.url}"')
        async with client(config_path=tmp_path) as opened:
            await resolve(opened, registry)
        assert [seen.query for seen in registry.seen] == [{}]


async def test_a_mirror_that_may_not_resolve_serves_digests_only(pair: Pair) -> None:
    pair.configure('capabilities = ["pull"]')
    await fetch_all(pair)
    assert [seen.kind for seen in pair.mirror.seen] == [BLOB]
    assert [seen.kind for seen in pair.upstream.seen] == [MANIFEST]
    async with client(config_path=pair.root) as opened:
        await resolve(opened, NAME, name=f"{REPOSITORY}@{pair.image.manifest.digest}")
    assert [seen.kind for seen in pair.mirror.seen] == [BLOB, MANIFEST]


async def test_no_host_may_resolve(pair: Pair) -> None:
    write_hosts(pair.root, NAME, f'server = "{pair.upstream.url}"\ncapabilities = ["pull"]')
    async with client(config_path=pair.root) as opened:
        with pytest.raises(ConfigError, match=r"no host of registry\.invalid"):
            await resolve(opened, NAME)


@pytest.mark.parametrize(
    "fault",
    [
        status(404),
        status(401),
        status(403),
        status(500),
        status(503, headers={"Retry-After": "86400"}),
        status(429),
        reset(-1),
        stall(-1),
        corrupt(where=BLOB),
    ],
    ids=["404", "401", "403", "500", "503 long", "429", "reset", "silent", "corrupt"],
)
async def test_a_mirror_that_fails_is_passed_over(pair: Pair, fault: Fault) -> None:
    pair.mirror.faults.append(fault)
    async with client(config_path=pair.root, response_header_timeout=0.3) as opened:
        resolved = await resolve(opened, NAME)
        assert resolved.descriptor == pair.image.manifest
        layer = pair.image.layers[0]
        got = await read(resolved.fetcher, layer)
        if got != DATA:
            async with resolved.fetcher.fetch(layer) as stream:
                async for _ in stream:
                    pass
                stream.discredit()
            got = await read(resolved.fetcher, layer)
        assert got == DATA


@pytest.mark.parametrize(
    "document",
    [
        {"layers": []},
        {"config": {}, "layers": []},
        {"config": "x", "layers": []},
        {"config": CONFIG, "layers": {}},
        {"config": CONFIG, "layers": [{}]},
        {"config": CONFIG, "layers": [], "manifests": []},
        {"config": CONFIG, "layers": [], "schemaVersion": 3},
        {"manifests": "x"},
    ],
    ids=json.dumps,
)
async def test_a_mirrors_manifest_that_is_malformed_is_passed_over(
    pair: Pair, document: dict[str, Any]
) -> None:
    text = json.dumps({"schemaVersion": 2, **document}).encode()
    pair.mirror.faults.append(Fault(where=MANIFEST, transform=lambda _: text))
    await fetch_all(pair)
    pair.upstream.faults.extend(pair.mirror.faults)
    async with client(config_path=pair.root) as opened:
        with pytest.raises(CorruptContentError, match="no image: "):
            await resolve(opened, NAME)


@pytest.mark.parametrize(
    ("document", "announced", "error"),
    [
        ({"manifests": []}, media_types.OCI_INDEX, RegistryError),
        ({"config": CONFIG, "layers": [{}, {}, {}]}, media_types.OCI_MANIFEST, LimitExceededError),
        (
            {"config": {**CONFIG, "size": 1 << 40}, "layers": []},
            media_types.OCI_MANIFEST,
            LimitExceededError,
        ),
        ({"manifests": [{}, {}, {}]}, media_types.OCI_INDEX, LimitExceededError),
        ({"mediaType": "application/x.bundle"}, "application/x.bundle", UnsupportedContentError),
    ],
    ids=str,
)
async def test_a_mirrors_answer_of_which_nothing_can_come_is_passed_over(
    pair: Pair, document: dict[str, Any], announced: str, error: type[ImagedError]
) -> None:
    text = json.dumps({"schemaVersion": 2, **document}).encode()
    fault = Fault(where=MANIFEST, transform=lambda _: text, headers={"Content-Type": announced})
    pair.mirror.faults.append(fault)
    limits = Limits(layers=2, index_entries=2)
    await fetch_all(pair, limits=limits)
    assert pair.mirror.gets(MANIFEST)
    pair.upstream.faults.append(fault)
    async with client(config_path=pair.root, limits=limits) as opened:
        with pytest.raises(error) as caught:
            await resolve(opened, NAME)
    if isinstance(caught.value, RegistryError):
        assert caught.value.category is Category.NOT_FOUND


async def test_a_mirror_that_cannot_be_reached_is_passed_over(pair: Pair) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        pair.configure(mirror_url=f"http://127.0.0.1:{unused.getsockname()[1]}")
        await fetch_all(pair)
    pair.configure(mirror_url="http://mirror.invalid")
    await fetch_all(pair)
    pair.configure(mirror_url=pair.mirror.url.replace("http:", "https:"))
    await fetch_all(pair)
    assert pair.mirror.seen == []


async def test_dial_timeout_of_a_mirror_that_swallows_packets(pair: Pair) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        callers = [_caller(full) for _ in range(4)]
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        pair.configure('dial_timeout = "200ms"', mirror_url=url)
        await fetch_all(pair)
        for caller in callers:
            caller.close()


def _caller(listener: socket.socket) -> socket.socket:
    caller = socket.socket()
    caller.setblocking(False)
    caller.connect_ex(listener.getsockname())
    return caller


async def test_a_mirror_with_an_untrusted_certificate(
    pair: Pair, certificates: Certificates
) -> None:
    async with FaultRegistry(tls=certificates.server()) as mirror:
        pair.configure(mirror_url=mirror.url)
        await fetch_all(pair)
        assert mirror.seen == []
        pair.upstream.manifests.clear()
        async with client(config_path=pair.root) as opened:
            with pytest.raises(RegistryError, match="unknown authority"):
                await resolve(opened, NAME)


@pytest.mark.parametrize(
    "fault",
    [
        cut(200_000, where=BLOB),
        reset(200_000, where=BLOB),
        stall(200_000, where=BLOB),
        Fault(trickle=0.05, where=BLOB),
    ],
    ids=["cut", "reset", "stalled", "trickle"],
)
async def test_a_mirror_that_fails_in_mid_blob_is_carried_on_from(pair: Pair, fault: Fault) -> None:
    pair.mirror.faults.append(fault)
    await fetch_all(pair, stall_timeout=0.3)
    assert len(pair.mirror.gets(BLOB)) == 1
    (resumed,) = pair.upstream.gets(BLOB)
    assert 0 < resumed.offset < len(DATA)


async def test_wrong_bytes_are_not_asked_for_again_and_the_mirror_is_named(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    pair.mirror.faults.append(corrupt(where=BLOB))
    layer = pair.image.layers[0]
    async with client(config_path=pair.root) as opened:
        fetcher = (await resolve(opened, NAME)).fetcher
        async with fetcher.fetch(layer) as stream:
            assert b"".join([chunk async for chunk in stream]) != DATA
            stream.discredit()
        assert await read(fetcher, layer) == DATA
    assert {
        "event": "registry sent wrong bytes",
        "level": "warning",
        "digest": layer.digest,
        "hosts": [pair.mirror.authority],
    } in [record.msg for record in caplog.records]
    assert len(pair.mirror.gets(BLOB)) == 1


async def test_a_wrong_manifest_of_a_mirror_is_passed_over(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    pair.mirror.faults.append(corrupt(where=MANIFEST))
    name = f"{REPOSITORY}@{pair.image.manifest.digest}"
    async with client(config_path=pair.root) as opened:
        assert (await resolve(opened, NAME, name=name)).descriptor == pair.image.manifest
    (record,) = [
        record for record in caplog.records if "registry sent wrong bytes" in record.message
    ]
    assert record.msg["hosts"] == [pair.mirror.authority]  # type: ignore[index]


async def test_a_manifest_that_trickles_is_taken_from_the_next_host(pair: Pair) -> None:
    pair.mirror.faults.append(Fault(trickle=0.02, where=MANIFEST))
    await fetch_all(pair, stall_timeout=0.3)
    assert len(pair.upstream.gets(MANIFEST)) == 1


async def test_a_blob_of_another_length_at_a_mirror_is_passed_over(pair: Pair) -> None:
    pair.mirror.faults.append(Fault(transform=lambda data: data[:-1], where=BLOB))
    await fetch_all(pair)
    assert len(pair.mirror.gets(BLOB)) == 1


async def test_a_host_that_failed_is_tried_last_for_a_while(pair: Pair) -> None:
    pair.mirror.faults.append(status(503, times=1))
    async with client(config_path=pair.root) as opened:
        for _ in range(3):
            await resolve(opened, NAME)
    assert len(pair.mirror.seen) == 1
    assert len(pair.upstream.seen) == 3


async def test_mirrors_are_tried_again_when_all_fail(pair: Pair) -> None:
    pair.mirror.faults.append(status(503, times=2))
    pair.upstream.faults.append(status(503))
    async with client(config_path=pair.root) as opened:
        assert (await resolve(opened, NAME)).descriptor == pair.image.manifest
    assert len(pair.mirror.seen) == 3


async def test_the_error_names_every_host_and_its_answer(pair: Pair) -> None:
    pair.mirror.faults.append(status(503))
    pair.upstream.manifests.clear()
    async with client(config_path=pair.root) as opened:
        with pytest.raises(RegistryError) as caught:
            await resolve(opened, NAME)
    message = str(caught.value)
    assert message.startswith(f"cannot resolve {NAME}/{REPOSITORY}:latest: ")
    assert f"{pair.mirror.authority}: 503 Service Unavailable (SCRIPTED: scripted 503) (" in message
    assert f"{pair.upstream.authority}: 404 Not Found (MANIFEST_UNKNOWN" in message
    assert caught.value.category is Category.NOT_FOUND
    assert all(attempt.seconds >= 0 for attempt in caught.value.attempts)
    assert [attempt.url for attempt in caught.value.attempts] == [
        f"{pair.mirror.url}/v2/{REPOSITORY}/manifests/latest",
        f"{pair.upstream.url}/v2/{REPOSITORY}/manifests/latest",
    ]


async def test_not_found_takes_every_host(pair: Pair) -> None:
    pair.upstream.manifests.clear()
    pair.upstream.faults.append(status(503))
    policy = RetryPolicy(tries=2, seconds=5.0, base_seconds=0.01)
    async with client(config_path=pair.root, policy=policy) as opened:
        with pytest.raises(RegistryError) as caught:
            await resolve(opened, NAME)
    assert caught.value.category is Category.REGISTRY_UNAVAILABLE


async def test_wrong_bytes_everywhere(pair: Pair) -> None:
    for registry in (pair.mirror, pair.upstream):
        registry.faults.append(Fault(transform=lambda data: data[:-1], where=BLOB))
    async with client(config_path=pair.root) as opened:
        fetcher = (await resolve(opened, NAME)).fetcher
        with pytest.raises(CorruptContentError, match="offers 599999 bytes, want 600000"):
            await read(fetcher, pair.image.layers[0])


async def test_the_default_folder_serves_every_registry(pair: Pair) -> None:
    write_hosts(pair.root, "_default", f'[host."{pair.mirror.url}"]')
    async with client(config_path=pair.root) as opened:
        await resolve(opened, "other.invalid:5000")
        await resolve(opened, "docker.io")
    assert [seen.query["ns"] for seen in pair.mirror.seen] == [
        ["other.invalid:5000"],
        ["docker.io"],
    ]


async def test_an_edited_file_counts_at_the_next_pull(pair: Pair) -> None:
    async with client(config_path=pair.root) as opened:
        await resolve(opened, NAME)
        write_hosts(pair.root, NAME, f'server = "{pair.upstream.url}"\n# without the mirror')
        await resolve(opened, NAME)
        write_hosts(pair.root, NAME, 'server = "http://broken')
        with pytest.raises(ConfigError, match=rf"{NAME}/hosts\.toml:1: "):
            await resolve(opened, NAME)
    assert (len(pair.mirror.seen), len(pair.upstream.seen)) == (1, 1)


async def test_a_path_and_override_path(tmp_path: Path) -> None:
    async with FaultRegistry(prefix="/v2/cache") as mirror:
        image = mirror.add_image(REPOSITORY, "latest")
        write_hosts(tmp_path, NAME, f'server = "{mirror.url}"')
        async with client(config_path=tmp_path) as opened:
            assert (await resolve(opened, NAME)).descriptor == image.manifest
        assert mirror.seen[0].path == f"/v2/cache/v2/{REPOSITORY}/manifests/latest"
        url = f"{mirror.url}/v2"
        write_hosts(tmp_path, NAME, f'server = "{url}"\noverride_path = true  # as it is')
        async with client(config_path=tmp_path) as opened:
            assert (await resolve(opened, NAME)).descriptor == image.manifest
        assert mirror.seen[1].path == mirror.seen[0].path


async def test_headers_of_a_host(pair: Pair) -> None:
    pair.configure('header = { X-One = "1", X-Two = ["2", "3"] }')
    await fetch_all(pair, headers={"X-All": ["all"], "User-Agent": ["own/1"]})
    for seen in pair.mirror.seen:
        assert seen.headers["x-one"] == "1"
        assert seen.headers["x-all"] == "all"
        assert seen.headers["user-agent"] == "own/1"
