"""Proxies: HTTP, with and without TLS, and SOCKS5."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from contextlib import suppress
from pathlib import Path

import pytest

from cri_imaged.errors import Category, RegistryError
from cri_imaged.registry.retry import RetryPolicy
from tests.registry.conftest import Certificates
from tests.registry.helpers import REPOSITORY, client, noise, read, resolve, write_hosts
from tests.support.leaks import MARK
from tests.support.registry import BLOB, FaultRegistry, encoded, status

ONCE = RetryPolicy(tries=1, seconds=20.0)
LETTERS = f"\u0434-{MARK}"
"""Of a login, beyond Latin-1."""


class Proxy:
    """Connects whoever asks to one server, whatever was asked for."""

    def __init__(self, target: FaultRegistry, tls: ssl.SSLContext | None = None) -> None:
        self._target = target
        self._tls = tls
        self.asked: list[str] = []

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            if await self.greet(reader, writer):
                inner_reader, inner_writer = await asyncio.open_connection(
                    "127.0.0.1", self._target.port
                )
                await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))
        writer.close()

    async def greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether to connect."""
        self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return True


class Socks(Proxy):
    """The same, as SOCKS5."""

    login: tuple[str, str] | None = None
    refusal = 0

    async def greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """See RFC 1928, RFC 1929."""
        version, number = await reader.readexactly(2)
        methods = await reader.readexactly(number)
        wanted = 0 if self.login is None else 2
        writer.write(bytes([5, wanted if wanted in methods else 255]))
        if version != 5 or wanted not in methods:
            return False
        if self.login is not None:
            await reader.readexactly(1)
            given = [(await self._counted(reader)).decode() for _ in range(2)]
            writer.write(b"\x01\x00" if tuple(given) == self.login else b"\x01\x01")
            if tuple(given) != self.login:
                return False
        kind = (await reader.readexactly(4))[3]
        if kind == 3:
            name = (await self._counted(reader)).decode()
        else:
            name = str(ipaddress.ip_address(await reader.readexactly(4 if kind == 1 else 16)))
        self.asked.append(f"{name} {int.from_bytes(await reader.readexactly(2), 'big')}")
        writer.write(bytes([5, self.refusal, 0, 3, 4]) + b"nameXX")
        return not self.refusal

    async def _counted(self, reader: asyncio.StreamReader) -> bytes:
        return await reader.readexactly((await reader.readexactly(1))[0])


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


async def test_an_https_registry_behind_a_proxy(certificates: Certificates, tmp_path: Path) -> None:
    leaf = certificates.authority.issue_cert("registry.invalid")
    write_hosts(tmp_path, "registry.invalid", f'ca = "{certificates.ca_file}"')
    async with (
        FaultRegistry(tls=certificates.server(leaf)) as registry,
        Proxy(registry) as proxy,
        client(
            config_path=tmp_path,
            environ={"HTTPS_PROXY": f"http://user:{MARK}@127.0.0.1:{proxy.port}"},
        ) as opened,
    ):
        image = registry.add_image(REPOSITORY, "latest")
        assert (await resolve(opened, "registry.invalid")).descriptor == image.manifest
    assert proxy.asked[0].startswith("CONNECT registry.invalid:443 HTTP/1.1\r\n")
    assert f"Proxy-Authorization: Basic {encoded(f'user:{MARK}')}\r\n" in proxy.asked[0]
    assert "authorization" not in registry.seen[0].headers
    assert "proxy-authorization" not in registry.seen[0].headers


async def test_a_proxys_login_may_be_any_text(tmp_path: Path) -> None:
    async with FaultRegistry() as proxy:
        image = proxy.add_image(REPOSITORY, "latest")
        write_hosts(tmp_path, "registry.invalid", 'server = "http://registry.invalid"')
        environ = {"HTTP_PROXY": f"http://{LETTERS}:{LETTERS}@{proxy.authority}"}
        async with client(config_path=tmp_path, environ=environ) as opened:
            assert (await resolve(opened, "registry.invalid")).descriptor == image.manifest
    shown = proxy.seen[0].headers["proxy-authorization"]
    assert shown == f"Basic {encoded(f'{LETTERS}:{LETTERS}')}"


async def test_a_proxy_with_tls_is_verified(certificates: Certificates, tmp_path: Path) -> None:
    """By the system's authorities, as what hosts.toml trusts is for its hosts alone."""
    write_hosts(tmp_path, "registry.invalid", f'ca = "{certificates.ca_file}"')
    async with FaultRegistry() as registry, Proxy(registry, certificates.server()) as proxy:
        environ = {"HTTPS_PROXY": f"https://127.0.0.1:{proxy.port}"}
        async with client(config_path=tmp_path, environ=environ, policy=ONCE) as opened:
            with pytest.raises(RegistryError, match="the proxy was signed by an unknown"):
                await resolve(opened, "registry.invalid")
    assert proxy.asked == []


async def test_tls_within_tls(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
    leaf = certificates.authority.issue_cert("registry.invalid")
    async with (
        FaultRegistry(tls=certificates.server(leaf)) as registry,
        Proxy(registry, certificates.server()) as proxy,
        client(environ={"HTTPS_PROXY": f"https://127.0.0.1:{proxy.port}"}) as opened,
    ):
        data = noise(3_000_000)
        layer = registry.add_image(REPOSITORY, "latest", [data]).layers[0]
        assert await read((await resolve(opened, "registry.invalid")).fetcher, layer) == data
    assert len(registry.gets(BLOB)) == 1


FORGED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\n"
    b'Content-Length: 31\r\n\r\n{"schemaVersion":2,"config":{}}'
)


class Forging(Proxy):
    """Sends an answer of its own before the registry's TLS begins."""

    async def greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """See `Proxy`."""
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n" + FORGED)
        return True


class ForgingSocks(Socks):
    """The same, as SOCKS5."""

    async def greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """See `Socks`."""
        connected = await super().greet(reader, writer)
        writer.write(FORGED)
        return connected


@pytest.mark.parametrize(("kind", "scheme"), [(Forging, "http"), (ForgingSocks, "socks5")])
async def test_what_a_proxy_says_before_tls_is_not_the_registrys_word(
    certificates: Certificates, tmp_path: Path, kind: type[Proxy], scheme: str
) -> None:
    leaf = certificates.authority.issue_cert("registry.invalid")
    write_hosts(tmp_path, "registry.invalid", f'ca = "{certificates.ca_file}"')
    async with (
        FaultRegistry(tls=certificates.server(leaf)) as registry,
        kind(registry) as proxy,
        client(
            config_path=tmp_path,
            environ={"HTTPS_PROXY": f"{scheme}://127.0.0.1:{proxy.port}"},
            policy=ONCE,
        ) as opened,
    ):
        registry.add_image(REPOSITORY, "latest")
        with pytest.raises(RegistryError, match="something came before TLS"):
            await resolve(opened, "registry.invalid")


async def test_a_proxy_that_refuses_is_named_and_its_login_is_not(tmp_path: Path) -> None:
    async with FaultRegistry() as proxy:
        proxy.faults.append(status(407))
        environ = {"HTTPS_PROXY": f"http://user:{MARK}@{proxy.authority}"}
        async with client(environ=environ, policy=ONCE) as opened:
            with pytest.raises(RegistryError, match="the proxy answered") as caught:
                await resolve(opened, "registry.invalid")
    assert MARK not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "told", "tries"),
    [
        (b"HTTP/1.1 407 X\r\nContent-Length: 3\r\n\r\nwhy", r"407 .*\(why\); its login", 1),
        (b"HTTP/1.1 403 X\r\n\r\n<html><title>why</title>", r"403 Forbidden \(why\)", 1),
        (b"HTTP/1.1 302 X\r\nLocation: http://x/\r\nContent-Length: 0\r\n\r\n", "302 Found", 1),
        (b"HTTP/1.1 502 X\r\nContent-Length: 90\r\n\r\ncut", r"502 Bad Gateway", 2),
        (f"HTTP/1.1 403 X\r\n\r\nlogin {MARK}".encode(), r"\(login \[secret\]\)", 1),
        (b"", "the proxy did not connect to registry.invalid:443: closed by the peer", 2),
    ],
)
async def test_what_a_proxy_says_of_its_refusal_is_told(
    answer: bytes, told: str, tries: int
) -> None:
    class Refusing(Proxy):
        async def greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(answer)
            return False

    async with FaultRegistry() as registry, Refusing(registry) as proxy:
        environ = {"HTTPS_PROXY": f"http://user:{MARK}@127.0.0.1:{proxy.port}"}
        policy = RetryPolicy(tries=2, seconds=20.0, base_seconds=0.01)
        async with client(environ=environ, policy=policy) as opened:
            with pytest.raises(RegistryError, match=told) as caught:
                await resolve(opened, "registry.invalid")
    assert MARK not in str(caught.value)
    assert len(proxy.asked) == tries
    assert caught.value.category is Category.REGISTRY_UNAVAILABLE


async def test_a_socks_proxy_that_hangs_up_is_not_taken_for_the_registry() -> None:
    class Leaving(Proxy):
        async def greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            await reader.readexactly(3)
            return False

    async with FaultRegistry() as registry, Leaving(registry) as proxy:
        environ = {"HTTPS_PROXY": f"socks5://127.0.0.1:{proxy.port}"}
        async with client(environ=environ, policy=ONCE) as opened:
            with pytest.raises(RegistryError, match="the proxy did not connect"):
                await resolve(opened, "registry.invalid")


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_a_proxy_that_falls_silent_is_told_apart_from_a_registry_that_does(
    tmp_path: Path, scheme: str
) -> None:
    class Silent(Proxy):
        async def greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            await reader.read()
            return False

    write_hosts(tmp_path, "registry.invalid", 'dial_timeout = "100ms"')
    async with FaultRegistry() as registry, Silent(registry) as proxy:
        environ = {"HTTPS_PROXY": f"{scheme}://127.0.0.1:{proxy.port}"}
        async with client(config_path=tmp_path, environ=environ, policy=ONCE) as opened:
            with pytest.raises(RegistryError) as caught:
                await resolve(opened, "registry.invalid")
    assert "the proxy did not connect to registry.invalid:443: no answer in time" in str(
        caught.value
    )


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
@pytest.mark.parametrize("login", [None, (LETTERS, f"{MARK}:/@")])
async def test_names_are_resolved_by_a_socks_proxy(
    tmp_path: Path, scheme: str, login: tuple[str, str] | None
) -> None:
    write_hosts(tmp_path, "registry.invalid", 'server = "http://registry.invalid:5000"')
    async with FaultRegistry() as registry, Socks(registry) as proxy:
        proxy.login = login
        user = f"{LETTERS}:{MARK}%3A%2F%40@" if login else ""
        environ = {"HTTP_PROXY": f"{scheme}://{user}127.0.0.1:{proxy.port}"}
        data = noise(1_000_000)
        layer = registry.add_image(REPOSITORY, "latest", [data]).layers[0]
        async with client(config_path=tmp_path, environ=environ) as opened:
            assert await read((await resolve(opened, "registry.invalid")).fetcher, layer) == data
    assert proxy.asked == ["registry.invalid 5000"]
    assert registry.seen[0].path.startswith("/v2/")


@pytest.mark.parametrize("address", ["192.0.2.7", "[2001:db8::7]"])
async def test_tls_through_a_socks_proxy_to_an_address(
    certificates: Certificates, tmp_path: Path, address: str
) -> None:
    leaf = certificates.authority.issue_cert(address.strip("[]"))
    write_hosts(tmp_path, address, f'ca = "{certificates.ca_file}"')
    async with (
        FaultRegistry(tls=certificates.server(leaf)) as registry,
        Socks(registry) as proxy,
        client(
            config_path=tmp_path, environ={"HTTPS_PROXY": f"socks5://127.0.0.1:{proxy.port}"}
        ) as opened,
    ):
        image = registry.add_image(REPOSITORY, "latest")
        assert (await resolve(opened, address)).descriptor == image.manifest
    assert proxy.asked == [f"{address.strip('[]')} 443"]


async def test_what_a_socks_proxy_refuses(tmp_path: Path) -> None:
    write_hosts(tmp_path, "registry.invalid", 'server = "http://registry.invalid:5000"')
    async with FaultRegistry() as registry, Socks(registry) as proxy:
        there = f"127.0.0.1:{proxy.port}"

        async def refusal(authority: str) -> str:
            environ = {"HTTP_PROXY": f"socks5://{authority}"}
            async with client(config_path=tmp_path, environ=environ, policy=ONCE) as opened:
                with pytest.raises(RegistryError) as caught:
                    await resolve(opened, "registry.invalid")
            assert MARK not in str(caught.value)
            return str(caught.value)

        proxy.refusal = 5
        assert "the proxy did not connect: the connection was refused" in await refusal(there)
        proxy.login = ("ann", "right")
        assert "wants another kind of login" in await refusal(there)
        assert "refused the login" in await refusal(f"ann:{MARK}@{there}")
        assert "longer than SOCKS5 allows" in await refusal(f"ann:{MARK * 60}@{there}")
        assert "does not speak SOCKS5" in await refusal(registry.authority)
        assert "the proxy cannot be reached" in await refusal("127.0.0.1:1")
