"""The HTTP face: metrics for Prometheus, and whether the daemon is alive and ready.

A server of its own, small and without state: a client has a few seconds for its request, is
answered, and the connection is closed. So nobody holds descriptors for long, however many come.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from cri_imaged.errors import ConfigError
from cri_imaged.limits import (
    METRICS_CONNECTIONS,
    METRICS_REQUEST_BYTES,
    METRICS_REQUEST_SECONDS,
)
from cri_imaged.obs.page import Page, is_local
from cri_imaged.unix_sockets import UnixSocket

PATHS = ("/metrics", "/v1/metrics")
"""Prometheus's habit and containerd's path."""


class Answer(NamedTuple):
    """One HTTP answer."""

    status: HTTPStatus
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    """Besides those that every answer has."""
    stream: AsyncGenerator[bytes, None] | None = None
    """What follows the body, for as long as the client stays."""


class Asked(NamedTuple):
    """What counts of a request's header fields."""

    accept: str
    host: str


class MetricsServer:
    """Serves one registry's metrics over HTTP while it is entered."""

    def __init__(
        self,
        registry: CollectorRegistry,
        host: str | UnixSocket,
        port: int = 0,
        ready: Callable[[], Awaitable[str]] | None = None,
        request_seconds: float = METRICS_REQUEST_SECONDS,
        page: Page | None = None,
    ) -> None:
        """`host` may be a Unix socket. `ready` says why the daemon can serve nobody; empty where it
        can. None: it can."""
        self._registry = registry
        self._ready = ready
        self._host = host
        self._port = port
        self._request_seconds = request_seconds
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], None] = {}
        self._page = page
        self._routes: dict[str, Callable[[Asked], Awaitable[Answer]]] = {
            **dict.fromkeys(PATHS, self._metrics),
            "/livez": self._live,
            "/readyz": self._readiness,
            "/healthz": self._readiness,
            **({"/": self._html, "/events": self._events} if page else {}),
        }

    async def __aenter__(self) -> MetricsServer:
        """Bind and listen. Raises `ConfigError` where the address cannot be used."""
        if isinstance(self._host, UnixSocket):
            self._server = await asyncio.start_unix_server(
                self._connected, sock=self._host.bound(), limit=METRICS_REQUEST_BYTES
            )
            return self
        try:
            self._server = await asyncio.start_server(
                self._connected, self._host or None, self._port, limit=METRICS_REQUEST_BYTES
            )
        except (OSError, socket.gaierror) as error:
            raise ConfigError(
                f"metrics.address: cannot listen on {self._host}:{self._port}: "
                f"{error.strerror or error}"
            ) from None
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._server is not None:
            self._server.close()
        if isinstance(self._host, UnixSocket):
            self._host.address.unlink(missing_ok=True)
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    @property
    def port(self) -> int:
        """The port that it listens on, where the system chose one (port 0)."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = None
        if len(self._connections) > METRICS_CONNECTIONS:
            next(iter(self._connections)).cancel()  # who has been here longest gives way
        try:
            with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(self._request_seconds):
                    stream = await self._converse(reader, writer)
                if stream is not None:
                    await self._follow(stream, writer)
        finally:
            del self._connections[task]
            # What the client does not take now it does not get.
            writer.transport.abort()

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> AsyncGenerator[bytes, None] | None:
        """Answer one request. What follows the answer is returned."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        except asyncio.LimitOverrunError:
            answer, method = _text(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "too large"), "GET"
        else:
            method, answer = await self._answer(head.decode("latin-1"))
        writer.write(_head(answer) + (b"" if method == "HEAD" else answer.body))
        await writer.drain()
        if method != "HEAD" and answer.stream is not None:
            return answer.stream
        writer.write_eof()
        await reader.read()  # until the client has seen the end: a reset would take the answer back
        return None

    async def _follow(
        self, stream: AsyncGenerator[bytes, None], writer: asyncio.StreamWriter
    ) -> None:
        """Send what comes, until the client leaves, or does not take it."""
        async with contextlib.aclosing(stream):
            async for piece in stream:
                writer.write(piece)
                async with asyncio.timeout(self._request_seconds):
                    await writer.drain()

    async def _answer(self, head: str) -> tuple[str, Answer]:
        line, *fields = head.split("\r\n")
        method, _, rest = line.partition(" ")
        target, _, version = rest.partition(" ")
        if not version.startswith("HTTP/1."):
            return method, _text(HTTPStatus.BAD_REQUEST, "bad request")
        route = self._routes.get(target.partition("?")[0])
        if route is None:
            return method, _text(HTTPStatus.NOT_FOUND, "not found")
        if method not in ("GET", "HEAD"):
            return method, _text(HTTPStatus.METHOD_NOT_ALLOWED, "method not allowed")
        split = (field.partition(":") for field in fields)
        named = [(name.lower(), value.strip()) for name, _, value in split]
        accepted = ",".join(value for name, value in named if name == "accept")
        hosts = [value for name, value in named if name == "host"]
        return method, await route(Asked(accepted, hosts[0] if len(hosts) == 1 else ""))

    async def _html(self, asked: Asked) -> Answer:
        """The page; for a client that means this machine."""
        if self._page is None or not is_local(asked.host):
            return _text(HTTPStatus.MISDIRECTED_REQUEST, "the page is for this machine alone")
        return Answer(
            HTTPStatus.OK, "text/html; charset=utf-8", self._page.html, self._page.headers
        )

    async def _events(self, asked: Asked) -> Answer:
        """What the page shows, as it changes."""
        if self._page is None or not is_local(asked.host):
            return _text(HTTPStatus.MISDIRECTED_REQUEST, "the page is for this machine alone")
        return Answer(
            HTTPStatus.OK, "text/event-stream", b"", self._page.headers, self._page.events()
        )

    async def _live(self, asked: Asked) -> Answer:
        """Whoever is answered at all sees the event loop turn."""
        return _text(HTTPStatus.OK, "ok")

    async def _readiness(self, asked: Asked) -> Answer:
        reason = await self._ready() if self._ready else ""
        return _text(HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK, reason or "ok")

    async def _metrics(self, asked: Asked) -> Answer:
        """The registry in the format that the client asks for: OpenMetrics or text."""
        encode, content_type = choose_encoder(asked.accept)
        return Answer(HTTPStatus.OK, content_type, encode(self._registry))


def _text(status: HTTPStatus, text: str) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", f"{text}\n".encode())


def _head(answer: Answer) -> bytes:
    lines = [
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
        f"Date: {formatdate(usegmt=True)}",
        f"Content-Type: {answer.content_type}",
        *([] if answer.stream else [f"Content-Length: {len(answer.body)}"]),
        "Connection: close",
        *(f"{name}: {value}" for name, value in answer.headers),
    ]
    if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("Allow: GET, HEAD")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
