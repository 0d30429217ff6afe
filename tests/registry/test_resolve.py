"""Resolving references at one registry, well and badly behaved."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from cri_imaged.errors import (
    Category,
    CorruptContentError,
    InvalidRequestError,
    LimitExceededError,
    RegistryError,
)
from cri_imaged.limits import Limits
from cri_imaged.oci import media_types
from cri_imaged.oci.digest import Digest
from cri_imaged.registry.retry import RetryPolicy
from tests.registry.helpers import REPOSITORY, client, noise, read, resolve, text_of, write_hosts
from tests.support.registry import (
    BLOB,
    MANIFEST,
    Fault,
    FaultRegistry,
    corrupt,
    reset,
    stall,
    status,
)


@pytest.fixture
async def registry():
    async with FaultRegistry() as running:
        yield running


async def test_a_tag_is_resolved_in_one_request(registry: FaultRegistry) -> None:
    image = registry.add_image(REPOSITORY, "latest", [noise(100)])
    async with client() as opened:
        found = await resolve(opened, registry)
        assert found.descriptor == image.manifest
        assert text_of(found) == image.document
        assert await read(found.fetcher, image.layers[0]) == registry.blobs[image.layers[0].digest]
        assert await read(found.fetcher, image.manifest) == image.document
    assert [seen.path.rpartition("/")[2] for seen in registry.gets(MANIFEST)] == [
        "latest",
        image.manifest.digest,
    ]
    assert {seen.method for seen in registry.seen} == {"GET"}


async def test_an_index_and_a_digest(registry: FaultRegistry) -> None:
    image = registry.add_image(REPOSITORY, None)
    index = registry.add_index(REPOSITORY, "multi", [(image.manifest, "linux/amd64")])
    async with client() as opened:
        assert (await resolve(opened, registry, name=f"{REPOSITORY}:multi")).descriptor == index
        name = f"{REPOSITORY}:ignored@{image.manifest.digest}"
        assert (await resolve(opened, registry, name=name)).descriptor == image.manifest


async def test_sha512(registry: FaultRegistry) -> None:
    image = registry.add_image(REPOSITORY, None)
    digest = Digest.of(image.document, "sha512")
    registry.manifests[REPOSITORY, digest] = media_types.OCI_MANIFEST, image.document
    async with client() as opened:
        found = await resolve(opened, registry, name=f"{REPOSITORY}@{digest}")
        assert found.descriptor.digest == digest


@pytest.mark.parametrize(
    "fault",
    [
        Fault(headers={"Docker-Content-Digest": "sha256:" + "0" * 64}),
        Fault(headers={"Docker-Content-Digest": "nonsense"}),
        Fault(drop_headers=["Docker-Content-Digest"]),
        Fault(no_length=True),
        Fault(headers={"Content-Type": "text/plain; charset=utf-8"}),
        Fault(drop_headers=["Content-Type"]),
    ],
    ids=["wrong digest", "malformed digest", "no digest", "no length", "text", "no type"],
)
async def test_headers_decide_nothing_that_the_hash_can(
    registry: FaultRegistry, fault: Fault
) -> None:
    image = registry.add_image(REPOSITORY, "latest")
    registry.faults.append(fault)
    async with client() as opened:
        assert (await resolve(opened, registry)).descriptor == image.manifest


async def test_an_unknown_tag_is_not_found(registry: FaultRegistry) -> None:
    async with client() as opened:
        with pytest.raises(RegistryError) as caught:
            await resolve(opened, registry)
    assert caught.value.category is Category.NOT_FOUND
    (attempt,) = caught.value.attempts
    assert attempt.host == registry.authority
    assert (attempt.status, attempt.codes) == (404, ("MANIFEST_UNKNOWN",))
    assert f"cannot resolve {registry.authority}/{REPOSITORY}:latest" in str(caught.value)
    assert "404 Not Found (MANIFEST_UNKNOWN: manifest unknown)" in str(caught.value)


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
async def test_transient_answers_are_tried_again(registry: FaultRegistry, code: int) -> None:
    image = registry.add_image(REPOSITORY, "latest")
    registry.faults.append(status(code, times=3))
    async with client() as opened:
        assert (await resolve(opened, registry)).descriptor == image.manifest
    assert len(registry.seen) == 4


@pytest.mark.parametrize("code", [429, 503])
async def test_the_budget_of_tries_ends(registry: FaultRegistry, code: int) -> None:
    registry.faults.append(status(code))
    async with client() as opened:
        with pytest.raises(RegistryError) as caught:
            await resolve(opened, registry)
    assert caught.value.category is Category.REGISTRY_UNAVAILABLE
    assert [attempt.status for attempt in caught.value.attempts] == [code] * 5
    assert len(registry.seen) == 5
    message = str(caught.value)
    assert message.count(f"{registry.authority}: {code} ") == 1
    assert "(5 times, " in message


async def test_final_answers_are_not_tried_again(registry: FaultRegistry) -> None:
    registry.faults.append(status(400))
    async with client() as opened:
        with pytest.raises(RegistryError, match="400 Bad Request") as caught:
            await resolve(opened, registry)
    assert caught.value.category is Category.REGISTRY_UNAVAILABLE
    assert len(registry.seen) == 1


async def test_permission_denied(registry: FaultRegistry) -> None:
    registry.faults.append(status(403))
    async with client() as opened:
        with pytest.raises(RegistryError) as caught:
            await resolve(opened, registry)
    assert caught.value.category is Category.PERMISSION_DENIED


async def test_a_wait_that_was_asked_for_is_waited(registry: FaultRegistry) -> None:
    image = registry.add_image(REPOSITORY, "latest")
    registry.faults.append(status(429, headers={"Retry-After": "1"}, times=1))
    loop = asyncio.get_running_loop()
    async with client() as opened:
        begun = loop.time()
        assert (await resolve(opened, registry)).descriptor == image.manifest
        assert loop.time() - begun >= 1.0


@pytest.mark.parametrize("where", [MANIFEST, BLOB])
@pytest.mark.parametrize("code", [202, 423, 425, 529])
async def test_an_odd_answer_that_asks_to_come_back_is_tried_again(
    registry: FaultRegistry, where: str, code: int
) -> None:
    data = noise(100)
    image = registry.add_image(REPOSITORY, "latest", [data])
    later = status(code, where=where, headers={"Retry-After": "0"}, times=2)
    registry.faults.append(later)
    async with client() as opened:
        resolved = await resolve(opened, registry)
        assert await read(resolved.fetcher, image.layers[0]) == data
    assert len(registry.gets(where)) == 3


async def test_an_odd_answer_that_does_not_ask_to_come_back_is_final(
    registry: FaultRegistry,
) -> None:
    registry.add_image(REPOSITORY, "latest")
    registry.faults.append(status(202))
    async with client() as opened:
        with pytest.raises(RegistryError, match="202"):
            await resolve(opened, registry)
    assert len(registry.seen) == 1


async def test_a_wait_beyond_the_budget_is_not_begun(registry: FaultRegistry) -> None:
    registry.faults.append(status(429, headers={"Retry-After": "86400"}))
    policy = RetryPolicy(tries=5, seconds=0.2, base_seconds=0.01)
    async with client(policy=policy) as opened:
        with pytest.raises(RegistryError) as caught:
            await resolve(opened, registry)
    assert caught.value.category is Category.REGISTRY_UNAVAILABLE
    assert 1 <= len(registry.seen) <= 3


async def test_a_reset_before_the_headers_is_tried_again(registry: FaultRegistry) -> None:
    image = registry.add_image(REPOSITORY, "latest")
    registry.faults.append(reset(-1, times=2, skip=1))
    async with client() as opened:
        await resolve(opened, registry)
        assert (await resolve(opened, registry)).descriptor == image.manifest


async def test_a_refused_connection_says_so() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        authority = f"127.0.0.1:{unused.getsockname()[1]}"
        async with client() as opened:
            with pytest.raises(RegistryError, match="connection refused") as caught:
                await resolve(opened, authority)
    assert caught.value.category is Category.REGISTRY_UNAVAILABLE
    assert len(caught.value.attempts) == 5


async def test_a_name_that_does_not_resolve_says_so() -> None:
    async with client() as opened:
        with pytest.raises(RegistryError, match="does not resolve") as caught:
            await resolve(opened, "registry.invalid")
    assert caught.value.category is Category.REGISTRY_UNAVAILABLE


async def test_headers_that_do_not_come_time_out(registry: FaultRegistry) -> None:
    image = registry.add_image(REPOSITORY, "latest")
    registry.faults.append(stall(-1, times=1, skip=1))
    async with client(response_header_timeout=0.3) as opened:
        await resolve(opened, registry)
        assert (await resolve(opened, registry)).descriptor == image.manifest
    assert len(registry.gets()) == 3


async def test_a_manifest_beyond_its_limit_is_refused_while_it_comes(
    registry: FaultRegistry,
) -> None:
    registry.add_image(REPOSITORY, "latest")
    registry.faults.append(Fault(transform=lambda _: b" " * 5_000_000, no_length=True))
    async with client() as opened:
        with pytest.raises(LimitExceededError, match="more than 4194304 bytes"):
            await resolve(opened, registry)


async def test_a_manifest_that_breaks_off_is_fetched_again(registry: FaultRegistry) -> None:
    image = registry.add_image(REPOSITORY, "latest")
    registry.faults.append(Fault(cut_after=20, times=1))
    registry.faults.append(Fault(stall_after=20, times=1))
    async with client(stall_timeout=0.2) as opened:
        assert (await resolve(opened, registry)).descriptor == image.manifest
    assert len(registry.seen) == 3


async def test_wrong_bytes_under_a_digest_are_corrupt(registry: FaultRegistry) -> None:
    image = registry.add_image(REPOSITORY, None)
    registry.faults.append(corrupt())
    async with client() as opened:
        with pytest.raises(CorruptContentError, match="delivers a manifest with digest"):
            await resolve(opened, registry, name=f"{REPOSITORY}@{image.manifest.digest}")


async def test_a_page_instead_of_a_manifest_is_corrupt(registry: FaultRegistry) -> None:
    registry.add_manifest(REPOSITORY, "latest", "text/html", b"<html>log in</html>")
    async with client() as opened:
        with pytest.raises(CorruptContentError, match="text/html that is no manifest"):
            await resolve(opened, registry)


async def test_big_error_bodies_and_headers_are_survived(registry: FaultRegistry) -> None:
    registry.faults.append(status(404, body=b'{"errors":[{"code":"' + b"x" * 3_000_000, times=1))
    registry.faults.append(status(404, headers={"X-Big": "y" * 300_000}))
    async with client() as opened:
        with pytest.raises(RegistryError) as caught:
            await resolve(opened, registry)
        assert caught.value.category is Category.NOT_FOUND
        with pytest.raises(RegistryError, match="headers are too large"):
            await resolve(opened, registry)


async def test_messages_hold_no_control_characters(registry: FaultRegistry) -> None:
    body = b'{"errors":[{"code":"A\\u001b[2J","message":"two\\nlines"}]}'
    registry.faults.append(status(404, body=body))
    async with client() as opened:
        with pytest.raises(RegistryError) as caught:
            await resolve(opened, registry)
    assert str(caught.value).isprintable()


async def test_a_lower_limit_of_the_configuration_counts(registry: FaultRegistry) -> None:
    registry.add_image(REPOSITORY, "latest")
    async with client(limits=Limits(manifest_bytes=100)) as opened:
        with pytest.raises(LimitExceededError, match="more than 100 bytes"):
            await resolve(opened, registry)


async def test_ipv6() -> None:
    async with FaultRegistry(address="::1") as registry:
        image = registry.add_image(REPOSITORY, "latest")
        async with client() as opened:
            assert (await resolve(opened, registry)).descriptor == image.manifest


async def test_an_http_proxy_of_the_environment(registry: FaultRegistry, tmp_path: Path) -> None:
    image = registry.add_image(REPOSITORY, "latest")
    write_hosts(tmp_path, "registry.invalid", 'server = "http://registry.invalid"')
    async with client(environ={"HTTP_PROXY": registry.url}, config_path=tmp_path) as opened:
        assert (await resolve(opened, "registry.invalid")).descriptor == image.manifest
    assert registry.seen[0].headers["host"] == "registry.invalid"
    environ = {"HTTP_PROXY": registry.url, "NO_PROXY": ".invalid"}
    async with client(environ=environ, config_path=tmp_path) as opened:
        with pytest.raises(RegistryError, match="does not resolve"):
            await resolve(opened, "registry.invalid")


@pytest.mark.parametrize(
    "registry",
    [
        "127.0.0.1:65536",
        "localhost:70000",
        "[::1]:99999",
        "registry.example:99999999999999999999",
        "[:]:1",
        "[1:2]",
        "xn--a.example",
        f"{'a' * 64}.example",
        f"{'a.' * 130}example",
    ],
)
async def test_a_host_that_there_cannot_be_is_the_requests_fault(registry: str) -> None:
    async with client() as opened:
        with pytest.raises(InvalidRequestError, match="there can be no host") as caught:
            await resolve(opened, registry)
    assert f"{registry}/{REPOSITORY}" in str(caught.value)


@pytest.mark.parametrize(
    "registry", ["xn--strae-oqa.invalid", "xn--bcher-kva.invalid", "a-b.invalid"]
)
async def test_names_that_there_may_be_are_looked_up(registry: str) -> None:
    async with client(policy=RetryPolicy(1, 1.0)) as opened:
        with pytest.raises(RegistryError, match="does not resolve"):
            await resolve(opened, registry)
