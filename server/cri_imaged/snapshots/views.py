"""Snapshots given out as mounts, under rows that survive restarts."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from cri_imaged.metadata import snapshots, views
from cri_imaged.metadata.database import Database
from cri_imaged.metadata.snapshots import EMPTY_CHAIN
from cri_imaged.metadata.views import ViewRow
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Mount, View
from cri_imaged.shielding import to_the_end
from cri_imaged.snapshots.attachments import Attachments
from cri_imaged.snapshots.backend import Backend
from cri_imaged.snapshots.losses import Losses
from cri_imaged.snapshots.places import Places, delete
from cri_imaged.snapshots.tasks import Check, Threads


class Views:
    """The views of one snapshotter. Whoever calls is alone with the key."""

    def __init__(
        self,
        backend: Backend,
        places: Places,
        database: Database,
        losses: Losses,
        threads: Threads,
        attachments: Attachments,
    ) -> None:
        self._backend = backend
        self._places = places
        self._database = database
        self._losses = losses
        self._threads = threads
        self._attachments = attachments
        self._empty = asyncio.Lock()
        """Views of other keys want the snapshot of no layers, too."""

    async def open(self, key: str, chain_id: Digest | None, *, writable: bool) -> Sequence[Mount]:
        """See `ports.Snapshotter.view`. A view that was not there before is not there after a
        failure."""
        name = self._backend.name
        before = await self._database.read(lambda db: views.find(db, name, key))
        try:
            return await self._give_out(key, chain_id or EMPTY_CHAIN, writable=writable)
        except BaseException:
            if before is None:
                await to_the_end(self.remove(key))
            raise

    async def _give_out(self, key: str, chain_id: str, *, writable: bool) -> Sequence[Mount]:
        def open_row(db: sqlite3.Connection) -> tuple[ViewRow, list[int]]:
            view = views.open_view(db, self._backend.name, key, chain_id, writable=writable)
            return view, snapshots.stack(db, view.snapshot)

        view, rows = await to_the_end(self._database.write(open_row))
        stack = self._places.of_all(rows)
        if chain_id != EMPTY_CHAIN:
            await self._losses.refuse(rows)
        else:
            async with self._empty:
                await self._threads.run("empty snapshot", lambda check: self._make_empty(stack[0]))
        mounts = await self._threads.run(
            f"view {key!r}", lambda check: self._make(view, stack, check)
        )
        await self._attachments.attach(stack)
        return mounts

    def _make_empty(self, place: Path) -> None:
        if not self._backend.layer(place).exists():
            self._places.throw_away(place)
            self._places.make(place)
            self._backend.prepare(place)

    def _make(self, view: ViewRow, stack: Sequence[Path], check: Check) -> Sequence[Mount]:
        if not view.writable:
            return self._backend.mounts(None, stack)
        place = self._places.of_view(view.id)
        self._places.build(
            place, lambda unfinished: self._backend.prepare_view(unfinished, stack, check)
        )
        return self._backend.mounts(place, stack)

    async def all(self) -> list[View]:
        """See `ports.Snapshotter.views`."""

        def with_stacks(db: sqlite3.Connection) -> list[tuple[ViewRow, list[int]]]:
            return [
                (view, snapshots.stack(db, view.snapshot))
                for view in views.every(db, self._backend.name)
            ]

        found = await self._database.read(with_stacks)
        return await self._threads.run(
            "views", lambda check: [self._describe(view, rows) for view, rows in found]
        )

    def _describe(self, view: ViewRow, rows: Sequence[int]) -> View:
        place = self._places.of_view(view.id) if view.writable else None
        try:
            mounts = self._backend.mounts(place, self._places.of_all(rows))
        except FileNotFoundError:  # somebody has removed a layer: no reason not to start
            mounts = ()
        return View(
            key=view.key,
            chain_id=Digest(view.chain_id) if view.chain_id else None,
            writable=view.writable,
            created=view.created,
            mounts=tuple(mounts),
        )

    async def remove(self, key: str) -> None:
        """Take a view back. What is not there is done with."""
        view = await delete(
            self._database, self._places, lambda db: views.delete(db, self._backend.name, key)
        )
        if view is not None:
            await self._threads.run(
                "view", lambda check: self._places.throw_away(self._places.of_view(view))
            )
            await self._attachments.let_go()
