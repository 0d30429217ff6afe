"""Connects: names, addresses one by one, proxies, TLS."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass

import aiohappyeyeballs
from multidict import CIMultiDict
from yarl import URL

from cri_imaged.limits import Limits
from cri_imaged.registry.error_bodies import describe_body
from cri_imaged.registry.http.addresses import ForbiddenAddressError, Reach, reach
from cri_imaged.registry.http.connection import Connection, ReceiveBuffer
from cri_imaged.registry.http.errors import MalformedError
from cri_imaged.registry.http.exchange import Body, read_head, request_head
from cri_imaged.registry.http.explanations import Explainer
from cri_imaged.registry.http.framing import frame
from cri_imaged.registry.http.head import Head
from cri_imaged.registry.http.names import Names
from cri_imaged.registry.http.socks import SocksError, connect_by_socks

_RESOLVE_SECONDS = 30.0
"""To look up a name, apart from the time to connect."""
_NEXT_ADDRESS_SECONDS = 0.25
"""After which the next address of a name is tried beside the last one (RFC 8305)."""
_SOCKS_PORT = 1080
_SAID_SECONDS = 2.0
"""In which a proxy may explain its refusal."""


@dataclass(frozen=True, slots=True)
class Route:
    """How an origin is reached. Requests of the same route may share a connection."""

    name: str
    port: int
    tls: ssl.SSLContext | None
    """For the origin; None: plain http."""
    proxy: URL | None
    proxy_tls: ssl.SSLContext | None

    @property
    def tunnelled(self) -> bool:
        """Whether a proxy passes bytes on without looking at them."""
        return self.proxy is not None and (self.tls is not None or is_socks(self.proxy))


@dataclass(frozen=True, slots=True)
class Link:
    """A connection, and whose it is."""

    connection: Connection
    reach: Reach
    """Of the address that answers; behind a proxy, of the origin's name."""


class Dialer:
    """Makes connections."""

    def __init__(self, names: Names, limits: Limits) -> None:
        self._names = names
        self._limits = limits
        self._buffer = ReceiveBuffer()

    async def dial(self, route: Route, nearest: Reach, explain: Explainer) -> Link:
        """Connect to the origin of `route`, at an address that is no nearer than `nearest`.
        `explain.dial` seconds for each step. Raises `HostFailure`."""
        if route.proxy is None:
            connection = await self._connect(route.name, route.port, nearest, explain)
            found = reach(connection.peer)
        else:
            # The proxy's own address is the administrator's business.
            found = reach(route.name)
            if found > nearest:
                raise explain.unresolved(ForbiddenAddressError(nearest))
            connection = await self._connect_to_proxy(route.proxy, route.proxy_tls, explain)
        try:
            if route.proxy is not None and route.tunnelled:
                await self._tunnel(connection, route, route.proxy, explain)
            if route.tls is not None:
                async with asyncio.timeout(explain.dial):
                    await connection.start_tls(route.tls, route.name)
        except BaseException as error:
            connection.close()
            if isinstance(error, (OSError, MalformedError)):
                raise explain.undialled(error) from None
            raise
        return Link(connection, found)

    async def _connect_to_proxy(
        self, proxy: URL, context: ssl.SSLContext | None, explain: Explainer
    ) -> Connection:
        proxied = explain.for_proxy()
        name = proxy.raw_host or ""
        connection = await self._connect(name, proxy.port or _SOCKS_PORT, Reach.LOCAL, proxied)
        if context is None:
            return connection
        try:
            async with asyncio.timeout(explain.dial):
                await connection.start_tls(context, name)
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError):
                raise proxied.undialled(error) from None
            raise
        return connection

    async def _connect(
        self, name: str, port: int, nearest: Reach, explain: Explainer
    ) -> Connection:
        try:
            found = await self._names.addresses(name, _RESOLVE_SECONDS)
            allowed = [address for address in found if reach(address[0]) <= nearest]
            if not allowed:
                raise ForbiddenAddressError(nearest)
        except (OSError, TimeoutError) as error:
            raise explain.unresolved(error) from None
        infos = [_info(address, scope, port) for address, scope in allowed]
        try:
            async with asyncio.timeout(explain.dial):
                connected = await aiohappyeyeballs.start_connection(
                    infos,
                    happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS,
                    interleave=1,
                )
                return await self._wrap(connected)
        except (OSError, RuntimeError) as error:
            raise explain.unconnected(error) from None

    async def _wrap(self, connected: socket.socket) -> Connection:
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self._buffer), sock=connected
            )
        except BaseException:
            connected.close()
            raise
        return connection

    async def _tunnel(
        self, connection: Connection, route: Route, proxy: URL, explain: Explainer
    ) -> None:
        try:
            async with asyncio.timeout(explain.dial):
                if is_socks(proxy):
                    login = (proxy.user, proxy.password or "") if proxy.user is not None else None
                    await connect_by_socks(connection, route.name, route.port, login)
                    return
                target = f"[{route.name}]" if ":" in route.name else route.name
                target = f"{target}:{route.port}"
                headers = CIMultiDict({"Host": target, **proxy_login(proxy)})
                connection.send(request_head("CONNECT", target, headers))
                head = await read_head(connection, self._limits)
        except (OSError, MalformedError, SocksError) as error:
            raise explain.untunnelled(error) from None
        if head.status // 100 != 2:
            said = await self._said(connection, head, proxy)
            raise explain.proxy_refused(head.status, said)

    async def _said(self, connection: Connection, head: Head, proxy: URL) -> str:
        """What a proxy says of its refusal, as far as it does so soon."""
        said = b""
        with suppress(OSError, MalformedError):
            framing, _ = frame("GET", head.status, head.headers)
            body = Body(connection, framing, None)
            async with asyncio.timeout(_SAID_SECONDS):
                while len(said) < self._limits.error_body_bytes and (piece := await body.read()):
                    said += piece
        login = proxy_login(proxy).get("Proxy-Authorization", "").removeprefix("Basic ")
        secrets = (proxy.password or "", login)
        return describe_body(said[: self._limits.error_body_bytes], secrets)[1]


def _info(address: str, scope: int, port: int) -> aiohappyeyeballs.AddrInfoType:
    if ":" in address:
        return socket.AF_INET6, socket.SOCK_STREAM, 0, "", (address, port, 0, scope)
    return socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, port)


def is_socks(proxy: URL) -> bool:
    """Whether a proxy speaks SOCKS."""
    return proxy.scheme.startswith("socks")


def proxy_login(proxy: URL) -> dict[str, str]:
    """The header that an HTTP proxy's login goes into (Basic, UTF-8), where there is one."""
    if proxy.user is None:
        return {}
    pair = f"{proxy.user}:{proxy.password or ''}".encode()
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair).decode()}"}
