"""A proxy snapshotter that the configuration names no more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cri_imaged.limits import Limits
from cri_imaged.metadata import snapshots
from cri_imaged.metadata.database import Database
from cri_imaged.ports import SnapshotToken
from cri_imaged.snapshots.proxies.client import ProxyClient
from cri_imaged.snapshots.proxies.snapshotter import ProxySnapshotter


class GoneProxy(ProxySnapshotter):
    """Its layers are given up at the start, so that its images are made anew elsewhere; its views
    can be released. Nobody is asked: where it is configured again, what is left over there goes."""

    def __init__(self, name: str, database: Database, limits: Limits) -> None:
        super().__init__(name, ProxyClient(name, None), Path("/"), database, limits)

    async def reap(self) -> None:
        """See `ports.Snapshotter.reap`."""
        await self._database.write(lambda db: snapshots.delete_all_active(db, self.name))
        await self.give_up([info.chain_id for info in await self.walk()])

    async def notice_lost(self) -> None:
        """See `ports.Snapshotter.notice_lost`: all was given up."""

    async def reclaim(self, tokens: Sequence[SnapshotToken]) -> None:
        """See `ports.Snapshotter.reclaim`. Nothing of it can be reached."""
