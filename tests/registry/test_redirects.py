"""Redirects: followed, counted, and told no secret."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from cri_imaged.errors import Category, RegistryError
from cri_imaged.limits import Limits
from cri_imaged.ports import Credentials
from tests.registry.conftest import Certificates
from tests.registry.helpers import REPOSITORY, client, noise, read, resolve, write_hosts
from tests.support.leaks import MARK
from tests.support.registry import (
    BLOB,
    MANIFEST,
    BasicAuth,
    BearerAuth,
    FaultRegistry,
    cut,
    redirect,
    status,
)

ANN = Credentials(username="ann", password=f"{MARK}-password")
USERS = {"ann": f"{MARK}-password"}


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_credentials_and_configured_headers_stay_at_the_host(code: int) -> None:
    auth = BasicAuth(USERS)
    async with FaultRegistry(auth=auth) as registry, FaultRegistry() as storage:
        data = noise(200_000)
        layer = registry.add_image(REPOSITORY, "latest", [data]).layers[0]
        storage.share(registry)
        storage.faults.append(cut(50_000, times=1))
        target = f"{storage.url}/v2/x/blobs/{layer.digest}?X-Signature={MARK}%2Fdef"
        registry.faults.append(redirect(target, code=code, where=BLOB))
        async with client(headers={"X-Team": [f"{MARK}-team"]}) as opened:
            resolved = await resolve(opened, registry, ANN)
            assert await read(resolved.fetcher, layer) == data
        assert all("authorization" in seen.headers for seen in registry.gets(BLOB))
        assert all("x-team" in seen.headers for seen in registry.seen)
        assert len(storage.seen) == 2
        for seen in storage.seen:
            assert MARK not in str(seen.headers)
            assert "authorization" not in seen.headers
            assert seen.query == {"X-Signature": [f"{MARK}/def"]}
        assert storage.seen[1].offset == 50_000


async def test_a_redirect_within_the_host_keeps_them() -> None:
    auth = BasicAuth(USERS)
    async with FaultRegistry(auth=auth) as registry:
        image = registry.add_image("moved/demo", "latest")
        registry.faults.append(redirect("/v2/moved/demo/manifests/latest", reference="old"))
        async with client(headers={"X-Team": [f"{MARK}-team"]}) as opened:
            found = await resolve(opened, registry, ANN, f"{REPOSITORY}:old")
            assert found.descriptor == image.manifest
        assert all("x-team" in seen.headers for seen in registry.seen)


async def test_a_redirects_target_is_not_given_credentials_when_it_asks() -> None:
    async with FaultRegistry() as registry, FaultRegistry(auth=BasicAuth({})) as storage:
        layer = registry.add_image(REPOSITORY, "latest", [noise(10)]).layers[0]
        registry.faults.append(redirect(f"{storage.url}/v2/x/blobs/{layer.digest}", where=BLOB))
        async with client() as opened:
            fetcher = (await resolve(opened, registry, ANN)).fetcher
            with pytest.raises(RegistryError, match=f"401 Unauthorized from {storage.authority}"):
                await read(fetcher, layer)
        assert storage.seen
        assert all("authorization" not in seen.headers for seen in storage.seen)


async def test_a_redirects_target_that_wants_a_token_gets_none_of_the_hosts_headers() -> None:
    async with FaultRegistry() as registry, FaultRegistry(auth=BearerAuth()) as target:
        image = target.add_image(REPOSITORY, "latest")
        registry.faults.append(redirect(f"{target.url}/v2/{REPOSITORY}/manifests/latest"))
        async with client(headers={"X-Team": [f"{MARK}-team"]}) as opened:
            assert (await resolve(opened, registry)).descriptor == image.manifest
        assert any("authorization" in seen.headers for seen in target.gets(MANIFEST))
        assert not any("x-team" in seen.headers for seen in target.seen)


async def test_a_redirects_target_is_shown_no_client_certificate(
    certificates: Certificates, tmp_path: Path
) -> None:
    leaf, wanting = certificates.authority.issue_cert("node"), certificates.server(want_client=True)
    leaf.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "client.pem"))
    asking = certificates.server(want_client=True)
    asking.verify_mode = ssl.CERT_OPTIONAL
    async with (
        FaultRegistry(tls=wanting) as registry,
        FaultRegistry(tls=asking, auth=BearerAuth()) as target,
    ):
        image = target.add_image(REPOSITORY, "latest")
        registry.faults.append(redirect(f"{target.url}/v2/{REPOSITORY}/manifests/latest"))
        client_certificate = f'client = "{tmp_path / "client.pem"}"'
        text = f'server = "{registry.url}"\nca = "{certificates.ca_file}"\n{client_certificate}'
        write_hosts(tmp_path, registry.authority, text)
        async with client(config_path=tmp_path) as opened:
            assert (await resolve(opened, registry)).descriptor == image.manifest
        assert [seen.certified for seen in registry.seen] == [True]
        assert not any(seen.certified for seen in target.seen)


@pytest.mark.parametrize(("hops", "passes"), [(10, True), (11, False)])
async def test_ten_redirects_are_followed(hops: int, passes: bool) -> None:
    async with FaultRegistry() as registry:
        image = registry.add_image(REPOSITORY, "latest")
        registry.faults.append(
            redirect(f"/v2/{REPOSITORY}/manifests/latest", where=MANIFEST, times=hops)
        )
        async with client(limits=Limits(redirects=10)) as opened:
            if passes:
                assert (await resolve(opened, registry)).descriptor == image.manifest
            else:
                with pytest.raises(RegistryError, match="more than 10 redirects") as caught:
                    await resolve(opened, registry)
                assert caught.value.category is Category.REGISTRY_UNAVAILABLE


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("", "without saying where"),
        ("ftp://storage.example/x", "not http or https"),
        ("http://[", "malformed"),
        ("http://storage.example:99999/x", "malformed"),
        ("http://störage..example/x", "malformed"),
    ],
)
async def test_redirects_to_nowhere(location: str, problem: str) -> None:
    async with FaultRegistry() as registry:
        headers = {"Location": location} if location else {}
        registry.faults.append(status(307, headers=headers))
        async with client() as opened:
            with pytest.raises(RegistryError, match=problem):
                await resolve(opened, registry)
        assert len(registry.seen) == 1


async def test_https_is_not_left_for_http(certificates: Certificates, tmp_path: Path) -> None:
    async with FaultRegistry(tls=certificates.server()) as registry, FaultRegistry() as storage:
        layer = registry.add_image(REPOSITORY, "latest", [noise(10)]).layers[0]
        storage.share(registry)
        text = f'server = "{registry.url}"\nca = "{certificates.ca_file}"'
        write_hosts(tmp_path, registry.authority, text)
        target = f"{storage.url}/v2/x/blobs/{layer.digest}?signature={MARK}"
        registry.faults.append(redirect(target, where=BLOB))
        async with client(config_path=tmp_path) as opened:
            fetcher = (await resolve(opened, registry)).fetcher
            with pytest.raises(RegistryError, match="from https to http"):
                await read(fetcher, layer)
        assert storage.seen == []


async def test_the_hosts_authority_is_trusted_behind_a_redirect_too(
    certificates: Certificates, tmp_path: Path
) -> None:
    server = certificates.server()
    async with FaultRegistry(tls=server) as registry, FaultRegistry(tls=server) as storage:
        data = noise(10)
        layer = registry.add_image(REPOSITORY, "latest", [data]).layers[0]
        storage.share(registry)
        text = f'server = "{registry.url}"\nca = "{certificates.ca_file}"'
        write_hosts(tmp_path, registry.authority, text)
        registry.faults.append(redirect(f"{storage.url}/v2/x/blobs/{layer.digest}", where=BLOB))
        async with client(config_path=tmp_path) as opened:
            assert await read((await resolve(opened, registry)).fetcher, layer) == data
