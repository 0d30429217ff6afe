"""The HTTP face: metrics for Prometheus, and a health check."""

from __future__ import annotations

import socket

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from cri_imaged.errors import ConfigError

PATHS = ("/metrics", "/v1/metrics")
"""Prometheus's habit and containerd's path."""


class MetricsServer:
    """Serves one registry's metrics over HTTP while it is entered."""

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        self._registry = registry
        self._host = host
        self._port = port
        app = web.Application()
        for path in PATHS:
            app.router.add_get(path, self._metrics)
        app.router.add_get("/healthz", _healthz)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)

    async def __aenter__(self) -> MetricsServer:
        """Bind and listen. Raises `ConfigError` where the address cannot be used."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host or None, self._port)
        try:
            await site.start()
        except (OSError, socket.gaierror) as error:
            await self._runner.cleanup()
            raise ConfigError(
                f"metrics.address: cannot listen on {self._host}:{self._port}: "
                f"{error.strerror or error}"
            ) from None
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._runner.cleanup()

    @property
    def port(self) -> int:
        """The port that it listens on, where the system chose one (port 0)."""
        port: int = self._runner.addresses[0][1]
        return port

    async def _metrics(self, request: web.Request) -> web.Response:
        """The registry in the format that the client asks for: OpenMetrics or text."""
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(
            body=encode(self._registry),
            headers={"Content-Type": content_type},
        )


async def _healthz(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")
