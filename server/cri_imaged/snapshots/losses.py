"""Rows and places that do not agree: after a crash, or where somebody removed files."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from pathlib import Path

import structlog

from cri_imaged.disk import on_disk
from cri_imaged.errors import NotFoundError
from cri_imaged.metadata import runtime_snapshots, snapshots, views
from cri_imaged.metadata.database import Database
from cri_imaged.oci.digest import Digest
from cri_imaged.shielding import to_the_end
from cri_imaged.snapshots.backend import Backend
from cri_imaged.snapshots.places import Places
from cri_imaged.snapshots.records import Records

log = structlog.get_logger(__name__)


class Losses:
    """Brings the rows and the places of one snapshotter into agreement."""

    def __init__(
        self, backend: Backend, places: Places, database: Database, records: Records
    ) -> None:
        self._records = records
        self._backend = backend
        self._places = places
        self._database = database

    async def reap(self) -> None:
        """See `ports.Snapshotter.reap`."""
        name = self._backend.name
        present = await on_disk(self._places.present)

        def clear(db: sqlite3.Connection) -> set[str]:
            snapshots.delete_all_active(db, name)
            for view in views.every(db, name):
                if view.writable and self._places.of_view(view.id).name not in present:
                    views.delete(db, name, view.key)
            runtime_snapshots.delete_unfinished(
                db, name, lambda row: self._places.of_runtime(row).name in present
            )
            places = self._places.of_all(snapshots.every(db, name))
            places += [self._places.of_view(view.id) for view in views.every(db, name)]
            rows = runtime_snapshots.with_places(db, name)
            places += [self._places.of_runtime(row) for row in rows]
            return {place.name for place in places}

        known = await to_the_end(self._database.write(clear, durable=True))
        leftovers = sorted(present - known)
        for leftover in leftovers:
            log.info("leftover of a snapshot goes to the trash", snapshotter=name, name=leftover)
        await on_disk(lambda: self._places.throw_away(*map(self._places.named, leftovers)))
        await self.notice()

    async def orphans(self) -> list[Path]:
        """See `ports.Snapshotter.orphans`."""
        present = await on_disk(self._places.present)

        def known(db: sqlite3.Connection) -> set[str]:
            # Pulls and builds of views that are under way own their places, too.
            places = self._places.of_all(snapshots.all_ids(db, self._backend.name))
            for view in views.every(db, self._backend.name):
                places.append(self._places.of_view(view.id))
            rows = runtime_snapshots.with_places(db, self._backend.name)
            places += [self._places.of_runtime(row) for row in rows]
            places += [self._places.unfinished(place) for place in places]
            return {place.name for place in places}

        strays = present - await self._database.read(known)
        # A place whose row went between the two looks is on its way to the trash.
        paths = [self._places.named(name) for name in sorted(strays)]
        return await on_disk(lambda: [path for path in paths if path.exists()])

    async def notice(self) -> None:
        """See `ports.Snapshotter.notice_lost`."""
        every = await self._database.read(lambda db: snapshots.every(db, self._backend.name))
        await self.look_at([row for row, chain_id in every.items() if chain_id])

    async def look_at(self, rows: Sequence[int]) -> bool:
        """Let go of those of these snapshots that are lost; whether there are any."""
        lost = await self._gone(rows) | await self._records.changed(rows)
        await self._let_go(lost)
        return bool(lost)

    async def give_up(self, chain: Sequence[Digest]) -> None:
        """See `ports.Snapshotter.give_up`."""
        name = self._backend.name

        def find(db: sqlite3.Connection) -> list[int]:
            found = (snapshots.committed(db, name, chain_id) for chain_id in chain)
            return [row for row in found if row is not None]

        await self._let_go(await self._database.read(find))

    async def refuse(self, stack: Sequence[int]) -> None:
        """Raise `NotFoundError` where one of these snapshots is gone, having let go of it."""
        gone = await self._gone(stack)
        if gone:
            chains = await self._let_go(gone)
            first = next(iter(gone))
            raise NotFoundError(
                f"{self._backend.name} snapshot {chains.get(first, first)} is gone from disk: "
                "pull the image again"
            )

    async def _gone(self, candidates: Collection[int]) -> set[int]:
        def look() -> set[int]:
            return {
                snapshot
                for snapshot in candidates
                if not self._backend.layer(self._places.of(snapshot)).exists()
            }

        return await on_disk(look) if candidates else set()

    async def _let_go(self, lost: Collection[int]) -> dict[int, str]:
        """Free the chain IDs of snapshots; returns what to call them."""
        if not lost:
            return {}

        def let_go(db: sqlite3.Connection) -> dict[int, str]:
            # A row that is gone by now was collected: its place went for that.
            every = snapshots.every(db, self._backend.name)
            snapshots.lose(db, lost)
            return {row: every[row] or str(row) for row in lost if row in every}

        chains = await to_the_end(self._database.write(let_go, durable=True))
        if chains:
            log.error(
                "snapshots are lost",
                snapshotter=self._backend.name,
                chain_ids=sorted(chains.values()),
            )
        return chains
