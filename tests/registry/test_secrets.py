"""No secret in any log line or error, whatever registries do with it.

There is one in every place where one may hide; `tests.support.leaks` searches what is emitted."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import structlog

from cri_imaged.errors import ImagedError
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.ports import Credentials
from cri_imaged.registry.options import HostOptions, RegistryOptions
from tests.registry.conftest import Certificates
from tests.registry.helpers import REPOSITORY, client, noise, read, resolve, write_hosts
from tests.support.leaks import MARK, emitted
from tests.support.registry import (
    BLOB,
    MANIFEST,
    TOKEN,
    BasicAuth,
    BearerAuth,
    FaultRegistry,
    corrupt,
    cut,
    encoded,
    redirect,
    reset,
    status,
)

log = structlog.get_logger()

PASSWORD, IDENTITY, REGISTRY = f"{MARK}-password", f"{MARK}-identity", f"{MARK}-registry"
USERS = {"ann": PASSWORD}
LOGIN = Credentials(username="ann", password=PASSWORD)
BASIC = encoded(f"ann:{PASSWORD}")
LOGINS = [
    None,
    LOGIN,
    Credentials(auth=BASIC),
    Credentials(identitytoken=IDENTITY),
    Credentials(registrytoken=REGISTRY),
    Credentials(username="ann", password=f"{MARK}-wrong"),
]


@asynccontextmanager
async def noted() -> AsyncIterator[None]:
    """The error that the body may end with is logged, with all that it was caused by."""
    try:
        yield
    except ImagedError:
        log.debug("refused", exc_info=True)


def echo(said: str, form: str = "errors") -> bytes:
    """An error's body that says what the registry was sent."""
    bodies: dict[str, object] = {
        "errors": {"errors": [{"code": said, "message": said * 20}]},
        "details": {"error": said, "error_description": said, "details": [said]},
        "text": None,
        "quoted": None,
    }
    if bodies[form] is not None:
        return json.dumps(bodies[form]).encode()
    return (said if form == "text" else quote(said, safe="")).encode()


@pytest.mark.parametrize("number", range(len(LOGINS)))
@pytest.mark.parametrize("basic", [True, False])
async def test_logins_of_requests(number: int, basic: bool) -> None:
    auth = (
        BasicAuth(USERS)
        if basic
        else BearerAuth(USERS, anonymous=False, identity_tokens=[IDENTITY])
    )
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        layer = registry.add_image(REPOSITORY, "latest", [noise(100_000)]).layers[0]
        registry.faults += [
            cut(20_000, where=BLOB, times=1),
            reset(100, where=BLOB, times=1),
            status(503, where=MANIFEST, times=1, skip=1),
        ]
        async with noted():
            found = await resolve(opened, registry, LOGINS[number])
            await read(found.fetcher, layer)
            registry.blobs.clear()
            await read(found.fetcher, layer)
    emitted("a login", repr(LOGINS[number]))


@pytest.mark.parametrize("form", ["errors", "details", "text", "quoted"])
@pytest.mark.parametrize("where", [MANIFEST, TOKEN])
@pytest.mark.parametrize(
    ("login", "said"),
    [
        (LOGIN, f"{PASSWORD} is in Basic {BASIC}"),
        (Credentials(auth=BASIC), f"{PASSWORD} is in Basic {BASIC}"),
        (Credentials(identitytoken=IDENTITY), IDENTITY),
        (Credentials(registrytoken=REGISTRY), f"Bearer {REGISTRY}"),
    ],
    ids=["user", "auth", "identity", "registry"],
)
async def test_registries_that_echo_what_they_were_sent(
    where: str, login: Credentials, said: str, form: str
) -> None:
    async with FaultRegistry() as registry, client() as opened:
        challenge = f'Bearer realm="{registry.url}/token"'
        registry.faults.append(
            status(401, headers={"WWW-Authenticate": challenge}, where=MANIFEST, times=1)
        )
        registry.faults.append(status(403, where=where, body=echo(said, form)))
        registry.auth = BearerAuth(USERS, identity_tokens=[IDENTITY])
        async with noted():
            await resolve(opened, registry, login)


async def test_a_registry_that_echoes_the_token_that_it_was_shown() -> None:
    async with FaultRegistry(auth=BearerAuth()) as registry, client() as opened:
        token = json.dumps({"token": f"{MARK}-token"}).encode()
        registry.faults += [
            status(200, where=TOKEN, body=token),
            status(403, where=MANIFEST, skip=1, body=echo(f"Bearer {MARK}-token, {MARK}-token")),
        ]
        async with noted():
            await resolve(opened, registry)
        assert registry.seen[-1].headers["authorization"] == f"Bearer {MARK}-token"


async def test_registries_that_echo_configured_headers() -> None:
    headers = {"X-Key": [f"{MARK}-key"], "X-Login": [f"Token {MARK}-login"]}
    async with FaultRegistry(auth=BearerAuth()) as registry, client(headers=headers) as opened:
        for where, code in ((MANIFEST, 403), (MANIFEST, 401), (TOKEN, 403)):
            body = echo(f"{MARK}-key, {MARK}-login")
            registry.faults[:] = [status(code, where=where, body=body)]
            async with noted():
                await resolve(opened, registry)
            assert registry.seen[-1].headers["x-key"] == f"{MARK}-key"


async def test_storage_that_echoes_a_signed_url() -> None:
    async with FaultRegistry() as registry, FaultRegistry() as storage, client() as opened:
        layer = registry.add_image(REPOSITORY, "latest", [noise(10)]).layers[0]
        registry.faults.append(redirect(f"{storage.url}/x?signature={MARK}%2F", where=BLOB))
        storage.faults.append(status(403, body=echo(f"signature={MARK}/ is bad, {MARK}%2F too")))
        async with noted():
            await read((await resolve(opened, registry)).fetcher, layer)
        assert storage.seen


async def test_a_redirects_target_that_echoes_its_signed_url_after_it_gave_a_token() -> None:
    async with FaultRegistry() as front, FaultRegistry(auth=BearerAuth()) as target:
        target.add_image(REPOSITORY, "latest")
        location = f"{target.url}/v2/{MARK}/manifests/latest?signature={MARK}"
        front.faults.append(redirect(location))
        async with client() as opened, noted():
            await resolve(opened, front)
        target.faults.append(status(403, where=MANIFEST, skip=1, body=echo(f"{MARK} is bad")))
        async with client() as opened, noted():
            await resolve(opened, front, LOGIN)
        assert any("authorization" in seen.headers for seen in target.gets(MANIFEST))


@pytest.mark.parametrize(
    "fault",
    [
        cut(10, times=1),
        reset(-1),
        status(403),
        status(404),
        redirect(f"/elsewhere?X-Signature={MARK}", times=3),
        corrupt(),
    ],
    ids=["cut", "reset", "403", "404", "redirected", "corrupt"],
)
async def test_signed_urls(fault: object) -> None:
    async with FaultRegistry() as registry, FaultRegistry() as storage, client() as opened:
        layer = registry.add_image(REPOSITORY, "latest", [noise(1000)]).layers[0]
        storage.share(registry)
        storage.faults.append(fault)  # type: ignore[arg-type]
        target = (
            f"http://user:{MARK}@{storage.authority}"
            f"/v2/{MARK}/blobs/{layer.digest}?X-Signature={MARK}"
        )
        registry.faults.append(redirect(target, where=BLOB))
        async with noted():
            found = await resolve(opened, registry)
            async with found.fetcher.fetch(layer) as stream:
                async for _chunk in stream:
                    pass
                stream.discredit()
            await read(found.fetcher, layer)
        assert storage.seen


@pytest.mark.parametrize(
    "location",
    [
        f"http://127.0.0.1:1/?X-Signature={MARK}",
        f"http://storage.invalid/?X-Signature={MARK}",
        f"ftp://u:{MARK}@storage.invalid/{MARK}",
        f"http://[{MARK}",
        f"https://127.0.0.1:1/{MARK}?{MARK}",
    ],
)
async def test_redirects_that_lead_nowhere(location: str) -> None:
    async with FaultRegistry() as registry, client() as opened:
        registry.faults.append(redirect(location))
        async with noted():
            await resolve(opened, registry)


async def test_https_redirects_to_http(certificates: Certificates, tmp_path: Path) -> None:
    async with FaultRegistry(tls=certificates.server()) as registry:
        text = f'server = "{registry.url}"\nca = "{certificates.ca_file}"'
        write_hosts(tmp_path, registry.authority, text)
        registry.faults.append(redirect(f"http://u:{MARK}@storage.invalid/{MARK}?{MARK}"))
        async with client(config_path=tmp_path) as opened, noted():
            await resolve(opened, registry)


async def test_realms() -> None:
    async with FaultRegistry() as registry, client() as opened:
        for realm in (
            f"http://u:{MARK}@auth.invalid/",
            f"http://auth.invalid/{MARK}?key={MARK}",
            f"https://127.0.0.1:1/?{MARK}",
            f"http://[{MARK}",
        ):
            challenge = f'Bearer realm="{realm}",service="x"'
            registry.faults[:] = [status(401, headers={"WWW-Authenticate": challenge})]
            async with noted():
                await resolve(opened, registry, LOGIN)


async def test_tokens_that_are_malformed() -> None:
    async with FaultRegistry(auth=BearerAuth()) as registry, client() as opened:
        for body in (f'{{"token": "{MARK}\\n"}}', f'{{"token": ["{MARK}"]}}', MARK, f'"{MARK}"'):
            registry.faults[:] = [status(200, body=body.encode(), where=TOKEN)]
            async with noted():
                await resolve(opened, registry, LOGIN)


async def test_the_configuration(tmp_path: Path) -> None:
    docker = tmp_path / "config.json"
    docker.write_text(json.dumps({"auths": {"docker.invalid": {"auth": encoded(MARK)}}}))
    broken = tmp_path / "broken.json"
    broken.write_text(f'{{"auths": {{"docker.invalid": {{"auth": ["{MARK}"]}}, "{MARK}')
    configured = {"auth": {"username": "ann", "password": PASSWORD}}
    hosts = {
        "a.invalid": f'server = "https://u:{MARK}@a.invalid"',
        "b.invalid": f'[host."https://u:{MARK}@a.invalid"]\nca = 3',
        "c.invalid": f'[header]\nAuthorization = "{MARK}\\n"',
        "d.invalid": f'server = "http://d.invalid"\n[header]\nAuthorization = "Bearer {MARK}"',
    }
    for registry, text in hosts.items():
        write_hosts(tmp_path, registry, text)
    options: dict[str, Any] = {
        "headers": {"X-Api-Key": [MARK]},
        "configs": msgspec.convert({"e.invalid": configured}, dict[str, HostOptions]),
    }
    for config in (docker, broken):
        async with client(config_path=tmp_path, docker_config=str(config), **options) as opened:
            for registry in (*hosts, "e.invalid", "docker.invalid"):
                async with noted():
                    await resolve(opened, registry)
    async with FaultRegistry(auth=BasicAuth({})) as plain:
        for config in (docker, broken):
            async with client(docker_config=str(config), **options) as opened, noted():
                await resolve(opened, plain)
    emitted("the options", repr(RegistryOptions(**options)))
    emitted("a login", repr(options["configs"]["e.invalid"].auth))


async def test_proxies(tmp_path: Path) -> None:
    async with FaultRegistry() as proxy:
        write_hosts(tmp_path, "a.invalid", 'server = "http://a.invalid"')
        write_hosts(tmp_path, "b.invalid", 'server = "https://b.invalid"')
        proxy.faults.append(status(407))
        for authority in (proxy.authority, "127.0.0.1:1", "proxy.invalid:1"):
            url = f"http://user:{MARK}@{authority}"
            environ = {"HTTP_PROXY": url, "HTTPS_PROXY": url}
            async with client(config_path=tmp_path, environ=environ) as opened:
                for registry in ("a.invalid", "b.invalid"):
                    async with noted():
                        await resolve(opened, registry, LOGIN)
        assert proxy.seen


async def test_foreign_layers() -> None:
    async with FaultRegistry() as registry, client() as opened:
        layer = registry.add_image(REPOSITORY, "latest", [noise(10)]).layers[0]
        registry.blobs.clear()
        foreign = Descriptor(
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            layer.digest,
            layer.size,
            urls=(
                f"http://u:{MARK}@{registry.authority}/x?{MARK}",
                f"http://foreign.invalid/x?signature={MARK}",
            ),
        )
        async with noted():
            await read((await resolve(opened, registry)).fetcher, foreign)
