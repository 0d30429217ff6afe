"""The one place that wires: from a configuration to a daemon that serves."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from cri_imaged import __version__
from cri_imaged.config import Config
from cri_imaged.content.store import FileContentStore
from cri_imaged.cri.convert import event_message
from cri_imaged.cri.image_service import ImageService
from cri_imaged.cri.interceptor import CallInterceptor
from cri_imaged.cri.node_service import NodeService
from cri_imaged.cri.runtime_service import RuntimeService
from cri_imaged.cri.server import CriServer
from cri_imaged.errors import ConfigError
from cri_imaged.images.airport import Airport
from cri_imaged.images.check import Checker
from cri_imaged.images.discard import Discarder
from cri_imaged.images.durability import Durability, epoch
from cri_imaged.images.gc import GarbageCollector
from cri_imaged.images.inspect import Inspector
from cri_imaged.images.progress import RunningPulls
from cri_imaged.images.pull import Handler, Puller
from cri_imaged.images.rebuild import Rebuilder
from cri_imaged.images.recover import recover
from cri_imaged.images.remove import Remover
from cri_imaged.images.salvage import Salvager, open_database
from cri_imaged.images.space import Space
from cri_imaged.images.store import ImageStore
from cri_imaged.images.usage import UsageMeter
from cri_imaged.images.views import Views
from cri_imaged.layers.pool import WorkerPool
from cri_imaged.metadata.database import Database
from cri_imaged.mounting import mounts, overlay_obstacle
from cri_imaged.obs.http import MetricsServer
from cri_imaged.obs.metrics import Metrics
from cri_imaged.oci.platform import Platform
from cri_imaged.ports import Snapshotter
from cri_imaged.process import background, locked, notify, raise_descriptor_limit
from cri_imaged.registry.client import DistributionClient
from cri_imaged.rpc.node.v1 import node_pb2
from cri_imaged.snapshots.native import NativeSnapshotter
from cri_imaged.snapshots.overlay import OverlaySnapshotter
from cri_imaged.snapshots.stale import stale_views
from cri_imaged.trash import Trash

log = structlog.get_logger()

STOP_GRACE = 10.0
"""Seconds that running RPCs have when the daemon is told to stop; pulls are cancelled after."""


async def serve(config: Config) -> None:
    """Run the daemon until SIGTERM or SIGINT.

    Raises:
        ConfigError: the configuration cannot be used here; the message names the key.
    """
    # What the imports brought stays: the collector would look through all of it again and again.
    gc.freeze()
    raise_descriptor_limit()
    try:
        await _serve(config)
    except asyncio.CancelledError:
        log.info("stopped before it served")


async def _serve(config: Config) -> None:
    stop = asyncio.Event()
    task = asyncio.current_task()
    assert task is not None
    # A start may verify blobs for long. It is given up at once: the next one does it all.
    _when_told_to_stop(task.cancel)
    async with AsyncExitStack() as stack:
        parts = await stack.enter_async_context(use_cases(config))
        server = _server(config, parts)
        if config.metrics.address is not None:
            address = config.metrics.address
            await stack.enter_async_context(
                MetricsServer(parts.metrics.registry, address.host, address.port)
            )
        await stack.enter_async_context(
            background(
                parts.collector.run(),
                parts.durability.run(),
                parts.rebuilder.run(),
                parts.checker.run(),
                parts.meter.run(config.image.stats_collect_period),
            )
        )
        await server.start()
        _when_told_to_stop(stop.set)
        parts.collector.trigger()
        notify("READY=1")
        log.info("serving", address=str(config.grpc.address), root=str(config.root))
        await stop.wait()
        log.info("stopping", grace_seconds=STOP_GRACE)
        notify("STOPPING=1")
        parts.running.closing = True
        await server.stop(STOP_GRACE)


def _when_told_to_stop(do: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, do)


async def check(config: Config, *, repair: bool) -> AsyncIterator[node_pb2.CheckStoreResponse]:
    """Check the store while no daemon uses it; answers as the Node service does.

    Raises:
        ConfigError: a daemon does use it, or there is none.
    """
    if not config.root.is_dir():
        raise ConfigError(f"root: there is no store in {config.root}")
    async with use_cases(config) as parts:
        async for event in parts.checker.check(repair=repair):
            yield event_message(event)


@dataclass(frozen=True, slots=True)
class UseCases:
    """Everything a daemon is made of but its sockets."""

    store: ImageStore
    running: RunningPulls
    puller: Puller
    remover: Remover
    inspector: Inspector
    views: Views
    meter: UsageMeter
    collector: GarbageCollector
    durability: Durability
    rebuilder: Rebuilder
    checker: Checker
    metrics: Metrics


@asynccontextmanager
async def use_cases(config: Config) -> AsyncIterator[UseCases]:
    """Build everything from the ground up; torn down in reverse."""
    options, limits, root = config.image, config.image.limits, config.root
    async with AsyncExitStack() as stack:
        stack.enter_context(locked(root))
        database = await open_database(root / "metadata.db")
        stack.push_async_callback(database.close)
        trash = Trash(root / "trash")
        stack.callback(trash.close)
        content = FileContentStore(root / "content", database, trash)
        default = options.snapshotter or _best_snapshotter(root)
        snapshotters = _snapshotters(config, default, database, trash)
        now = epoch(root)
        is_new = await recover(
            database,
            content,
            snapshotters.values(),
            now,
            unmounted=lambda views: stale_views(mounts(), views),
        )

        pinned = {str(ref) for ref in options.pinned_images.values()}
        store = ImageStore(database, pinned, options.runtime_platforms)
        await store.load()
        meter = UsageMeter(root, list(snapshotters), database)
        await meter.measure()
        collector = GarbageCollector(database, content, snapshotters, limits, trash.drain)
        discarder = Discarder(database, content, snapshotters)
        durability = Durability(
            database,
            [root, root / "content", *(root / "snapshots" / name for name in snapshotters)],
            wait=options.image_pull_with_sync_fs,
            discard=discarder.discard if options.discard_unpacked_layers else None,
        )
        stack.callback(durability.close)
        metrics = Metrics(__version__)
        workers = options.max_concurrent_unpacks or max(2, len(os.sched_getaffinity(0)))
        pool = await stack.enter_async_context(WorkerPool(limits, max_workers=workers))
        timeout = options.image_pull_progress_timeout or None
        client = await stack.enter_async_context(
            DistributionClient(options.registry, limits, timeout)
        )
        airport = Airport(content, pool, database, limits, metrics.fetched)
        if is_new:
            salvager = Salvager(database, content, airport, snapshotters[default], store, limits)
            await salvager.run(now)
        running = RunningPulls()
        puller = Puller(
            resolver=client,
            airport=airport,
            handlers=_handlers(config, snapshotters, default),
            database=database,
            store=store,
            running=running,
            space=Space(root, options.disk_reserve),
            durability=durability,
            limits=limits,
            max_concurrent_downloads=options.max_concurrent_downloads,
        )
        rebuilder = Rebuilder(database, airport, snapshotters, store, limits)
        checker = Checker(
            database=database,
            content=content,
            snapshotters=snapshotters,
            applier=pool,
            rebuilder=rebuilder,
            puller=puller,
            collector=collector,
            trash=trash,
            store=store,
            limits=limits,
        )
        yield UseCases(
            store=store,
            running=running,
            puller=puller,
            remover=Remover(store, collector, meter),
            inspector=Inspector(content, limits),
            views=Views(store, snapshotters, collector),
            meter=meter,
            collector=collector,
            durability=durability,
            rebuilder=rebuilder,
            checker=checker,
            metrics=metrics,
        )


def _server(config: Config, parts: UseCases) -> CriServer:
    return CriServer(
        config.grpc.address,
        uid=config.grpc.uid,
        gid=config.grpc.gid,
        max_receive_bytes=config.grpc.max_recv_message_size,
        max_send_bytes=config.grpc.max_send_message_size,
        interceptor=CallInterceptor(parts.metrics),
        images=ImageService(
            puller=parts.puller,
            remover=parts.remover,
            store=parts.store,
            inspector=parts.inspector,
            meter=parts.meter,
            metrics=parts.metrics,
            limits=config.image.limits,
            max_send_bytes=config.grpc.max_send_message_size,
        ),
        runtime=RuntimeService(__version__, {"root": str(config.root)}),
        node=NodeService(parts.running, parts.views, parts.collector, parts.checker),
    )


def _snapshotters(
    config: Config, default: str, database: Database, trash: Trash
) -> dict[str, Snapshotter]:
    """The default snapshotter first, then those of runtime handlers, then those of earlier runs,
    whose images are still to be shown and collected."""
    root, limits = config.root, config.image.limits
    kinds = {"overlay": OverlaySnapshotter, "native": NativeSnapshotter}
    wanted = [default, *(p.snapshotter for p in config.image.runtime_platforms.values())]
    stored = [name for name in kinds if (root / "snapshots" / name).is_dir()]
    return {
        name: kinds[name](root, database, trash, limits)
        for name in dict.fromkeys([*filter(None, wanted), *stored])
    }


def _handlers(
    config: Config, snapshotters: dict[str, Snapshotter], default: str
) -> dict[str, Handler]:
    host = Platform.host()
    handlers = {"": Handler("", host, snapshotters[default])}
    for name, wanted in config.image.runtime_platforms.items():
        handlers[name] = Handler(
            name, wanted.platform or host, snapshotters[wanted.snapshotter or default]
        )
    return handlers


def _best_snapshotter(root: Path) -> str:
    obstacle = overlay_obstacle(root)
    if obstacle is None:
        return "overlay"
    log.info("snapshots are native: overlay does not work here", reason=obstacle)
    return "native"
