"""What containerd holds of our snapshotters and need not, collected.

It asks us to remove a snapshot once, some time after it has forgotten it, and only where something
of that snapshotter was removed since it last did. What it forgot while we were down, or while it
was collecting already, would be held until it happens to remove something else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Set

import structlog

from cri_imaged.oci.digest import Digest
from cri_imaged.ports import RuntimeSnapshot
from cri_imaged.runtimes.containerd.client import Containerd, ContainerdError
from cri_imaged.runtimes.containerd.registration import Plugin

log = structlog.get_logger(__name__)

_QUIET_SECONDS = 60.0
"""Without a removal. While there are some, each has containerd look at all."""


class Leftovers:
    """Looks for them, and has containerd collect its garbage where there are some."""

    def __init__(
        self,
        client: Containerd,
        plugins: Mapping[str, Plugin],
        chains: Callable[[], Awaitable[Set[Digest]]],
    ) -> None:
        """`plugins`: by the name of our snapshotter. `chains`: the layers that images of ours
        stand on."""
        self._client = client
        self._plugins = plugins
        self._chains = chains
        self._removed: set[str] = set()
        self._wake = asyncio.Event()

    def removed(self, key: str) -> None:
        """containerd has forgotten a snapshot that it calls so, in whichever namespace."""
        self._removed.add(key)
        self._wake.set()

    async def run(self) -> None:
        """At first everything may have been forgotten unheard. Raises `ContainerdError` where
        containerd cannot be reached."""
        self._removed = _keys(await self._held())
        quiet = True
        while True:
            self._wake.clear()
            try:
                await self._look(quiet)
            except ContainerdError as error:
                if error.unreachable:
                    raise
                log.warning("containerd could not be made to collect", error=str(error))
            try:
                async with asyncio.timeout(_QUIET_SECONDS):
                    await self._wake.wait()
                quiet = False
            except TimeoutError:
                quiet = True

    async def _look(self, quiet: bool) -> None:
        held = await self._held()
        self._removed &= _keys(held)
        chains = await self._chains()
        # A container that is gone may have been the last to need layers that no image has.
        found = {
            plugin
            for plugin, each in held
            if each.chain_id and each.name.startswith(each.chain_id) and each.chain_id not in chains
        }
        if quiet:
            found |= {plugin async for plugin in self._forgotten(held)}
        if found:
            await self._client.collect(sorted(found))

    async def _forgotten(self, held: list[tuple[str, RuntimeSnapshot]]) -> AsyncIterator[str]:
        """The plugins of snapshots that containerd does not know any more, and let us keep."""
        for plugin, each in held:
            namespace, key = _parts(each)
            if not namespace or key not in self._removed:
                continue
            if await self._client.has_snapshot(plugin, key, namespace):
                self._removed.discard(key)
            else:
                log.warning("containerd forgot a snapshot without removing it", name=each.name)
                yield plugin

    async def _held(self) -> list[tuple[str, RuntimeSnapshot]]:
        """All that containerd has of us, by the name of the plugin."""
        return [
            (plugin.name, each)
            for plugin in self._plugins.values()
            for each in await plugin.snapshots.list()
        ]


def _keys(held: list[tuple[str, RuntimeSnapshot]]) -> set[str]:
    return {_parts(each)[1] for _, each in held}


def _parts(snapshot: RuntimeSnapshot) -> tuple[str, str]:
    """A namespace, and what it calls the snapshot, of `namespace/number/key`. Layers that were
    adopted belong to no namespace."""
    namespace, _, rest = snapshot.name.partition("/")
    _, slash, key = rest.partition("/")
    return (namespace, key) if slash else ("", snapshot.name)
