"""What the mounts that were given out speak of is there as long as rows name it, and no longer."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import structlog

from cri_imaged.errors import LimitExceededError
from cri_imaged.metadata import runtime_snapshots, snapshots
from cri_imaged.metadata.database import Database
from cri_imaged.snapshots.backend import Backend
from cri_imaged.snapshots.places import Places
from cri_imaged.snapshots.tasks import Threads

log = structlog.get_logger(__name__)


class Attachments:
    """Those of one snapshotter. A row comes before what is attached for it, so that nobody else
    lets go of that."""

    def __init__(
        self, backend: Backend, places: Places, database: Database, threads: Threads
    ) -> None:
        self._backend = backend
        self._places = places
        self._database = database
        self._threads = threads
        self._one = asyncio.Lock()

    async def attach(self, stack: Sequence[Path]) -> None:
        """Let what mounts of `stack` speak of be there. Raises as `Backend.attach` does."""
        if self._backend.attaches:
            async with self._one:
                await self._threads.run("mounts", lambda check: self._backend.attach(stack))

    async def let_go(self) -> None:
        """Let go of what no row needs any more."""
        if self._backend.attaches:
            async with self._one:
                places = await self._database.read(self._needed)
                await self._threads.run("mounts", lambda check: self._backend.keep(places))

    async def renew(self) -> None:
        """At a start: what was attached before may be of another store, or of a disk that is gone.
        What cannot be attached is told, and asked for again by who needs it."""
        if not self._backend.attaches:
            return

        def attach(places: Sequence[Path]) -> None:
            self._backend.keep([])
            for place in places:
                if self._backend.layer(place).exists():
                    try:
                        self._backend.attach([place])
                    except (OSError, LimitExceededError) as error:
                        log.error("a layer cannot be mounted", place=str(place), error=str(error))

        async with self._one:
            places = await self._database.read(self._needed)
            await self._threads.run("mounts", lambda check: attach(places))

    def _needed(self, db: sqlite3.Connection) -> list[Path]:
        name = self._backend.name
        rows = runtime_snapshots.with_places(db, name)
        return [
            *self._places.of_all(snapshots.given_out(db, name)),
            *(self._places.of_runtime(row) for row in rows),
        ]
