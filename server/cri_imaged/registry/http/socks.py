"""SOCKS5 (RFC 1928, RFC 1929): the handshake of a client that lets the proxy resolve names, as Go's
clients do for `socks5` and `socks5h` alike."""

from __future__ import annotations

import ipaddress

from cri_imaged.registry.http.connection import Connection
from cri_imaged.registry.http.errors import EndedError

_REFUSALS = {
    1: "it failed",
    2: "its rules forbid it",
    3: "the network is unreachable",
    4: "the host is unreachable",
    5: "the connection was refused",
    6: "it took too long",
}
_ADDRESS_BYTES = {1: 4, 4: 16}


class SocksError(Exception):
    """The proxy refused, or speaks something else. The text holds no secret."""


async def connect_by_socks(
    connection: Connection, name: str, port: int, login: tuple[str, str] | None
) -> None:
    """Have the proxy at the other end of `connection` connect to `name` (a host name or an IP
    address). Raises `SocksError`, `OSError`."""
    reader = _Reader(connection)
    methods = b"\x00\x02" if login is not None else b"\x00"
    connection.send(b"\x05" + bytes([len(methods)]) + methods)
    version, method = await reader.take(2)
    if version != 5:
        raise SocksError("the proxy does not speak SOCKS5")
    if method == 2 and login is not None:
        connection.send(b"\x01" + b"".join(_counted(part.encode()) for part in login))
        _, status = await reader.take(2)
        if status != 0:
            raise SocksError("the proxy refused the login")
    elif method != 0:
        raise SocksError("the proxy wants another kind of login")
    connection.send(b"\x05\x01\x00" + _address(name) + port.to_bytes(2, "big"))
    _, status, _, kind = await reader.take(4)
    if status != 0:
        why = _REFUSALS.get(status, f"error {status}")
        raise SocksError(f"the proxy did not connect: {why}")
    length = _ADDRESS_BYTES.get(kind) or (await reader.take(1))[0]
    await reader.take(length + 2)
    connection.unread(reader.rest)


def _address(name: str) -> bytes:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return b"\x03" + _counted(name.encode())
    return bytes([1 if address.version == 4 else 4]) + address.packed


def _counted(data: bytes) -> bytes:
    if len(data) > 255:
        raise SocksError("a name or login is longer than SOCKS5 allows")
    return bytes([len(data)]) + data


class _Reader:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.rest = b""

    async def take(self, number: int) -> bytes:
        while len(self.rest) < number:
            data = await self._connection.receive()
            if not data:
                raise EndedError
            self.rest += data
        taken, self.rest = self.rest[:number], self.rest[number:]
        return taken
