"""What those see who watch a node: metrics, traces, and whether the daemon is ready."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from cri_imaged import __version__
from cri_imaged.config import Config
from cri_imaged.disk import on_disk
from cri_imaged.errors import ImagedError
from cri_imaged.images.figures import StoreMeter
from cri_imaged.images.history import PullHistory
from cri_imaged.images.overview import Overview
from cri_imaged.images.pull.progress import RunningPulls
from cri_imaged.images.tracing import tracing
from cri_imaged.images.volume import Volume
from cri_imaged.limits import METRIC_REGISTRIES, READY_SECONDS
from cri_imaged.metadata.database import Database
from cri_imaged.obs.http import MetricsServer
from cri_imaged.obs.metrics import Metrics
from cri_imaged.obs.page import Page
from cri_imaged.obs.tracing import exporting, is_wanted
from cri_imaged.process import background
from cri_imaged.registry.distribution import DistributionClient
from cri_imaged.starting import Started
from cri_imaged.unix_sockets import UnixSocket

log = structlog.get_logger()


@asynccontextmanager
async def monitored(
    config: Config,
    base: Started,
    running: RunningPulls,
    client: DistributionClient,
    history: PullHistory,
    why_not_ready: Callable[[], str],
) -> AsyncIterator[None]:
    """Keep metrics up to date, serve them, and export traces, while the context lasts. `client`
    knows for which registries hosts are configured; `why_not_ready` says what the node waits for.

    Raises:
        ConfigError: the address cannot be used.
    """
    metrics, period = base.metrics, config.image.stats_collect_period
    metrics.pulls.configure(config.metrics.registries)
    metrics.store.waiting(running.waiting)
    disk = Volume(config.root, config.image.disk_reserve)
    meter = StoreMeter(base.stores, disk, metrics.store.show)

    async def ready() -> str:
        if running.stopping:
            return "it stops"
        return await why_silent(base.stores.database) or why_not_ready()

    page = None
    if config.metrics.page:
        overview = Overview(running, history, base.events, lambda: meter.latest)
        page = await on_disk(lambda: Page(overview.watch))
    address, path = config.metrics.address, config.metrics.page_socket
    async with AsyncExitStack() as stack:
        if path is not None:
            owner = UnixSocket(path, "metrics.page_socket", 0o660, config.grpc.uid, config.grpc.gid)
            await stack.enter_async_context(
                MetricsServer(metrics.registry, owner, ready=ready, page=page)
            )
            page = None
        if address is not None:
            await stack.enter_async_context(
                MetricsServer(metrics.registry, address.host, address.port, ready, page=page)
            )
        await stack.enter_async_context(
            background(meter.run(period), _find(client, metrics, period))
        )
        if is_wanted(config.tracing.endpoint):
            exporter = await stack.enter_async_context(
                exporting(config.tracing.endpoint, __version__)
            )
            base.events.attach(tracing(exporter))
            running.traced = True
        yield


async def why_silent(database: Database) -> str:
    """Why the metadata database gives no answer; empty where it does."""
    try:
        async with asyncio.timeout(READY_SECONDS):
            await database.read(lambda db: db.execute("SELECT 1").fetchone())
    except TimeoutError:
        return f"the metadata database has not answered within {READY_SECONDS:.0f} s"
    except (ImagedError, sqlite3.Error) as error:
        return f"the metadata database fails: {error}"
    return ""


async def _find(client: DistributionClient, metrics: Metrics, period: float) -> None:
    """Let configured registries and their hosts have series of their own."""

    def read() -> tuple[set[str], set[str]]:
        registries = client.registries()
        known = [*sorted(metrics.pulls.named), *sorted(registries)][:METRIC_REGISTRIES]
        return registries, client.hosts(known)

    while True:
        try:
            registries, hosts = await on_disk(read)
            metrics.pulls.find(registries)
            metrics.hosts.find(hosts)
        except OSError as error:
            log.warning("the folders of registries cannot be listed", error=str(error))
        await asyncio.sleep(period)
