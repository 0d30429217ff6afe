"""What is in the store, in figures for those who watch a node."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable

import structlog

from cri_imaged.disk import on_disk
from cri_imaged.images.stores import Stores
from cri_imaged.images.volume import Volume
from cri_imaged.metadata import totals
from cri_imaged.obs.store_metrics import StoreFigures
from cri_imaged.ports import Usage

log = structlog.get_logger()


class StoreMeter:
    """Measures the store every few seconds."""

    def __init__(self, stores: Stores, disk: Volume, show: Callable[[StoreFigures], None]) -> None:
        self._stores = stores
        self._disk = disk
        self._show = show
        self.latest: StoreFigures | None = None

    async def measure(self) -> None:
        """Measure once, and show it."""

        def read(db: sqlite3.Connection) -> tuple[dict[str, int], dict[str, Usage]]:
            return totals.objects(db), totals.taken(db)

        objects, taken = await self._stores.database.read(read)
        sizes = {store or "blobs": usage.bytes for store, usage in taken.items()}
        (
            objects["partial_downloads"],
            sizes["partial_downloads"],
        ) = await self._stores.content.partial()
        objects["trash"] = self._stores.trash.waiting
        room = await on_disk(self._disk.room)
        self.latest = StoreFigures(objects, sizes, room + self._disk.reserve, self._disk.reserve)
        self._show(self.latest)

    async def run(self, period: float) -> None:
        """The background task: measures every `period` seconds."""
        while True:
            try:
                await self.measure()
            except Exception:
                log.exception("could not measure the store; it is tried again later")
            await asyncio.sleep(period)
