"""Garbage collection: what no image, view or lease needs goes, rows first, files after."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from cri_imaged.images.shielded import to_the_end
from cri_imaged.limits import Limits
from cri_imaged.metadata import images, leases
from cri_imaged.metadata.database import Database
from cri_imaged.metadata.images import Garbage
from cri_imaged.ports import ContentStore, Snapshotter

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection removed."""

    blobs: int
    snapshots: int
    bytes: int


class GarbageCollector:
    """Collects when asked, and in the background when something was given up."""

    def __init__(
        self,
        database: Database,
        content: ContentStore,
        snapshotters: Mapping[str, Snapshotter],
        limits: Limits,
        drain: Callable[[], Awaitable[None]],
    ) -> None:
        """`drain` waits until what was thrown away is gone from the disk."""
        self._database = database
        self._content = content
        self._snapshotters = snapshotters
        self._limits = limits
        self._drain = drain
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
                await asyncio.wait_for(self._wanted.wait(), timeout=3600)
            self._wanted.clear()
            try:
                await self.collect()
            except Exception:
                log.exception("garbage collection failed; it is tried again later")

    async def collect_now(self, *, resumable: bool) -> Collected:
        """Collect, and wait until the disk space is back."""
        collected = await self.collect(resumable=resumable)
        await self._drain()
        return collected

    async def collect(
        self,
        *,
        resumable: bool = False,
        first: Callable[[sqlite3.Connection], None] = lambda db: None,
    ) -> Collected:
        """Remove what nothing needs, after `first` in the same transaction; with `resumable` also
        what unfinished pulls left behind."""
        async with self.quiet:
            # Rows that are gone while their files stay would be a leak until the next start.
            return await to_the_end(self._collect(resumable, first))

    async def _collect(
        self, resumable: bool, first: Callable[[sqlite3.Connection], None]
    ) -> Collected:
        max_seconds = 0.0 if resumable else self._limits.resumable_seconds
        max_bytes = 0 if resumable else self._limits.resumable_bytes

        def sweep(db: sqlite3.Connection) -> Garbage:
            first(db)
            leases.expire(db, max_seconds=max_seconds)
            leases.shrink(db, max_bytes=max_bytes)
            return images.sweep(db)

        garbage = await self._database.write(sweep, durable=True)
        partial, partial_bytes = self._content.drop_ingests(
            max_seconds=max_seconds, max_bytes=max_bytes
        )
        await self._content.reclaim(garbage.blobs)
        for name, ids in garbage.snapshots.items():
            await self._snapshotters[name].reclaim(ids)
        collected = Collected(
            blobs=len(garbage.blobs) + partial,
            snapshots=sum(len(ids) for ids in garbage.snapshots.values()),
            bytes=garbage.bytes + partial_bytes,
        )
        if collected.blobs or collected.snapshots:
            log.info(
                "garbage collected",
                blobs=collected.blobs,
                snapshots=collected.snapshots,
                bytes=collected.bytes,
            )
        return collected
