"""The one place that wires: from a configuration to a daemon that serves."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import structlog

from cri_imaged import __version__
from cri_imaged.config import Config
from cri_imaged.content.store import FileContentStore
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
from cri_imaged.mounting import overlay_obstacle
from cri_imaged.obs.http import MetricsServer
from cri_imaged.obs.metrics import Metrics
from cri_imaged.oci.platform import Platform
from cri_imaged.ports import Snapshotter
from cri_imaged.registry.client import DistributionClient
from cri_imaged.snapshots.native import NativeSnapshotter
from cri_imaged.snapshots.overlay import OverlaySnapshotter
from cri_imaged.trash import Trash

log = structlog.get_logger()

STOP_GRACE = 10.0
"""Seconds that running RPCs have when the daemon is told to stop; pulls are cancelled after."""


async def serve(config: Config) -> None:
    """Run the daemon until SIGTERM or SIGINT.

    Raises:
        ConfigError: the configuration cannot be used here; the message names the key.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with _running(config) as server:
        _notify("READY=1")
        log.info("serving", address=str(config.grpc.address), root=str(config.root))
        await stop.wait()
        log.info("stopping", grace_seconds=STOP_GRACE)
        _notify("STOPPING=1")
        await server.stop(STOP_GRACE)


@asynccontextmanager
async def _running(config: Config) -> AsyncIterator[CriServer]:
    """Everything a daemon is made of, from the ground up; torn down in reverse."""
    options, limits, root = config.image, config.image.limits, config.root
    async with AsyncExitStack() as stack:
        _make_directory(root)
        stack.enter_context(_locked(root))
        database, salvage = await open_database(root / "metadata.db")
        stack.push_async_callback(database.close)
        trash = Trash(root / "trash")
        stack.callback(trash.close)
        content = FileContentStore(root / "content", database, trash)
        default = options.snapshotter or _best_snapshotter(root)
        kinds = {"overlay": OverlaySnapshotter, "native": NativeSnapshotter}
        wanted = [default, *(p.snapshotter for p in options.runtime_platforms.values())]
        snapshotters: dict[str, Snapshotter] = {
            name: kinds[name](root, database, trash, limits)
            for name in dict.fromkeys([*filter(None, wanted), *_stored_snapshotters(root, kinds)])
        }
        discarder = Discarder(database, content, snapshotters)
        durability = Durability(
            database,
            [root, root / "content", *(root / "snapshots" / name for name in snapshotters)],
            wait=options.image_pull_with_sync_fs,
            discard=discarder.discard if options.discard_unpacked_layers else None,
        )
        stack.callback(durability.close)
        await recover(database, content, snapshotters.values(), epoch(root), salvage=salvage)

        store = ImageStore(database, {str(ref) for ref in options.pinned_images.values()})
        await store.load()
        meter = UsageMeter(root, list(snapshotters), database)
        await meter.measure()
        collector = GarbageCollector(database, content, snapshotters, limits, trash.drain)
        metrics = Metrics(__version__)
        workers = options.max_concurrent_unpacks or max(2, len(os.sched_getaffinity(0)))
        pool = await stack.enter_async_context(WorkerPool(limits, max_workers=workers))
        timeout = options.image_pull_progress_timeout or None
        client = await stack.enter_async_context(
            DistributionClient(options.registry, limits, timeout)
        )
        running = RunningPulls()
        airport = Airport(content, pool, database, limits, metrics.fetched)
        if salvage:
            await Salvager(database, content, airport, snapshotters[default], store, limits).run()
        rebuilder = Rebuilder(database, airport, snapshotters, store, limits)
        puller = Puller(
            resolver=client,
            content=content,
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
        server = CriServer(
            config.grpc.address,
            uid=config.grpc.uid,
            gid=config.grpc.gid,
            max_receive_bytes=config.grpc.max_recv_message_size,
            max_send_bytes=config.grpc.max_send_message_size,
            interceptor=CallInterceptor(metrics),
            images=ImageService(
                puller=puller,
                remover=Remover(store, collector, meter),
                store=store,
                inspector=Inspector(content, limits),
                meter=meter,
                metrics=metrics,
                limits=limits,
            ),
            runtime=RuntimeService(__version__, {"root": str(root), "snapshotter": default}),
            node=NodeService(running, Views(store, snapshotters, collector), collector, checker),
        )
        if config.metrics.address is not None:
            address = config.metrics.address
            await stack.enter_async_context(
                MetricsServer(metrics.registry, address.host, address.port)
            )
        await stack.enter_async_context(
            _background(collector.run(), durability.run(), meter.run(options.stats_collect_period))
        )
        await server.start()
        collector.trigger()
        yield server


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


def _stored_snapshotters(root: Path, kinds: dict[str, Any]) -> list[str]:
    """Snapshotters of earlier runs, whose images are still to be shown and collected."""
    return [name for name in kinds if (root / "snapshots" / name).is_dir()]


def _make_directory(root: Path) -> None:
    try:
        root.mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"root: cannot make {root}: {error.strerror}") from None


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """One daemon for each root. The lock dies with the process."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ConfigError(
            f"root: another daemon uses {root}; stop it or choose another root"
        ) from None
    finally:
        os.close(fd)


@asynccontextmanager
async def _background(*work: Any) -> AsyncIterator[None]:
    """Run tasks while the context lasts. One that ends by an error is a defect and is logged."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                log.error("background task failed", exc_info=result)


def _notify(state: str) -> None:
    """Tell systemd (sd_notify(3)), where it started us."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.sendto(state.encode(), address)
