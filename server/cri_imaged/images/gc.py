"""Garbage collection: what no image, view or lease needs goes, rows first, files after."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from dataclasses import asdict

import structlog

from cri_imaged.disk import on_disk
from cri_imaged.images.events import Events, GarbageCollected
from cri_imaged.images.stores import Stores
from cri_imaged.images.volume import Volume
from cri_imaged.limits import Limits
from cri_imaged.metadata import garbage, leases
from cri_imaged.metadata.garbage import Garbage
from cri_imaged.oci.digest import Digest
from cri_imaged.shielding import to_the_end

log = structlog.get_logger()


class GarbageCollector:
    """Collects when asked, and in the background when something was given up."""

    def __init__(self, stores: Stores, limits: Limits, disk: Volume, events: Events) -> None:
        self._events = events
        self._stores = stores
        self._disk = disk
        self._limits = limits
        self._wanted = asyncio.Event()
        self.quiet = asyncio.Lock()
        """Held while a collection runs: whoever holds it sees rows and files in agreement."""

    def trigger(self) -> None:
        """Collect soon, in the background."""
        self._wanted.set()

    async def run(self) -> None:
        """The background task: collects whenever triggered, and hourly what expired."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(3600):
                    await self._wanted.wait()
            self._wanted.clear()
            try:
                await self.collect()
            except Exception:
                log.exception("garbage collection failed; it is tried again later")

    async def collect_now(self, *, resumable: bool) -> GarbageCollected:
        """Collect, and wait until the disk space is back. Where space is short, what unfinished
        pulls left behind goes too."""
        short = await on_disk(self._disk.is_short)
        collected = await self.collect(resumable=resumable or short)
        await self._stores.trash.drain()
        return collected

    async def remove(self, image_id: Digest, handler: str) -> None:
        """Forget an image, and remove what only it needed; where space is short, all that nothing
        needs, and what unfinished pulls left behind."""
        short = await on_disk(self._disk.is_short)
        async with self.quiet:
            await to_the_end(self._remove(image_id, handler))
        if short:
            await self.collect(resumable=True)

    async def collect(self, *, resumable: bool = False) -> GarbageCollected:
        """Remove what nothing needs; with `resumable` also what unfinished pulls left behind."""
        async with self.quiet:
            # Rows that are gone while their files stay would be a leak until the next start.
            return await to_the_end(self._collect(resumable))

    async def _remove(self, image_id: Digest, handler: str) -> None:
        swept = await self._stores.database.write(
            lambda db: garbage.sweep_image(db, image_id, handler), durable=True
        )
        await self._reclaim(swept)
        self._tell(GarbageCollected(len(swept.blobs), swept.snapshot_count, swept.bytes))

    async def _collect(self, resumable: bool) -> GarbageCollected:
        max_seconds = 0.0 if resumable else self._limits.resumable_seconds
        limit = self._limits.resumable_bytes
        allowed = await on_disk(lambda: self._disk.resumable_bytes(limit))
        max_bytes = 0 if resumable else allowed

        def sweep(db: sqlite3.Connection) -> Garbage:
            leases.expire(db, max_seconds=max_seconds)
            leases.shrink(db, max_bytes=max_bytes)
            return garbage.sweep(db)

        swept = await self._stores.database.write(sweep, durable=True)
        partial, partial_bytes = await self._stores.content.drop_ingests(
            max_seconds=max_seconds, max_bytes=max_bytes
        )
        await self._reclaim(swept)
        collected = GarbageCollected(
            blobs=len(swept.blobs) + partial,
            snapshots=swept.snapshot_count,
            bytes=swept.bytes + partial_bytes,
        )
        self._tell(collected)
        return collected

    async def _reclaim(self, swept: Garbage) -> None:
        await self._stores.content.reclaim(swept.blobs)
        for name, tokens in swept.snapshots.items():
            await self._stores.snapshotters[name].reclaim(tokens)

    def _tell(self, collected: GarbageCollected) -> None:
        self._events.publish(collected)
        if collected.blobs or collected.snapshots:
            log.info("garbage collected", **asdict(collected))
