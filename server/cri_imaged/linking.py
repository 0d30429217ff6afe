"""From the configuration to the runtimes that run our images: their links, and what they hold."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from cri_imaged.config import Config
from cri_imaged.config.options import ContainerdOptions, ContainersStorageOptions
from cri_imaged.cri.calls import Calls
from cri_imaged.cri.snapshots_server import SnapshotsServer
from cri_imaged.errors import ConfigError
from cri_imaged.obs.runtime_metrics import RuntimeMetrics, RuntimesMetrics
from cri_imaged.ports import Runtime, RuntimeLink, RuntimeSnapshots, SnapshotKind
from cri_imaged.process import background
from cri_imaged.runtimes.containerd.client import Containerd
from cri_imaged.runtimes.containerd.leftovers import Leftovers
from cri_imaged.runtimes.containerd.link import ContainerdLink
from cri_imaged.runtimes.containerd.registration import Plugin, Registration
from cri_imaged.runtimes.containers_storage.publication import Publication
from cri_imaged.runtimes.containers_storage.store import AdditionalStore
from cri_imaged.runtimes.images import ImageReader
from cri_imaged.starting import Started

CRI_NAMESPACE = "k8s.io"
"""containerd's CRI plugin has no other."""
STOP_SECONDS = 2.0

Bring = Callable[[str], Awaitable[None]]


class RunningLink(RuntimeLink, Protocol):
    """A link that has work of its own."""

    async def run(self) -> None:
        """Keep the runtime in line until it is cancelled."""
        ...


@dataclass(frozen=True, slots=True)
class _Linked:
    link: RunningLink
    snapshots: dict[str, RuntimeSnapshots]


@asynccontextmanager
async def linked(config: Config, base: Started, bring: Bring) -> AsyncIterator[dict[str, Runtime]]:
    """Keep the runtimes of `config` in line while the context lasts; gives them by name. `bring`
    has an image pulled that a runtime cannot do without.

    Raises:
        ConfigError: one of them cannot be served here.
    """
    options = config.runtime
    reader = ImageReader(
        base.stores.database,
        base.stores.content,
        config.image.limits,
        base.pins.holds,
        [each.name for each in base.stores.snapshotters.values() if not each.remote],
    )
    metrics = RuntimesMetrics(base.metrics.registry)
    found: list[_Linked] = []
    async with AsyncExitStack() as stack:
        if options.containerd is not None:
            containerd = _containerd(
                config, options.containerd, base, reader, metrics.of(ContainerdLink.name), bring
            )
            await _refuse_a_moved_plugin(config, containerd.snapshots)
            found.append(containerd)
            base.meter.watch(containerd.snapshots)
            server = SnapshotsServer(
                options.snapshots_address,
                _plugins(options.containerd, containerd.snapshots),
                Calls(base.metrics),
            )
            await server.start()
            stack.push_async_callback(server.stop, STOP_SECONDS)
        if options.containers_storage is not None:
            found.append(
                _containers_storage(
                    options.containers_storage, base, reader, metrics.of(Publication.name)
                )
            )
        for each in found:
            base.publisher.attach(each.link)
        runtimes = await _unconfigured(base)
        runtimes |= {each.link.name: Runtime(each.link, each.snapshots) for each in found}
        await stack.enter_async_context(background(*(each.link.run() for each in found)))
        yield runtimes


def _snapshots(base: Started, runtime: str) -> dict[str, RuntimeSnapshots]:
    found = {
        name: snapshotter.for_runtime(runtime, base.collector.trigger)
        for name, snapshotter in base.stores.snapshotters.items()
    }
    return {name: snapshots for name, snapshots in found.items() if snapshots is not None}


async def _unconfigured(base: Started) -> dict[str, Runtime]:
    """Those of earlier runs that hold something."""
    return {
        runtime: Runtime(None, _snapshots(base, runtime))
        for snapshotter in base.stores.snapshotters.values()
        for runtime in await snapshotter.runtimes()
    }


def _containerd(
    config: Config,
    options: ContainerdOptions,
    base: Started,
    reader: ImageReader,
    metrics: RuntimeMetrics,
    bring: Bring,
) -> _Linked:
    snapshots = _snapshots(base, ContainerdLink.name)
    plugins = {
        name: Plugin(plugin, snapshots[name])
        for plugin, name in zip(_plugins(options, snapshots), snapshots, strict=True)
    }
    client = Containerd(options.address, options.namespace)
    link = ContainerdLink(
        client,
        Registration(client, plugins, follow_cri=options.namespace == CRI_NAMESPACE),
        Leftovers(client, plugins, reader.chains),
        reader,
        metrics,
        required=[str(reference) for reference in config.image.required_images.values()],
        bring=bring,
    )
    return _Linked(link, snapshots)


async def _refuse_a_moved_plugin(config: Config, snapshots: Mapping[str, RuntimeSnapshots]) -> None:
    """containerd knows snapshots by the plugin's name, and has those removed that a plugin shows
    and it does not know: containers would lose their files where a name stood for another
    snapshotter than when they began."""
    default, *others = snapshots
    if await snapshots[default].list():
        return
    configured = {each.snapshotter for each in config.image.runtime_platforms.values()}
    for name in others:
        held = [
            each for each in await snapshots[name].list() if each.kind != SnapshotKind.COMMITTED
        ]
        if held and name not in configured:
            raise ConfigError(
                f"image.snapshotter: is {default} now, and {len(held)} snapshots of containerd's "
                f"containers stand in {name}: set it to {name}, drain the node, stop containerd, "
                "and change it after `cri-imaged runtime forget containerd`"
            )


def _plugins(
    options: ContainerdOptions, snapshots: dict[str, RuntimeSnapshots]
) -> dict[str, RuntimeSnapshots]:
    """By what containerd's configuration calls each; the default snapshotter is the first."""
    default = next(iter(snapshots))
    return {
        options.snapshotter if name == default else f"{options.snapshotter}-{name}": each
        for name, each in snapshots.items()
    }


def _containers_storage(
    options: ContainersStorageOptions,
    base: Started,
    reader: ImageReader,
    metrics: RuntimeMetrics,
) -> _Linked:
    overlay = base.stores.snapshotters.get("overlay")
    snapshots = _snapshots(base, Publication.name).get("overlay")
    if overlay is None or snapshots is None:
        raise ConfigError(
            "runtime.containers_storage: needs the overlay snapshotter, which this machine or "
            "image.snapshotter does not have"
        )
    link = Publication(
        AdditionalStore(options.path),
        options.graph_root,
        reader,
        overlay,
        snapshots,
        metrics,
    )
    return _Linked(link, {overlay.name: snapshots})
