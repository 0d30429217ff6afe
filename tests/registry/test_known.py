"""Resolving what is here already: HEAD suffices where nothing has changed, else GET decides."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from cri_imaged.errors import Category, RegistryError
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Credentials
from tests.registry.helpers import (
    REPOSITORY,
    client,
    noise,
    read,
    reference,
    resolve,
    text_of,
    write_hosts,
)
from tests.support.leaks import MARK
from tests.support.registry import (
    BasicAuth,
    BearerAuth,
    Fault,
    FaultRegistry,
    Image,
    redirect,
    reset,
    stall,
    status,
)

USERS = {"ann": f"{MARK}-a"}
ANN = Credentials(username="ann", password=USERS["ann"])
WRONG = Credentials(username="ann", password=f"{MARK}-wrong")


@pytest.fixture
async def registry() -> AsyncIterator[FaultRegistry]:
    async with FaultRegistry() as running:
        yield running


def known(image: Image) -> Descriptor:
    return image.manifest


def methods(registry: FaultRegistry) -> list[str]:
    return [seen.method for seen in registry.seen]


async def test_head_alone_where_nothing_has_changed(registry: FaultRegistry) -> None:
    data = noise(100)
    image = registry.add_image(REPOSITORY, "latest", [data])
    async with client() as opened:
        for name in (f"{REPOSITORY}:latest", f"{REPOSITORY}@{image.manifest.digest}"):
            found = await resolve(opened, registry, name=name, known=known(image))
            assert (found.descriptor, found.document) == (image.manifest, None)
            assert methods(registry) == ["HEAD"]
            registry.seen.clear()
        assert await read(found.fetcher, image.layers[0]) == data


async def test_a_tag_that_moved(registry: FaultRegistry) -> None:
    old = registry.add_image(REPOSITORY, "latest")
    new = registry.add_image(REPOSITORY, "latest", [noise(100)])
    async with client() as opened:
        found = await resolve(opened, registry, known=known(old))
    assert (found.descriptor, text_of(found)) == (new.manifest, new.document)
    assert methods(registry) == ["HEAD", "GET"]


DIGEST = "Docker-Content-Digest"


@pytest.mark.parametrize(
    "fault",
    [
        *(status(code) for code in (400, 401, 403, 404, 405, 410, 501)),
        Fault(status=204),
        Fault(drop_headers=[DIGEST]),
        Fault(headers={DIGEST: ""}),
        Fault(headers={DIGEST: "nonsense"}),
        Fault(headers={DIGEST: f"sha256:{'0' * 64}"}),
        Fault(headers={DIGEST: f"sha512:{'0' * 128}"}),
    ],
    ids=lambda fault: str(fault.status or fault.headers.get(DIGEST, "no digest")[:10] or "empty"),
)
async def test_any_other_answer_leads_to_get_at_the_same_host(
    registry: FaultRegistry, fault: Fault, tmp_path: Path
) -> None:
    image = registry.add_image(REPOSITORY, "latest")
    registry.faults.append(replace(fault, method="HEAD"))
    async with FaultRegistry() as upstream, client(config_path=tmp_path) as opened:
        text = f'server = "{upstream.url}"\n[host."{registry.url}"]'
        write_hosts(tmp_path, "registry.invalid", text)
        found = await resolve(opened, "registry.invalid", known=known(image))
        assert upstream.seen == []
    assert found.descriptor == image.manifest
    assert methods(registry) == ["HEAD", "GET"]


async def test_a_size_that_does_not_fit(registry: FaultRegistry) -> None:
    image = registry.add_image(REPOSITORY, "latest")
    fault = Fault(method="HEAD", headers={DIGEST: image.manifest.digest})
    registry.faults.append(replace(fault, transform=lambda document: document + b" "))
    async with client() as opened:
        await resolve(opened, registry, known=known(image))
        assert methods(registry) == ["HEAD", "GET"]
        registry.faults[:] = [replace(fault, no_length=True)]
        await resolve(opened, registry, known=known(image))
        assert methods(registry) == ["HEAD", "GET", "HEAD"]


@pytest.mark.parametrize("code", [203, 403])
async def test_a_digest_beside_another_status_says_nothing(
    registry: FaultRegistry, code: int
) -> None:
    image = registry.add_image(REPOSITORY, "latest")
    headers = {DIGEST: image.manifest.digest}
    registry.faults.append(Fault(status=code, method="HEAD", headers=headers))
    async with client() as opened:
        await resolve(opened, registry, known=known(image))
    assert methods(registry) == ["HEAD", "GET"]


async def test_a_digest_of_another_algorithm(registry: FaultRegistry) -> None:
    image = registry.add_image(REPOSITORY, None)
    digest = Digest.of(image.document, "sha512")
    registry.manifests[REPOSITORY, digest] = image.manifest.media_type, image.document
    async with client() as opened:
        again = replace(image.manifest, digest=digest)
        found = await resolve(opened, registry, name=f"{REPOSITORY}@{digest}", known=again)
        assert found.descriptor.digest == digest
        assert methods(registry) == ["HEAD", "GET"]


@pytest.mark.parametrize(
    "fault",
    [status(429), status(503), reset(-1), stall(-1)],
    ids=["429", "503", "reset", "silent"],
)
async def test_a_host_that_never_answers_head(registry: FaultRegistry, fault: Fault) -> None:
    """The failed HEAD is one of the tries; the host is asked with GET from then on."""
    image = registry.add_image(REPOSITORY, "latest")
    registry.faults.append(replace(fault, method="HEAD"))
    registry.faults.append(status(500, method="GET", times=2))
    async with client(response_header_timeout=0.5) as opened:
        found = await resolve(opened, registry, known=known(image))
        assert found.descriptor == image.manifest
    assert [method for method in methods(registry) if method == "GET"] == ["GET"] * 3


async def test_what_head_asks_to_wait_is_waited(registry: FaultRegistry) -> None:
    image = registry.add_image(REPOSITORY, "latest")
    registry.faults.append(status(429, method="HEAD", headers={"Retry-After": "1"}))
    loop = asyncio.get_running_loop()
    async with client() as opened:
        begun = loop.time()
        await resolve(opened, registry, known=known(image))
        assert loop.time() - begun >= 1.0
    assert methods(registry) == ["HEAD", "GET"]


async def test_errors_are_those_of_get(registry: FaultRegistry) -> None:
    image = registry.add_image(REPOSITORY, "latest")
    body = json.dumps({"errors": [{"code": "DENIED", "message": "not you"}]}).encode()
    registry.faults.append(status(403, body=body))
    async with client() as opened:
        with pytest.raises(RegistryError, match="DENIED: not you") as caught:
            await resolve(opened, registry, known=known(image))
    assert caught.value.category is Category.PERMISSION_DENIED
    assert len(caught.value.attempts) == 1


@pytest.mark.parametrize("auth", [BasicAuth(USERS), BearerAuth(USERS, anonymous=False)])
async def test_credentials_are_checked_at_the_registry(auth: BasicAuth | BearerAuth) -> None:
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        image = registry.add_image(REPOSITORY, "latest")
        found = await resolve(opened, registry, ANN, known=known(image))
        assert found.descriptor == image.manifest
        assert [seen.method for seen in registry.seen if seen.kind == "manifest"] == ["HEAD"] * 2
        for credentials in (None, WRONG):
            with pytest.raises(RegistryError) as caught:
                await resolve(opened, registry, credentials, known=known(image))
            assert caught.value.category is Category.UNAUTHENTICATED


async def test_a_refused_password_is_not_sent_unasked_again() -> None:
    """Each one that is counts as a failed login, and some servers lock users out."""
    async with FaultRegistry(auth=BasicAuth(USERS)) as registry, client() as opened:
        image = registry.add_image(REPOSITORY, "latest")
        with pytest.raises(RegistryError):
            await resolve(opened, registry, WRONG, known=known(image))
        shown = [(seen.method, "authorization" in seen.headers) for seen in registry.seen]
        assert shown == [("HEAD", False), ("HEAD", True), ("GET", False), ("GET", True)]


async def test_a_storage_that_answers_get_alone(registry: FaultRegistry) -> None:
    image = registry.add_image(REPOSITORY, "latest")
    async with FaultRegistry() as storage:
        storage.share(registry)
        path = f"/v2/{REPOSITORY}/manifests/latest"
        registry.faults.append(redirect(f"{storage.url}{path}"))
        async with client() as opened:
            await resolve(opened, registry, known=known(image))
            assert methods(registry) == methods(storage) == ["HEAD"]
            storage.faults.append(status(403, method="HEAD"))
            found = await resolve(opened, registry, known=known(image))
            assert found.descriptor == image.manifest
            assert methods(storage) == ["HEAD", "HEAD", "GET"]


async def test_a_mirror_that_lies_keeps_a_tag_where_it_was(
    registry: FaultRegistry, tmp_path: Path
) -> None:
    """With an old document in answer to a GET it can do the same. What it says is taken for known
    bytes alone, never for other ones."""
    old = registry.add_image(REPOSITORY, "latest")
    async with FaultRegistry() as mirror, client(config_path=tmp_path) as opened:
        mirror.faults.append(Fault(headers={DIGEST: old.manifest.digest}, no_length=True))
        mirror.add_image(REPOSITORY, "latest", [noise(10)])
        text = f'server = "{registry.url}"\n[host."{mirror.url}"]'
        write_hosts(tmp_path, "registry.invalid", text)
        found = await resolve(opened, "registry.invalid", known=known(old))
        assert (found.descriptor, found.document) == (old.manifest, None)
        assert methods(mirror) == ["HEAD"]


async def test_a_connection_is_used_again_after_head(registry: FaultRegistry) -> None:
    image = registry.add_image(REPOSITORY, "latest", [noise(10)])
    async with client() as opened:
        for _ in range(2):
            found = await opened.resolve(reference(registry), None, known(image))
            await read(found.fetcher, image.layers[0])
    assert methods(registry) == ["HEAD", "GET", "HEAD", "GET"]
    assert len({seen.port for seen in registry.seen}) == 1
