"""The client against servers that others wrote: docker-registry, and nginx in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri_imaged.errors import Category, RegistryError
from cri_imaged.limits import Limits
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.documents import Manifest, parse_document
from cri_imaged.oci.reference import Reference
from cri_imaged.ports import Credentials, Resolved
from cri_imaged.registry.distribution import DistributionClient
from cri_imaged.registry.retry import RetryPolicy
from tests.registry.conftest import Certificates
from tests.registry.helpers import (
    REPOSITORY,
    client,
    noise,
    read,
    reference,
    text_of,
    write_hosts,
)
from tests.registry.nginx import Nginx
from tests.registry.token_server import TokenRegistry, TokenServer
from tests.support.docker_registry import Certificate, DockerRegistry, Login
from tests.support.images import Image, file, image, layer
from tests.support.leaks import MARK

pytestmark = pytest.mark.real

NAME = "registry.invalid"
LOGIN = Login("ann", f"{MARK}: a")
ANN = Credentials(username=LOGIN.username, password=LOGIN.password)
WRONG = Credentials(username="ann", password=f"{MARK}-wrong")


def demo() -> Image:
    return image(layer({"small": file(noise(400_000))}), layer({"large": file(noise(3_000_000))}))


async def push(registry: DockerRegistry) -> str:
    """Push an image; returns its reference. Not in the event loop, where token servers run."""
    return await asyncio.to_thread(registry.push, demo(), f"{REPOSITORY}:latest")


def layers(registry: DockerRegistry, pushed: str) -> dict[Descriptor, bytes]:
    """The layers as the registry keeps them."""
    document = registry.manifest(pushed)
    manifest = parse_document(document, "application/vnd.oci.image.manifest.v1+json", Limits())
    assert isinstance(manifest, Manifest)
    return {blob: registry.blob_path(blob.digest).read_bytes() for blob in manifest.layers}


async def pull(
    opened: DistributionClient,
    registry: DockerRegistry,
    pushed: str,
    name: Reference | None = None,
    credentials: Credentials | None = None,
) -> Resolved:
    """Resolve and fetch everything, all layers at the same time; every byte must come once."""
    resolved = await opened.resolve(name or Reference.parse(pushed), credentials)
    assert resolved.descriptor.digest == registry.digest(pushed)
    assert text_of(resolved) == registry.manifest(pushed)
    wanted = layers(registry, pushed)
    got = await asyncio.gather(*(read(resolved.fetcher, blob) for blob in wanted))
    assert got == list(wanted.values())
    return resolved


async def test_a_plain_registry(tmp_path: Path) -> None:
    with DockerRegistry(tmp_path) as registry:
        pushed = await push(registry)
        async with client() as opened:
            resolved = await pull(opened, registry, pushed)
            blob, data = next(iter(layers(registry, pushed).items()))
            assert await read(resolved.fetcher, blob, 1234) == data[1234:]
            assert await read(resolved.fetcher, resolved.descriptor) == text_of(resolved)
            with pytest.raises(RegistryError, match="MANIFEST_UNKNOWN") as caught:
                await opened.resolve(reference(registry.host, "library/demo:none"), None)
    assert caught.value.category is Category.NOT_FOUND


async def test_chunks(tmp_path: Path) -> None:
    with DockerRegistry(tmp_path) as registry:
        pushed = await push(registry)
        async with client(concurrent_layer_fetch_buffer=250_000) as opened:
            await pull(opened, registry, pushed)


async def test_tls(tmp_path: Path, certificates: Certificates) -> None:
    leaf = certificates.authority.issue_cert("localhost")
    chain, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    leaf.cert_chain_pems[0].write_to_path(str(chain))
    leaf.private_key_pem.write_to_path(str(key))
    with DockerRegistry(tmp_path / "r", certificate=Certificate(chain, key)) as registry:
        pushed = await push(registry)
        server = f'server = "https://{registry.host}"\n'
        write_hosts(tmp_path, NAME, f'{server}ca = "{certificates.ca_file}"')
        write_hosts(tmp_path, "unknown.invalid", server)
        async with client(config_path=tmp_path) as opened:
            await pull(opened, registry, pushed, reference(NAME))
            await pull(opened, registry, pushed)
            with pytest.raises(RegistryError, match="unknown authority"):
                await opened.resolve(reference("unknown.invalid"), None)


async def test_htpasswd(tmp_path: Path) -> None:
    with DockerRegistry(tmp_path, login=LOGIN) as registry:
        pushed = await push(registry)
        async with client() as opened:
            await pull(opened, registry, pushed, credentials=ANN)
            for credentials in (None, WRONG):
                with pytest.raises(RegistryError) as caught:
                    await opened.resolve(Reference.parse(pushed), credentials)
                assert caught.value.category is Category.UNAUTHENTICATED


async def test_tokens(tmp_path: Path) -> None:
    async with (
        TokenServer({LOGIN.username: LOGIN.password}, tmp_path) as tokens,
        client() as opened,
    ):
        with TokenRegistry(tmp_path / "r", login=LOGIN, tokens=tokens) as registry:
            pushed = await push(registry)
            before = tokens.issued
            for _ in range(2):
                await pull(opened, registry, pushed, credentials=ANN)
            assert tokens.issued == before + 1
            for credentials in (None, WRONG):
                with pytest.raises(RegistryError) as caught:
                    await opened.resolve(Reference.parse(pushed), credentials)
                assert caught.value.category is Category.UNAUTHENTICATED


# --- nginx in front -------------------------------------------------------------------------


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[tuple[DockerRegistry, str]]:
    with DockerRegistry(tmp_path / "upstream") as registry:
        yield registry, registry.push(demo(), f"{REPOSITORY}:latest")


def mirrored(root: Path, mirror: Nginx, registry: DockerRegistry) -> Path:
    text = f'server = "http://{registry.host}"\n[host."{mirror.url}"]'
    write_hosts(root / "certs.d", NAME, text)
    return root / "certs.d"


@pytest.mark.parametrize(
    "locations",
    [
        "location / {{ return 503; }}",
        "location / {{ return 444; }}",
        "location / {{ proxy_pass {upstream}; }} location ~ /blobs/ {{ return 502; }}",
        "location / {{ proxy_pass {upstream}; }} location ~ /blobs/ {{ return 404; }}",
        "location / {{ proxy_pass {upstream}; proxy_set_header Range ''; }}",
        "location / {{ proxy_pass http://127.0.0.1:1; }}",
        "location / {{ return 307 {upstream}$request_uri; }}",
        "location / {{ return 200 '<html>please log in</html>'; }}",
    ],
    ids=["503", "444", "502 blobs", "404 blobs", "no ranges", "dead", "redirect", "login page"],
)
async def test_a_mirror_that_fails(
    upstream: tuple[DockerRegistry, str], tmp_path: Path, locations: str
) -> None:
    registry, pushed = upstream
    text = locations.format(upstream=f"http://{registry.host}")
    with Nginx(tmp_path / "nginx", text) as mirror:
        async with client(config_path=mirrored(tmp_path, mirror, registry)) as opened:
            resolved = await pull(opened, registry, pushed, reference(NAME))
            blob, data = next(iter(layers(registry, pushed).items()))
            assert await read(resolved.fetcher, blob, 1000) == data[1000:]


async def test_a_mirror_that_limits_requests(
    upstream: tuple[DockerRegistry, str], tmp_path: Path
) -> None:
    registry, pushed = upstream
    zone = "limit_req_zone $server_name zone=all:1m rate=2r/s; limit_req_status 429;"
    text = f"location / {{ limit_req zone=all; proxy_pass http://{registry.host}; }}"
    policy = RetryPolicy(tries=10, seconds=60.0, base_seconds=0.2)
    with Nginx(tmp_path / "nginx", text, zone) as mirror:
        write_hosts(tmp_path, NAME, f'server = "{mirror.url}"')
        async with client(config_path=tmp_path, policy=policy) as opened:
            await pull(opened, registry, pushed, reference(NAME))


async def test_a_mirror_that_limits_the_rate(
    upstream: tuple[DockerRegistry, str], tmp_path: Path
) -> None:
    registry, pushed = upstream
    text = f"location / {{ limit_rate 20k; proxy_pass http://{registry.host}; }}"
    rate = {"min_rate_bytes_per_second": 100_000, "stall_timeout": 1.5}
    with Nginx(tmp_path / "nginx", text) as mirror:
        async with client(config_path=mirrored(tmp_path, mirror, registry), **rate) as opened:
            await pull(opened, registry, pushed, reference(NAME))


async def test_a_mirror_that_dies_in_mid_blob(
    upstream: tuple[DockerRegistry, str], tmp_path: Path
) -> None:
    registry, pushed = upstream
    text = f"location / {{ limit_rate 200k; proxy_pass http://{registry.host}; }}"
    blob, data = list(layers(registry, pushed).items())[-1]
    held = bytearray()
    with Nginx(tmp_path / "nginx", text) as mirror:
        async with client(config_path=mirrored(tmp_path, mirror, registry)) as opened:
            fetcher = (await opened.resolve(reference(NAME), None)).fetcher
            async with fetcher.fetch(blob) as stream:
                async for chunk in stream:
                    if not held:
                        mirror.process.stop()
                    held += chunk
    assert bytes(held) == data
