"""Starting up: from a configuration to stores that are locked, recovered, loaded and salvaged.

Used by a daemon, and by a check while no daemon runs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Container
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog

from cri_imaged import __version__
from cri_imaged.budget import MemoryBudget
from cri_imaged.config import Config
from cri_imaged.config.options import DecryptionOptions, ImageOptions
from cri_imaged.config.values import joined
from cri_imaged.content.store import FileContentStore
from cri_imaged.decryption.decrypter import NoDecrypter, NodeDecrypter
from cri_imaged.disk import on_disk
from cri_imaged.errors import ConfigError, WorkerDiedError
from cri_imaged.images.documents import StoredDocuments
from cri_imaged.images.events import Events
from cri_imaged.images.gc import GarbageCollector
from cri_imaged.images.health.durability import epoch
from cri_imaged.images.health.hiding import show_what_is_whole
from cri_imaged.images.health.rebuild import Rebuilder
from cri_imaged.images.health.recover import recover
from cri_imaged.images.health.salvage import Salvager, open_database
from cri_imaged.images.listeners import counting, write_log
from cri_imaged.images.pins import Pins
from cri_imaged.images.publishing import Publisher
from cri_imaged.images.pull.ready import ImageMaker
from cri_imaged.images.pull.space import Space
from cri_imaged.images.store import ImageStore
from cri_imaged.images.stores import Stores
from cri_imaged.images.transfers.transfers import Transfers
from cri_imaged.images.usage import UsageMeter
from cri_imaged.images.volume import Volume
from cri_imaged.layers.worker.pool import WorkerPool
from cri_imaged.limits import Limits
from cri_imaged.metadata import garbage
from cri_imaged.metadata import pins as pin_rows
from cri_imaged.metadata.database import Database
from cri_imaged.metadata.readiness import DamagedImage
from cri_imaged.mounting import mounts, overlay_obstacle
from cri_imaged.obs.metrics import Metrics
from cri_imaged.obs.worker_metrics import WorkerMetrics
from cri_imaged.ports import Applier, Decrypter, Snapshotter
from cri_imaged.process import background, locked
from cri_imaged.snapshots.backend import Backend
from cri_imaged.snapshots.erofs import ErofsBackend, erofs_obstacle
from cri_imaged.snapshots.layer_mounts import LayerMounts
from cri_imaged.snapshots.native import NativeBackend
from cri_imaged.snapshots.overlay import OverlayBackend
from cri_imaged.snapshots.proxies.client import ProxyClient
from cri_imaged.snapshots.proxies.gone import GoneProxy
from cri_imaged.snapshots.proxies.snapshotter import ProxySnapshotter
from cri_imaged.snapshots.snapshotter import StoredSnapshotter
from cri_imaged.snapshots.stale import stale_views
from cri_imaged.trash import Trash

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Started:
    """A store that was brought up, and what works on it without a registry."""

    stores: Stores
    default_snapshotter: str
    pins: Pins
    store: ImageStore
    events: Events
    metrics: Metrics
    publisher: Publisher
    applier: Applier
    transfers: Transfers
    maker: ImageMaker
    rebuilder: Rebuilder
    collector: GarbageCollector
    space: Space
    meter: UsageMeter
    budget: MemoryBudget
    decrypter: Decrypter


@asynccontextmanager
async def started(config: Config, *, offline: bool = False) -> AsyncIterator[Started]:
    """Bring the store of `config` up, and keep others off it while the context lasts. `offline`:
    nothing is given up for want of a key, as it may be another configuration than the daemon's.

    Raises:
        ConfigError: it cannot be used here; the message names the key.
    """
    options, limits = config.image, config.image.limits
    budget = MemoryBudget(limits.memory_bytes)
    lost = asyncio.Event()
    async with _stores(config, budget, lost, offline=offline) as stores:
        now = epoch(config.root)
        is_new = await recover(stores, now, unmounted=lambda views: stale_views(mounts(), views))
        pins = Pins(options.pins)
        pins.asked_for = await stores.database.read(pin_rows.names)
        store = ImageStore(stores.database, pins, options.runtime_platforms)
        await store.load()
        meter = UsageMeter(list(stores.snapshotters.values()), stores.database)
        await meter.measure()
        metrics = Metrics(__version__, config.metrics.containerd_names)
        events = Events()
        events.attach(counting(metrics))
        events.attach(write_log)
        publisher = Publisher(store, events)
        disk = Volume(config.root, options.disk_reserve)
        collector = GarbageCollector(stores, limits, disk, events)
        space = Space(disk, collector)
        decrypter = _decrypter(options.image_decryption, limits)
        async with (
            _pool(options, budget) as pool,
            background(
                _tell_confinement(pool),
                space.watch(),
                show_what_is_whole(lost, stores.database, publisher),
            ),
        ):
            WorkerMetrics(metrics.registry, lambda: pool.process)
            transfers = Transfers(stores, pool, limits, metrics.fetched, space.room_for)
            downloads = options.max_concurrent_downloads
            maker = ImageMaker(stores, transfers, publisher, space, decrypter, downloads)
            if is_new:
                await Salvager(stores, maker).run(now)
            yield Started(
                stores=stores,
                default_snapshotter=next(iter(stores.snapshotters)),
                pins=pins,
                store=store,
                events=events,
                metrics=metrics,
                publisher=publisher,
                applier=pool,
                transfers=transfers,
                maker=maker,
                rebuilder=Rebuilder(stores, maker, _home(config, stores)),
                collector=collector,
                space=space,
                budget=budget,
                meter=meter,
                decrypter=decrypter,
            )


def _decrypter(options: DecryptionOptions, limits: Limits) -> Decrypter:
    if options.key_model != "node":
        return NoDecrypter()
    return NodeDecrypter(options.keys_path, options.keyprovider_config, limits)


def _pool(options: ImageOptions, memory: MemoryBudget) -> WorkerPool:
    workers = options.max_concurrent_unpacks or max(2, len(os.sched_getaffinity(0)))
    reserve = options.disk_reserve
    return WorkerPool(options.limits, max_workers=workers, reserve=reserve, memory=memory)


async def _tell_confinement(pool: WorkerPool) -> None:
    try:
        by, not_by = await pool.confinement()
    except WorkerDiedError as error:
        log.error("no layer can be unpacked: no worker starts", error=str(error))
        return
    log.info("layer workers are confined", by=list(by), not_by=list(not_by))


@asynccontextmanager
async def _stores(
    config: Config, budget: MemoryBudget, lost: asyncio.Event, *, offline: bool
) -> AsyncIterator[Stores]:
    root = config.root
    with locked(root):
        database = await open_database(root / "metadata.db")
        trash = Trash(root / "trash")
        try:
            content = FileContentStore(root / "content", database, trash, lost.set)
            documents = StoredDocuments(content, budget, config.image.limits)
            kept = await database.read(garbage.snapshotters)
            async with _proxies(config, database) as proxies:
                own = await on_disk(lambda: _snapshotters(config, database, trash, kept))
                default = config.image.snapshotter
                first = {default: proxies[default]} if default in proxies else {}
                snapshotters: dict[str, Snapshotter] = {**first, **own, **proxies}
                gone = [name for name in kept if name not in snapshotters]
                if offline and gone:
                    raise ConfigError(
                        f"proxy_snapshotters.{gone[0]}: is missing, and layers of images are in "
                        "it: name the daemon's own configuration with --config"
                    )
                for name in gone:
                    log.warning(
                        "a proxy snapshotter is configured no more: its images are unpacked anew "
                        "elsewhere, or hidden until they are pulled where blobs are missing",
                        key=joined("proxy_snapshotters", name),
                    )
                    snapshotters[name] = GoneProxy(name, database, config.image.limits)
                yield Stores(database, content, snapshotters, trash, documents)
        finally:
            trash.close()
            await database.close()


@asynccontextmanager
async def _proxies(
    config: Config, database: Database
) -> AsyncIterator[dict[str, ProxySnapshotter]]:
    async with AsyncExitStack() as stack:
        proxies: dict[str, ProxySnapshotter] = {}
        for name, options in config.proxy_snapshotters.items():
            client = ProxyClient(name, options.address)
            stack.push_async_callback(client.close)
            proxies[name] = ProxySnapshotter(
                name, client, options.root, database, config.image.limits
            )
        yield proxies


def _home(config: Config, stores: Stores) -> Callable[[DamagedImage], Snapshotter]:
    """Where a damaged image is made anew: where it was, or, where that is gone, where a pull for
    its handler would make it."""

    def home(image: DamagedImage) -> Snapshotter:
        before = stores.snapshotters.get(image.snapshotter)
        if before is not None and not isinstance(before, GoneProxy):
            return before
        handler = config.image.runtime_platforms.get(image.handler)
        wanted = handler.snapshotter if handler is not None else ""
        return stores.snapshotters[wanted or next(iter(stores.snapshotters))]

    return home


def _snapshotters(
    config: Config, database: Database, trash: Trash, kept: Container[str]
) -> dict[str, Snapshotter]:
    """The default snapshotter first, then those of runtime handlers, then those of earlier runs
    (`kept` are the names of those with anything in them), whose images are still to be shown and
    collected."""
    root, limits = config.root, config.image.limits
    loops = config.image.erofs_loop_devices
    kinds: dict[str, Callable[[], Backend]] = {
        "overlay": lambda: OverlayBackend(root, limits),
        "native": lambda: NativeBackend(limits),
        "erofs": lambda: ErofsBackend(
            LayerMounts(config.state / "layers", limits.mounted_layers, loops=loops), limits
        ),
    }
    chosen = [config.image.snapshotter]
    chosen += [each.snapshotter for each in config.image.runtime_platforms.values()]
    obstacle = overlay_obstacle(root)
    if "overlay" in chosen and obstacle is not None:
        raise ConfigError(f"image.snapshotter: overlay cannot be used here: {obstacle}")
    if "erofs" in chosen:
        reason = obstacle or erofs_obstacle(root, loops=loops)
        if reason is not None:
            raise ConfigError(f"image.snapshotter: erofs cannot be used here: {reason}")
    default = config.image.snapshotter or _best_snapshotter(obstacle)
    wanted = [name for name in (default, *chosen) if name in kinds]
    stored = [name for name in kinds if name in kept or (root / "snapshots" / name).is_dir()]
    return {
        name: StoredSnapshotter(kinds[name](), root, database, trash, config.image.disk_reserve)
        for name in dict.fromkeys([*wanted, *stored])
    }


def _best_snapshotter(obstacle: str | None) -> str:
    if obstacle is None:
        return "overlay"
    log.info("snapshots are native: overlay does not work here", reason=obstacle)
    return "native"
