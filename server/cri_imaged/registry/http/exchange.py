"""One request and its response over one connection (HTTP/1.1)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from multidict import CIMultiDict

from cri_imaged.limits import Limits
from cri_imaged.registry.http.connection import Connection
from cri_imaged.registry.http.errors import EndedError, MalformedError
from cri_imaged.registry.http.framing import Framing, frame
from cri_imaged.registry.http.head import END, Head, parse_head

_LONG = 1 << 20
"""Bytes of a body after which it is received at its pace."""


class Body:
    """A response's body, from the connection that it arrives on."""

    def __init__(
        self,
        connection: Connection,
        framing: Framing,
        on_end: Callable[[], None] | None,
    ) -> None:
        """`on_end` takes the connection back when all was read; None: it is of no further use."""
        self._connection: Connection | None = connection
        self._framing = framing
        self._on_end = on_end
        self._received = 0

    async def read(self) -> bytes:
        """Some bytes; none at the body's end. Raises `OSError` or `MalformedError`."""
        while self._connection is not None and not self._framing.done:
            data = await self._connection.receive(paced=self._received > _LONG)
            if not data:
                self._framing.end()
                break
            self._received += len(data)
            body, rest = self._framing.feed(data)
            self._connection.unread(rest)
            if rest and not self._framing.done:
                # Much framing around little content: others have their turn in between.
                await asyncio.sleep(0)
            if body:
                return body
        return b""

    def close(self) -> None:
        """Give the connection back where its last byte has arrived, close it otherwise."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._on_end is not None and self._is_over(connection):
            self._on_end()
        else:
            connection.close()

    def _is_over(self, connection: Connection) -> bool:
        if not self._framing.done:
            try:
                _, rest = self._framing.feed(connection.take_arrived())
            except MalformedError:
                return False
            connection.unread(rest)
        return self._framing.done and connection.quiet


def request_head(method: str, target: str, headers: CIMultiDict[str]) -> bytes:
    """The bytes of a request before its body. Raises `MalformedError` where a header would break
    out of its line."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{key}: {value}" for key, value in headers.items())]
    for line in lines:
        if not line.isprintable() and any(char in line for char in "\r\n\0"):
            name = line.partition(":")[0]
            raise MalformedError(f"the header {name!r} holds a line break")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


async def exchange(
    connection: Connection, method: str, request: bytes, limits: Limits
) -> tuple[Head, Framing, bool]:
    """Send `request` and read the response's head, over the interim ones before it. Tells how the
    body is framed, and whether the connection may be used again after it.

    Raises:
        OSError: the connection broke. `MalformedError`: see `framing.frame`, or a limit.
    """
    connection.send(request)
    head = await read_head(connection, limits)
    framing, reusable = frame(method, head.status, head.headers)
    return head.reduced(), framing, reusable and head.keep_alive


async def read_head(connection: Connection, limits: Limits) -> Head:
    """The next final response's head. Raises as `exchange`."""
    left = limits.response_header_bytes
    for _ in range(limits.interim_responses + 1):
        block, used = await _block(connection, left)
        left -= used
        head = parse_head(block, limits.response_header_fields)
        if head.status == 101:
            raise MalformedError("the answer changes the protocol, which nobody asked for")
        if not head.interim:
            return head
    raise MalformedError(f"more than {limits.interim_responses} interim responses")


async def _block(connection: Connection, left: int) -> tuple[bytes, int]:
    """The next head, of no more than `left` bytes, and the number of bytes that it took."""
    held = b""
    used = 0
    while True:
        data = await connection.receive()
        if not data:
            raise EndedError
        searched = max(len(held) - 2, 0)
        held += data
        if not searched:
            # Some servers send an empty line too many after a body.
            stripped = held.lstrip(b"\r\n")
            used += len(held) - len(stripped)
            held = stripped
        found = END.search(held, searched)
        if found is not None and used + found.end() <= left:
            connection.unread(held[found.end() :])
            return held[: found.start()], used + found.end()
        if used + len(held) > left:
            raise MalformedError("its headers are too large")
