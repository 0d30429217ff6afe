"""What both snapshotters share: rows, directories, leases, and their order.

A snapshot `n` is the directory `snapshots/NAME/n`, with the layer or tree in `fs`; what a view
needs of its own is in `snapshots/NAME/vn`. What a row promises is on disk before the row says so;
rows go before their directories do.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple, TypeVar

import structlog

from cri_imaged.errors import InvalidRequestError, NoSpaceError, NotFoundError
from cri_imaged.limits import Limits
from cri_imaged.metadata import images
from cri_imaged.metadata import snapshots as rows
from cri_imaged.metadata.database import Database
from cri_imaged.metadata.snapshots import ViewRow
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import (
    AlreadyPresent,
    Applied,
    DirectoryExtraction,
    Lease,
    Mount,
    SnapshotInfo,
    Usage,
    View,
)
from cri_imaged.snapshots.seal import DEFAULT_MODE
from cri_imaged.snapshots.tasks import Locks, Threads, refuse_full_disk, whole
from cri_imaged.trash import Trash

T = TypeVar("T")
log = structlog.get_logger(__name__)


class DirectorySnapshotter(ABC):
    """Snapshots that are directories. See `ports.Snapshotter`."""

    name: ClassVar[str]
    independent = True

    def __init__(self, root: Path, database: Database, trash: Trash, limits: Limits) -> None:
        """Keep snapshots under `root`, the daemon's root directory, on whose file system `trash`
        is."""
        self._directory = root / "snapshots" / self.name
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._database = database
        self._trash = trash
        self._limits = limits
        self._locks = Locks()
        self._threads = Threads()

    @abstractmethod
    def _seal(
        self, layer: Path, parents: Sequence[Path], applied: Applied, check: Callable[[], None]
    ) -> Usage:
        """Make of `layer`, applied alone, the snapshot on top of `parents` (topmost first).
        `check` raises where the work is to stop."""

    @abstractmethod
    def _build_view(self, view: Path, layers: Sequence[Path], check: Callable[[], None]) -> None:
        """Fill `view`, a directory of its own, for a writable view of `layers`."""

    @abstractmethod
    def _mounts(self, view: Path | None, layers: Sequence[Path]) -> Sequence[Mount]:
        """Mounts that show `layers` (topmost first): writable where there is a `view`."""

    async def prepare(
        self, key: str, parent: Digest | None, lease: Lease, labels: Mapping[str, str]
    ) -> DirectoryExtraction | AlreadyPresent:
        """Begin a snapshot under `key`, held by `lease`.

        Raises:
            InvalidRequestError: the key is in use, or empty.
            NotFoundError: the lease has ended.
        """
        if not key:
            raise InvalidRequestError("a snapshot's key must not be empty")
        async with self._locks.hold(key):
            layer = await whole(self._begin(key, lease, labels), undo=lambda: self._drop(key))
        return DirectoryExtraction(layer)

    async def _begin(self, key: str, lease: Lease, labels: Mapping[str, str]) -> Path:
        snapshot = await self._database.write(
            lambda sql: rows.insert_active(sql, self.name, key, lease, labels)
        )
        layer = self._layer(snapshot)
        try:
            layer.parent.mkdir(mode=0o700)
            layer.mkdir()
            layer.chmod(DEFAULT_MODE)
        except OSError as error:
            await self._drop(key)
            refuse_full_disk(error, f"snapshot {key!r}")
            raise
        return layer

    async def commit(
        self, chain_id: Digest, key: str, parent: Digest | None, applied: Applied
    ) -> None:
        """Seal `key` on top of `parent` and name it `chain_id`. A commit that fails or is
        cancelled drops the key; one whose chain is there already, too, but succeeds.

        Raises:
            NotFoundError: the key or the parent does not exist (any more).
            CorruptContentError: a hardlink's target is missing.
            UnsupportedContentError: more layers than can be mounted.
            LimitExceededError, NoSpaceError
        """

        async with self._locks.hold(key):
            try:
                plan = await whole(self._plan(key, chain_id, parent))
                if plan.present:
                    return
                await self._refuse_lost(plan.parents)
                usage = await self._threads.run(
                    f"snapshot {chain_id}",
                    lambda check: self._seal(
                        self._layer(plan.snapshot),
                        [self._layer(row) for row in plan.parents],
                        applied,
                        check,
                    ),
                )
                await whole(self._name(plan, chain_id, applied.diff_id, usage))
            except BaseException:
                await whole(self._drop(key))
                raise

    async def _plan(self, key: str, chain_id: Digest, parent: Digest | None) -> _Plan:
        plan = await self._database.write(lambda sql: _plan(sql, self.name, key, chain_id, parent))
        if plan.present:
            self._trash.put(self._place(plan.snapshot))
        return plan

    async def _name(self, plan: _Plan, chain_id: Digest, diff_id: Digest, usage: Usage) -> None:
        parent = plan.parents[0] if plan.parents else None
        named = await self._database.write(
            lambda sql: rows.commit(sql, plan.snapshot, chain_id, parent, diff_id, usage)
        )
        if not named:
            self._trash.put(self._place(plan.snapshot))

    async def info(self, chain_id: Digest) -> SnapshotInfo | None:
        """The committed snapshot, or None."""
        return await self._database.read(lambda sql: rows.info(sql, self.name, chain_id))

    async def usage(self, chain_id: Digest) -> Usage:
        """What this snapshot alone takes. Raises `NotFoundError`."""
        info = await self.info(chain_id)
        if info is None:
            raise NotFoundError(f"{self.name} snapshot {chain_id} does not exist")
        return info.usage

    async def walk(self) -> list[SnapshotInfo]:
        """Every committed snapshot, parents before their children."""
        return await self._database.read(lambda sql: rows.walk(sql, self.name))

    async def path(self, chain_id: Digest) -> Path:
        """The directory of a committed snapshot. Raises `NotFoundError`."""
        return self._layer(
            await self._database.read(lambda sql: rows.require_committed(sql, self.name, chain_id))
        )

    async def view(
        self, key: str, chain_id: Digest | None, *, writable: bool = False
    ) -> Sequence[Mount]:
        """Give out a snapshot, or an empty directory for no `chain_id`, as mounts.

        Raises:
            NotFoundError: the snapshot does not exist.
            InvalidRequestError: `key` is in use for something else, or empty.
            UnsupportedContentError: more layers than can be mounted.
            NoSpaceError
        """
        if not key:
            raise InvalidRequestError("a view's key must not be empty")
        async with self._locks.hold(key):
            before = await self._database.read(lambda sql: rows.find_view(sql, self.name, key))
            try:
                return await self._give_out(key, chain_id or rows.EMPTY_CHAIN, writable=writable)
            except BaseException:
                if before is None:
                    await whole(self._remove_view(key))
                raise

    async def _give_out(self, key: str, chain_id: str, *, writable: bool) -> Sequence[Mount]:
        def open_row(sql: sqlite3.Connection) -> tuple[ViewRow, list[int]]:
            view = rows.open_view(sql, self.name, key, chain_id, writable=writable)
            return view, rows.stack(sql, view.snapshot)

        view, stack = await whole(self._database.write(open_row))
        if chain_id != rows.EMPTY_CHAIN:
            await self._refuse_lost(stack)
        layers = [self._layer(row) for row in stack]
        return await self._threads.run(
            f"view {key!r}", lambda check: self._open_view(view, layers, check)
        )

    def _open_view(
        self, view: ViewRow, layers: Sequence[Path], check: Callable[[], None]
    ) -> Sequence[Mount]:
        if view.chain_id == rows.EMPTY_CHAIN:
            layers[0].mkdir(parents=True, exist_ok=True)
        if not view.writable:
            return self._mounts(None, layers)
        place = self._view_place(view.id)
        if not place.exists():
            unfinished = _unfinished(place)
            self._trash.put(unfinished)
            try:
                unfinished.mkdir(mode=0o700)
                self._build_view(unfinished, layers, check)
                unfinished.rename(place)
            except BaseException:
                self._trash.put(unfinished)
                raise
        return self._mounts(place, layers)

    async def views(self) -> list[View]:
        """Every view that was given out, oldest first, without opening it again."""

        def all_views(sql: sqlite3.Connection) -> list[tuple[ViewRow, list[int]]]:
            return [(view, rows.stack(sql, view.snapshot)) for view in rows.views(sql, self.name)]

        found = await self._database.read(all_views)
        return await self._threads.run(
            "views", lambda check: [self._describe(view, stack) for view, stack in found]
        )

    def _describe(self, view: ViewRow, stack: Sequence[int]) -> View:
        place = self._view_place(view.id) if view.writable else None
        return View(
            key=view.key,
            chain_id=Digest(view.chain_id) if view.chain_id else None,
            writable=view.writable,
            created=view.created,
            mounts=tuple(self._mounts(place, [self._layer(row) for row in stack])),
        )

    async def remove(self, key: str) -> None:
        """Remove an unfinished snapshot or a view. Removing what is not there succeeds."""
        async with self._locks.hold(key):
            await whole(self._drop(key))
            await whole(self._remove_view(key))

    async def _remove_view(self, key: str) -> None:
        view = await self._delete(lambda sql: rows.delete_view(sql, self.name, key))
        if view is not None:
            self._trash.put(self._view_place(view))

    async def reclaim(self, ids: Sequence[int]) -> None:
        """Move the directories of snapshots whose rows were deleted to the trash."""
        kept = await self._database.read(lambda sql: rows.existing(sql, ids))
        for snapshot in ids:
            if snapshot not in kept:
                self._trash.put(self._place(snapshot))

    async def reap(self) -> None:
        """Clear what a crash left. Called once, before anything else."""
        present = await asyncio.to_thread(lambda: set(os.listdir(self._directory)))

        def clear(sql: sqlite3.Connection) -> set[str]:
            rows.delete_all_active(sql, self.name)
            for view in rows.views(sql, self.name):
                if view.writable and self._view_place(view.id).name not in present:
                    rows.delete_view(sql, self.name, view.key)
            known = {str(snapshot) for snapshot in rows.every(sql, self.name)}
            known.update(self._view_place(view.id).name for view in rows.views(sql, self.name))
            return known

        known = await whole(self._database.write(clear, durable=True))
        for name in present - known:
            log.info("leftover of a snapshot goes to the trash", snapshotter=self.name, name=name)
            self._trash.put(self._directory / name)
        await self.notice_lost()

    async def notice_lost(self, chain: Sequence[Digest] | None = None) -> None:
        """Let go of committed snapshots (of `chain`, or all) whose directory somebody removed."""

        def candidates(sql: sqlite3.Connection) -> list[int]:
            if chain is None:
                return [row for row, chain_id in rows.every(sql, self.name).items() if chain_id]
            found = (rows.committed(sql, self.name, chain_id) for chain_id in chain)
            return [row for row in found if row is not None]

        await self._detach_lost(await self._database.read(candidates))

    async def orphans(self) -> list[Path]:
        """Directories that belong to no row."""
        present = await asyncio.to_thread(lambda: set(os.listdir(self._directory)))

        def known(sql: sqlite3.Connection) -> set[str]:
            # Pulls and builds of views that are under way own their directories, too.
            places = {self._place(snapshot) for snapshot in rows.all_ids(sql, self.name)}
            for view in rows.views(sql, self.name):
                places.add(self._view_place(view.id))
                places.add(_unfinished(self._view_place(view.id)))
            return {place.name for place in places}

        strays = present - await self._database.read(known)
        # A directory whose row went between the two looks is on its way to the trash.
        paths = [self._directory / name for name in sorted(strays)]
        return [path for path in paths if path.exists()]

    async def _refuse_lost(self, snapshots: Sequence[int]) -> None:
        lost = await self._detach_lost(snapshots)
        if lost:
            raise NotFoundError(
                f"{self.name} snapshot {lost[0]} is gone from disk: pull the image again"
            )

    async def _detach_lost(self, snapshots: Sequence[int]) -> list[str]:
        """Let go of committed snapshots whose directory is gone; returns what to call them."""
        lost = await asyncio.to_thread(
            lambda: {snapshot for snapshot in snapshots if not self._layer(snapshot).is_dir()}
        )
        if not lost:
            return []

        def detach(sql: sqlite3.Connection) -> dict[int, str]:
            chains = rows.every(sql, self.name)
            images.detach_snapshots(sql, lost)
            # A row that is gone by now was collected: its directory went for that.
            return {
                snapshot: chains[snapshot] or str(snapshot) for snapshot in lost & chains.keys()
            }

        chains = await whole(self._database.write(detach, durable=True))
        if chains:
            names = sorted(chains.values())
            log.error("snapshots are gone from disk", snapshotter=self.name, chain_ids=names)
        return [chains.get(snapshot, str(snapshot)) for snapshot in lost]

    async def _drop(self, key: str) -> None:
        """Drop an unfinished snapshot. Its directory may go first: no start keeps its row."""
        snapshot = await self._database.read(lambda sql: rows.active(sql, self.name, key))
        if snapshot is None:
            return
        self._trash.put(self._place(snapshot))
        await self._delete(lambda sql: rows.delete_active(sql, self.name, key))

    async def _delete(self, delete: Callable[[sqlite3.Connection], T]) -> T:
        """Delete rows; on a full disk, where that has no room, once the trash is empty."""
        try:
            return await self._database.write(delete, durable=True)
        except NoSpaceError:
            await self._trash.drain()
            return await self._database.write(delete, durable=True)

    def _place(self, snapshot: int) -> Path:
        return self._directory / str(snapshot)

    def _layer(self, snapshot: int) -> Path:
        return self._place(snapshot) / "fs"

    def _view_place(self, view: int) -> Path:
        return self._directory / f"v{view}"


def _unfinished(view: Path) -> Path:
    """Where a view's directory is while it is built."""
    return view.with_suffix(".new")


class _Plan(NamedTuple):
    snapshot: int
    present: bool
    """Whether the chain is there already; then the snapshot has given way to it."""
    parents: list[int]


def _plan(
    sql: sqlite3.Connection, snapshotter: str, key: str, chain_id: Digest, parent: Digest | None
) -> _Plan:
    snapshot = rows.active(sql, snapshotter, key)
    if snapshot is None:
        raise NotFoundError(f"unfinished snapshot {key!r} does not exist")
    present = rows.committed(sql, snapshotter, chain_id)
    if present is not None:
        # At once: were that one collected first, this one would be named without being sealed.
        rows.give_way(sql, snapshot, present)
        return _Plan(snapshot, True, [])
    if parent is None:
        return _Plan(snapshot, False, [])
    return _Plan(snapshot, False, rows.stack(sql, rows.require_committed(sql, snapshotter, parent)))
