"""No secret in any log line or error, whatever registries do with it.

Every secret and every place where one hides holds the word `marked`; nothing that is emitted may.
"""

from __future__ import annotations

import base64
import json
import logging
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from cri_imaged.errors import ImagedError
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.ports import Credentials
from cri_imaged.registry.options import HostOptions, RegistryOptions
from tests.registry.conftest import Certificates
from tests.registry.helpers import REPOSITORY, client, noise, read, resolve, write_hosts
from tests.support.registry import (
    BLOB,
    MANIFEST,
    TOKEN,
    BasicAuth,
    BearerAuth,
    FaultRegistry,
    corrupt,
    cut,
    redirect,
    reset,
    status,
)

MARK = "marked"
LOGIN = Credentials(username="ann", password="marked-password")
BASIC = base64.b64encode(b"ann:marked-password").decode()
LOGINS = [
    None,
    LOGIN,
    Credentials(auth=BASIC),
    Credentials(identity_token="marked-identity"),
    Credentials(registry_token="marked-registry"),
    Credentials(username="ann", password="marked-wrong"),
]


class Emitted(logging.Handler):
    """Everything that was logged, through either library, and every error's text."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))

    def error(self, error: BaseException) -> None:
        self.texts += [str(error), repr(error), *traceback.format_exception(error)]
        self.texts += [repr(attempt) for attempt in getattr(error, "attempts", ())]

    def assert_no_secret(self, *more: str) -> None:
        assert self.texts
        for text in self.texts:
            for secret in (MARK, BASIC, *more):
                assert secret not in text


@pytest.fixture
def emitted() -> Iterator[Emitted]:
    emitted = Emitted()
    root = logging.getLogger()
    level = root.level
    root.addHandler(emitted)
    root.setLevel(logging.DEBUG)
    with structlog.testing.capture_logs() as logs:
        yield emitted
        emitted.texts += [repr(entry) for entry in logs]
        assert logs
    root.removeHandler(emitted)
    root.setLevel(level)
    emitted.assert_no_secret()


@asynccontextmanager
async def noted(emitted: Emitted) -> AsyncIterator[None]:
    """Notes the error that the body may end with."""
    try:
        yield
    except ImagedError as error:
        emitted.error(error)


@pytest.mark.parametrize("number", range(len(LOGINS)))
@pytest.mark.parametrize("basic", [True, False])
async def test_logins_of_requests(emitted: Emitted, number: int, basic: bool) -> None:
    users = {"ann": "marked-password"}
    auth = (
        BasicAuth(users)
        if basic
        else BearerAuth(users, anonymous=False, identity_tokens=["marked-identity"])
    )
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        layer = registry.add_image(REPOSITORY, "latest", [noise(100_000)]).layers[0]
        registry.faults += [
            cut(20_000, where=BLOB, times=1),
            reset(100, where=BLOB, times=1),
            status(503, where=MANIFEST, times=1, skip=1),
        ]
        async with noted(emitted):
            found = await resolve(opened, registry, LOGINS[number])
            await read(found.fetcher, layer)
            registry.blobs.clear()
            await read(found.fetcher, layer)
    emitted.texts.append(repr(LOGINS[number]))
    if isinstance(auth, BearerAuth):
        emitted.assert_no_secret(*auth.issued)


@pytest.mark.parametrize("where", [MANIFEST, TOKEN])
@pytest.mark.parametrize(
    ("login", "said"),
    [
        (LOGIN, f"marked-password is in Basic {BASIC}"),
        (Credentials(auth=BASIC), f"marked-password is in Basic {BASIC}"),
        (Credentials(identity_token="marked-identity"), "marked-identity"),
        (Credentials(registry_token="marked-registry"), "Bearer marked-registry"),
    ],
    ids=["user", "auth", "identity", "registry"],
)
async def test_registries_that_echo_what_they_were_sent(
    emitted: Emitted, where: str, login: Credentials, said: str
) -> None:
    body = json.dumps({"errors": [{"code": said, "message": said * 20}]}).encode()
    async with FaultRegistry() as registry, client() as opened:
        challenge = f'Bearer realm="{registry.url}/token"'
        registry.faults.append(
            status(401, headers={"WWW-Authenticate": challenge}, where=MANIFEST, times=1)
        )
        registry.faults.append(status(403, where=where, body=body))
        registry.auth = BearerAuth({"ann": "marked-password"}, identity_tokens=["marked-identity"])
        async with noted(emitted):
            await resolve(opened, registry, login)


@pytest.mark.parametrize(
    "fault",
    [
        cut(10, times=1),
        reset(-1),
        status(403),
        status(404),
        redirect("/elsewhere?X-Signature=marked-again", times=3),
        corrupt(),
    ],
    ids=["cut", "reset", "403", "404", "redirected", "corrupt"],
)
async def test_signed_urls(emitted: Emitted, fault: object) -> None:
    async with FaultRegistry() as registry, FaultRegistry() as storage, client() as opened:
        layer = registry.add_image(REPOSITORY, "latest", [noise(1000)]).layers[0]
        storage.share(registry)
        storage.faults.append(fault)  # type: ignore[arg-type]
        target = (
            f"http://user:marked-user@{storage.authority}"
            f"/v2/marked-path/blobs/{layer.digest}?X-Signature=marked"
        )
        registry.faults.append(redirect(target, where=BLOB))
        async with noted(emitted):
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
        "http://127.0.0.1:1/?X-Signature=marked",
        "http://storage.invalid/?X-Signature=marked",
        "ftp://u:marked@storage.invalid/marked",
        "http://[marked",
        "https://127.0.0.1:1/marked?marked",
    ],
)
async def test_redirects_that_lead_nowhere(emitted: Emitted, location: str) -> None:
    async with FaultRegistry() as registry, client() as opened:
        registry.faults.append(redirect(location))
        async with noted(emitted):
            await resolve(opened, registry)


async def test_https_redirects_to_http(
    emitted: Emitted, certificates: Certificates, tmp_path: Path
) -> None:
    async with FaultRegistry(tls=certificates.server()) as registry:
        text = f'server = "{registry.url}"\nca = "{certificates.ca_file}"'
        write_hosts(tmp_path, registry.authority, text)
        registry.faults.append(redirect("http://u:marked@storage.invalid/marked?marked"))
        async with client(config_path=tmp_path) as opened, noted(emitted):
            await resolve(opened, registry)


async def test_realms(emitted: Emitted) -> None:
    async with FaultRegistry() as registry, client() as opened:
        for realm in (
            "http://u:marked@auth.invalid/",
            "http://auth.invalid/marked?key=marked",
            "https://127.0.0.1:1/?marked",
            "http://[marked",
        ):
            challenge = f'Bearer realm="{realm}",service="x"'
            registry.faults[:] = [status(401, headers={"WWW-Authenticate": challenge})]
            async with noted(emitted):
                await resolve(opened, registry, LOGIN)


async def test_tokens_that_are_malformed(emitted: Emitted) -> None:
    async with FaultRegistry(auth=BearerAuth()) as registry, client() as opened:
        for body in (b'{"token": "marked\\n"}', b'{"token": ["marked"]}', b"marked", b'"marked"'):
            registry.faults[:] = [status(200, body=body, where=TOKEN)]
            async with noted(emitted):
                await resolve(opened, registry, LOGIN)


async def test_the_configuration(emitted: Emitted, tmp_path: Path) -> None:
    docker = tmp_path / "config.json"
    docker.write_text('{"auths": {"docker.invalid": {"auth": "bWFya2Vk"}}}')
    broken = tmp_path / "broken.json"
    broken.write_text('{"auths": {"docker.invalid": {"auth": ["marked"]}, "marked')
    configured = {"auth": {"username": "ann", "password": "marked-configured"}}
    hosts = {
        "a.invalid": 'server = "https://u:marked@a.invalid"',
        "b.invalid": '[host."https://u:marked@a.invalid"]\nca = 3',
        "c.invalid": '[header]\nAuthorization = "marked\\n"',
        "d.invalid": 'server = "http://d.invalid"\n[header]\nAuthorization = "Bearer marked"',
    }
    for registry, text in hosts.items():
        write_hosts(tmp_path, registry, text)
    options: dict[str, Any] = {
        "headers": {"X-Api-Key": ["marked-header"]},
        "configs": msgspec.convert({"e.invalid": configured}, dict[str, HostOptions]),
    }
    for config in (docker, broken):
        async with client(config_path=tmp_path, docker_config=str(config), **options) as opened:
            for registry in (*hosts, "e.invalid", "docker.invalid"):
                async with noted(emitted):
                    await resolve(opened, registry)
    async with FaultRegistry(auth=BasicAuth({})) as plain:
        for config in (docker, broken):
            async with client(docker_config=str(config), **options) as opened, noted(emitted):
                await resolve(opened, plain)
    emitted.texts.append(repr(options["configs"]["e.invalid"].auth))
    emitted.texts.append(repr(RegistryOptions(**options)))


async def test_proxies(emitted: Emitted, tmp_path: Path) -> None:
    async with FaultRegistry() as proxy:
        write_hosts(tmp_path, "a.invalid", 'server = "http://a.invalid"')
        write_hosts(tmp_path, "b.invalid", 'server = "https://b.invalid"')
        proxy.faults.append(status(407))
        for authority in (proxy.authority, "127.0.0.1:1", "proxy.invalid:1"):
            url = f"http://user:marked-proxy@{authority}"
            environ = {"HTTP_PROXY": url, "HTTPS_PROXY": url}
            async with client(config_path=tmp_path, environ=environ) as opened:
                for registry in ("a.invalid", "b.invalid"):
                    async with noted(emitted):
                        await resolve(opened, registry, LOGIN)
        assert proxy.seen
    emitted.texts += ["proxies"]


async def test_foreign_layers(emitted: Emitted) -> None:
    async with FaultRegistry() as registry, client() as opened:
        layer = registry.add_image(REPOSITORY, "latest", [noise(10)]).layers[0]
        registry.blobs.clear()
        foreign = Descriptor(
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            layer.digest,
            layer.size,
            urls=(
                f"http://u:marked@{registry.authority}/x?marked",
                "http://foreign.invalid/x?signature=marked",
            ),
        )
        async with noted(emitted):
            await read((await resolve(opened, registry)).fetcher, foreign)
