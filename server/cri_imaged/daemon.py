"""The one place that wires: from a configuration to a daemon that serves."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing

import structlog

from cri_imaged.config import Config
from cri_imaged.config.options import VerificationOptions
from cri_imaged.cri.convert import event_message
from cri_imaged.cri.names import ClientNames
from cri_imaged.errors import ConfigError, ImagedError
from cri_imaged.images.archives.exporter import Exporter
from cri_imaged.images.archives.importer import Importer
from cri_imaged.images.handlers import Handler, Handlers
from cri_imaged.images.health.check import Checker
from cri_imaged.images.health.discard import Discarder
from cri_imaged.images.health.durability import Durability
from cri_imaged.images.health.repair import Repairer
from cri_imaged.images.history import PullHistory
from cri_imaged.images.inspect import Inspector
from cri_imaged.images.pull.progress import RunningPulls
from cri_imaged.images.pull.puller import Aftermath, Puller, PullPolicy
from cri_imaged.images.pull.schema1 import Schema1Converter
from cri_imaged.images.remove import Remover
from cri_imaged.images.stores import Stores
from cri_imaged.images.verification.policy import Policy, Rule
from cri_imaged.images.verification.programs import Programs
from cri_imaged.images.verification.standing import Standing
from cri_imaged.images.verification.verifier import Demands, Verifier
from cri_imaged.images.views import Views
from cri_imaged.limits import Limits
from cri_imaged.linking import linked
from cri_imaged.monitoring import monitored
from cri_imaged.obs.log import set_level
from cri_imaged.obs.log_writer import LogWriter
from cri_imaged.obs.stalls import StallWatch
from cri_imaged.oci.platform import Platform
from cri_imaged.process import background, raise_descriptor_limit
from cri_imaged.registry.distribution import DistributionClient
from cri_imaged.reloading import Reloader
from cri_imaged.rpc.node.v1 import node_pb2
from cri_imaged.serving import UseCases, server_of
from cri_imaged.spool import Spools
from cri_imaged.starting import Started, started
from cri_imaged.systemd import extend_start, feed_watchdog, notify
from cri_imaged.upkeep import Upkeep, caps

log = structlog.get_logger()

STOP_GRACE = 10.0
"""Seconds that running RPCs have when the daemon is told to stop; pulls are cancelled after."""


async def serve(config: Config, log_writer: LogWriter, read: Callable[[], Config]) -> None:
    """Run the daemon until SIGTERM or SIGINT. `read` gives the configuration as its files are at
    the time: SIGHUP and our clients make the daemon take it over.

    Raises:
        ConfigError: the configuration cannot be used here; the message names the key.
    """
    # What the imports brought stays: the collector would look through all of it again and again.
    gc.freeze()
    raise_descriptor_limit()
    try:
        await _serve(config, log_writer, read)
    except asyncio.CancelledError:
        log.info("stopped before it served")


async def _serve(config: Config, log_writer: LogWriter, read: Callable[[], Config]) -> None:
    stop, hang_ups = asyncio.Event(), asyncio.Event()
    task = asyncio.current_task()
    assert task is not None
    # A start may verify blobs for long. It is given up at once: the next one does it all.
    _when_told_to_stop(task.cancel)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_ups.set)
    async with AsyncExitStack() as stack:
        async with background(extend_start()):
            parts = await stack.enter_async_context(use_cases(config))
        stack.enter_context(StallWatch(parts.metrics.registry))
        log_writer.register(parts.metrics.registry)
        runtimes = await stack.enter_async_context(
            linked(config, parts.base, _bringer(parts.puller))
        )
        upkeep = Upkeep(
            config.image, parts.base, parts.puller, parts.importer, parts.remover, runtimes
        )
        await upkeep.load()
        reloader = Reloader(config, read, _applier(config.image.limits, parts, upkeep))
        server = server_of(config, parts, runtimes, upkeep, reloader.reload)
        await stack.enter_async_context(
            monitored(
                config,
                parts.base,
                parts.running,
                parts.client,
                parts.history,
                upkeep.why_not_ready,
            )
        )
        await stack.enter_async_context(
            background(
                feed_watchdog(),
                reloader.follow(hang_ups),
                parts.collector.run(),
                parts.durability.run(),
                parts.rebuilder.run(),
                parts.checker.run(),
                parts.history.run(),
                parts.meter.run(config.image.stats_collect_period),
                *upkeep.work(),
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
        parts.running.stop()
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
    if repair:
        async with use_cases(config, offline=True) as parts:
            async for event in parts.checker.check(repair=True):
                yield event_message(event)
        return
    async with started(config, offline=True) as base:
        checker = _checker(base, None, _demands(config.image.verification))
        async for event in checker.check(repair=False):
            yield event_message(event)


@asynccontextmanager
async def use_cases(config: Config, *, offline: bool = False) -> AsyncIterator[UseCases]:
    """Build everything from the ground up; torn down in reverse. `offline`: as for `started`."""
    options, limits = config.image, config.image.limits
    async with AsyncExitStack() as stack:
        base = await stack.enter_async_context(started(config, offline=offline))
        spools = Spools(base.budget, config.root / "content")
        client = await stack.enter_async_context(_client(config, base, spools))
        client.traffic.configure(caps(options.bandwidth))
        running = RunningPulls(base.events)
        history = PullHistory(base.stores.database, base.store)
        base.events.attach(history.hear)
        demands = _demands(options.verification)
        await demands.check_keys()
        verifier = Verifier(demands, base.stores.documents, spools)
        with closing(_durability(config, base.stores)) as durability:
            puller = Puller(
                resolver=client,
                stores=base.stores,
                transfers=base.transfers,
                maker=base.maker,
                handlers=_handlers(config, base),
                running=running,
                aftermath=Aftermath(durability, base.meter),
                policy=PullPolicy(
                    limits,
                    trusts_store=options.trust_store,
                    progress_timeout=options.image_pull_progress_timeout or None,
                    verifier=verifier,
                    schema1=Schema1Converter(
                        base.stores, base.maker, base.applier, enabled=options.enable_schema1
                    ),
                ),
            )
            yield UseCases(
                base=base,
                client=client,
                names=ClientNames(limits, options.registry.aliases),
                store=base.store,
                events=base.events,
                running=running,
                puller=puller,
                remover=Remover(base.publisher, base.collector, base.meter),
                inspector=Inspector(base.stores, puller.handlers),
                views=Views(base.store, base.stores.snapshotters, base.collector),
                meter=base.meter,
                collector=base.collector,
                durability=durability,
                rebuilder=base.rebuilder,
                checker=_checker(base, puller, demands),
                demands=demands,
                importer=Importer(
                    base.stores, base.transfers, base.maker, base.space, base.collector, verifier
                ),
                exporter=Exporter(base.stores, base.store),
                history=history,
                metrics=base.metrics,
            )


def _client(config: Config, base: Started, spools: Spools) -> DistributionClient:
    return DistributionClient(
        config.image.registry,
        config.image.limits,
        spools=spools,
        counter=base.metrics.hosts,
    )


def _durability(config: Config, stores: Stores) -> Durability:
    root, options = config.root, config.image
    own = (each.directory for each in stores.snapshotters.values() if not each.remote)

    async def record() -> None:
        for snapshotter in stores.snapshotters.values():
            await snapshotter.write_digests()

    return Durability(
        stores.database,
        [root, root / "content", *own],
        wait=options.image_pull_with_sync_fs,
        discard=Discarder(stores).discard if options.discard_unpacked_layers else None,
        record=record,
    )


def _checker(base: Started, puller: Puller | None, demands: Demands) -> Checker:
    repairer = Repairer(base.stores, base.publisher, base.rebuilder, puller, base.collector)
    standing = Standing(demands, base.stores.database)
    return Checker(
        base.stores, base.applier, base.collector, repairer, standing, base.decrypter, base.events
    )


def _demands(options: VerificationOptions) -> Demands:
    rules = (Rule(each.match, each.require, tuple(each.keys)) for each in options.policy)
    programs = Programs(options.bin_dir, options.max_verifiers, options.per_verifier_timeout)
    return Demands(Policy(rules), programs)


def _applier(
    limits: Limits, parts: UseCases, upkeep: Upkeep
) -> Callable[[Config], Awaitable[None]]:
    async def apply(config: Config) -> None:
        demands = _demands(config.image.verification)
        await demands.check_keys()
        parts.client.configure(config.image.registry)  # what can fail comes first
        parts.names.aliases = config.image.registry.aliases
        parts.client.traffic.configure(caps(config.image.bandwidth))
        parts.base.pins.configure(config.image.pins)
        await upkeep.configure(config.image)
        limits.take_over(config.image.limits)
        parts.demands.policy, parts.demands.programs = demands.policy, demands.programs
        parts.metrics.pulls.configure(config.metrics.registries)
        set_level(config.debug.level)
        await parts.base.publisher.repinned()

    return apply


def _bringer(puller: Puller) -> Callable[[str], Awaitable[None]]:
    async def bring(name: str) -> None:
        try:
            await puller.pull(name)
        except ImagedError as error:
            log.warning("an image that a runtime needs is missing", image=name, error=str(error))

    return bring


def _handlers(config: Config, base: Started) -> Handlers:
    host, snapshotters = Platform.host(), base.stores.snapshotters
    default = base.default_snapshotter
    return Handlers(
        Handler("", host, snapshotters[default]),
        (
            Handler(name, wanted.platform or host, snapshotters[wanted.snapshotter or default])
            for name, wanted in config.image.runtime_platforms.items()
        ),
    )
