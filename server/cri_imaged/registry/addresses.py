"""Private addresses: where a stranger's URL (a token realm, a foreign layer) must not lead us."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver


class PrivateAddressError(OSError):
    """A name that must be public resolves to a private address."""


def is_private(address: str) -> bool:
    """Whether an IP address is anything but globally reachable unicast (so: private, loopback,
    link-local with the clouds' metadata services, unspecified, shared, reserved, multicast)."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        parsed = parsed.ipv4_mapped or parsed.sixtofour or parsed
    return not parsed.is_global or parsed.is_multicast


async def resolves_privately(name: str) -> bool:
    """Whether `name`, a host name or address, leads to a private address. A name that does not
    resolve does not."""
    if is_private(name):
        return True
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(is_private(str(address[0])) for *_, address in found)


class PublicResolver(AbstractResolver):
    """Resolves names to public addresses only. Checked at the moment of connecting, so that a
    name cannot change its mind in between."""

    def __init__(self) -> None:
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Resolve `host`. Raises `PrivateAddressError` where any address is private."""
        found = await self._resolver.resolve(host, port, family)
        if any(is_private(entry["host"]) for entry in found):
            raise PrivateAddressError
        return found

    async def close(self) -> None:
        """Nothing is held open."""
        await self._resolver.close()
