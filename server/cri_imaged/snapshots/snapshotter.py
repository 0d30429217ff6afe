"""Snapshots as rows, leases and places. What is in a place is its backend's.

What a row promises is on disk before the row says so; rows go before their places do.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from cri_imaged.disk import on_disk
from cri_imaged.errors import InvalidRequestError, NotFoundError
from cri_imaged.metadata import layer_digests, snapshots, views
from cri_imaged.metadata import provenance as provenances
from cri_imaged.metadata.database import Database
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import (
    Applied,
    Claim,
    Lease,
    Mount,
    Provenance,
    SnapshotInfo,
    SnapshotToken,
    Target,
    Trash,
    Usage,
    Verdict,
    View,
)
from cri_imaged.shielding import to_the_end
from cri_imaged.snapshots.attachments import Attachments
from cri_imaged.snapshots.backend import Backend, Sealed
from cri_imaged.snapshots.comparing import compare
from cri_imaged.snapshots.losses import Losses
from cri_imaged.snapshots.measuring import disk_usage
from cri_imaged.snapshots.places import Places, delete
from cri_imaged.snapshots.records import Records
from cri_imaged.snapshots.runtimes import StoredRuntimeSnapshots
from cri_imaged.snapshots.sealing import Seals
from cri_imaged.snapshots.stored import SnapshotRows
from cri_imaged.snapshots.tasks import Check, Locks, Threads
from cri_imaged.snapshots.views import Views


class StoredSnapshotter(SnapshotRows):
    """See `ports.Snapshotter`."""

    remote = False

    def __init__(
        self, backend: Backend, root: Path, database: Database, trash: Trash, reserve: int = 0
    ) -> None:
        """Keep snapshots under `root`, the daemon's root directory, on whose file system `trash`
        is, and of which seals leave `reserve` bytes free."""
        super().__init__(backend.name, database)
        self.directory = root / "snapshots" / backend.name
        self._backend = backend
        self._places = Places(self.directory, trash)
        self._locks = Locks()
        self._threads = Threads()
        self._seals = Seals(backend, self._threads, reserve)
        self._records = Records(backend, self._places, database, self._threads)
        self._losses = Losses(backend, self._places, database, self._records)
        self._attachments = Attachments(backend, self._places, database, self._threads)
        self._views = Views(
            backend, self._places, database, self._losses, self._threads, self._attachments
        )

    # --- a snapshot comes into being ---------------------------------------------------------

    async def claim(self, claim: Claim, lease: Lease) -> bool:
        """See `ports.Snapshotter.claim`."""
        return False

    async def prepare(self, key: str, parent: Digest | None, lease: Lease) -> Target:
        """See `ports.Snapshotter.prepare`."""
        _refuse_empty(key)
        async with self._locks.hold(key):
            return await to_the_end(self._begin(key, lease), undo=lambda: self._drop(key))

    async def _begin(self, key: str, lease: Lease) -> Target:
        def begin(db: sqlite3.Connection) -> int:
            views.refuse_used(db, self.name, key)
            return snapshots.insert_active(db, self.name, key, lease)

        place = self._places.of(await self._database.write(begin))

        def make(check: Check) -> Target:
            self._places.make(place)
            return self._backend.prepare(place)

        try:
            return await self._threads.run(f"snapshot {key!r}", make)
        except BaseException:
            await self._drop(key)
            raise

    async def taken(self, target: Target) -> Usage:
        """See `ports.Snapshotter.taken`."""
        taken = self._seals.taken(target.directory)
        if taken is not None:
            return taken
        return await self._threads.run("usage", lambda check: disk_usage(target.directory, check))

    async def commit(
        self,
        chain_id: Digest,
        key: str,
        parent: Digest | None,
        applied: Applied,
        provenance: Provenance,
    ) -> Usage:
        """Seal `key` on top of `parent` and name it `chain_id`. See `ports.Snapshotter.commit`.

        Raises:
            NotFoundError: the key or the parent does not exist (any more).
            CorruptContentError: a hardlink's target is missing.
            LimitExceededError, NoSpaceError
        """
        async with self._locks.hold(key):
            try:
                plan = await to_the_end(self._plan(key, chain_id, parent, provenance))
                if plan.present:
                    return Usage(0, 0)
                sealed = await self._seal(plan.snapshot, plan.parents, applied)

                def name(db: sqlite3.Connection) -> int:
                    below = plan.parents[0] if plan.parents else None
                    named = snapshots.commit(db, plan.snapshot, chain_id, below, *sealed)
                    provenances.add(db, named, provenance)
                    if named == plan.snapshot and self._backend.one_file:
                        layer_digests.want(db, named)
                    return named

                await to_the_end(self._name(plan.snapshot, name))
                return sealed.usage
            except BaseException:
                await to_the_end(self._drop(key))
                raise

    async def _plan(
        self, key: str, chain_id: Digest, parent: Digest | None, provenance: Provenance
    ) -> _Plan:
        def plan(db: sqlite3.Connection) -> _Plan:
            snapshot = snapshots.active(db, self.name, key)
            if snapshot is None:
                raise NotFoundError(f"unfinished snapshot {key!r} does not exist")
            present = snapshots.committed(db, self.name, chain_id)
            if present is not None:
                # At once: were that one collected first, this one would be named unsealed.
                snapshots.give_way(db, snapshot, present)
                provenances.add(db, present, provenance)
                return _Plan(snapshot, True, [])
            return _Plan(snapshot, False, _parents(db, self.name, parent))

        made = await self._database.write(plan)
        if made.present:
            await self._throw_away([made.snapshot])
        return made

    async def _seal(self, snapshot: int, parents: Sequence[int], applied: Applied) -> Sealed:
        await self._losses.refuse(parents)
        place, below = self._places.of(snapshot), self._places.of_all(parents)
        return await self._seals.run(place, below, applied)

    async def _name(self, snapshot: int, name: Callable[[sqlite3.Connection], int]) -> None:
        if await self._database.write(name) != snapshot:
            await self._throw_away([snapshot])

    # --- what is known of it -----------------------------------------------------------------

    async def hold_chain(self, chain: Sequence[Digest], lease: Lease) -> list[SnapshotInfo]:
        """See `ports.Snapshotter.hold_chain`."""

        def hold(db: sqlite3.Connection) -> tuple[list[SnapshotInfo], list[int]]:
            held = snapshots.hold_chain(db, self.name, chain, lease)
            return held, _parents(db, self.name, held[-1].chain_id if held else None)

        while True:
            held, rows = await self._database.write(hold)
            if not await self._losses.look_at(rows):
                return held

    async def path(self, chain_id: Digest) -> Path:
        """See `ports.Snapshotter.path`."""
        return self._backend.layer(self._places.of(await self._require(chain_id)))

    async def _require(self, chain_id: Digest) -> int:
        return await self._database.read(
            lambda db: snapshots.require_committed(db, self.name, chain_id)
        )

    # --- views -------------------------------------------------------------------------------

    async def view(
        self, key: str, chain_id: Digest | None, *, writable: bool = False
    ) -> Sequence[Mount]:
        """See `ports.Snapshotter.view`.

        Raises:
            NotFoundError: the snapshot does not exist.
            InvalidRequestError: `key` is in use for something else, or empty.
            NoSpaceError
        """
        _refuse_empty(key)
        async with self._locks.hold(key):
            return await self._views.open(key, chain_id, writable=writable)

    async def views(self) -> list[View]:
        """See `ports.Snapshotter.views`. Opens none of them again."""
        return await self._views.all()

    def for_runtime(self, runtime: str, freed: Callable[[], object]) -> StoredRuntimeSnapshots:
        """The snapshots of a runtime, known by the name `runtime`, that stand on these. `freed` is
        called where one of these may be garbage now."""
        return StoredRuntimeSnapshots(
            runtime,
            self._backend,
            self._places,
            self._database,
            self._threads,
            self._attachments,
            freed,
        )

    # --- health ------------------------------------------------------------------------------

    async def write_listing(self, chain_id: Digest) -> None:
        """See `ports.Snapshotter.write_listing`."""
        try:
            await self._records.write(await self._require(chain_id))
        except (NotFoundError, OSError):
            if await self.info(chain_id) is not None:
                raise  # and else it was removed meanwhile

    async def write_digests(self) -> None:
        """See `ports.Snapshotter.write_digests`."""
        await self._records.write_wanted()

    async def verify(self, chain_id: Digest) -> Verdict:
        """See `ports.Snapshotter.verify`."""
        snapshot = await self._require(chain_id)
        return await self._still_of(await self._records.compare(snapshot), chain_id, snapshot)

    async def verify_by(self, chain_id: Digest, key: str, applied: Applied) -> Verdict:
        """See `ports.Snapshotter.verify_by`."""

        def find(db: sqlite3.Connection) -> tuple[int, list[int]]:
            again = snapshots.active(db, self.name, key)
            if again is None:
                raise NotFoundError(f"unfinished snapshot {key!r} does not exist")
            return again, snapshots.stack(db, snapshots.require_committed(db, self.name, chain_id))

        async with self._locks.hold(key):
            try:
                again, (snapshot, *parents) = await self._database.read(find)
                await self._seal(again, parents, applied)
                places = self._places.of(snapshot), self._places.of(again)
                verdict = await self._threads.run(
                    f"snapshot {chain_id}", lambda check: compare(self._backend, *places, check)
                )
                if verdict.state == "sound" and self._backend.one_file:
                    await self._records.write(snapshot)
                return await self._still_of(verdict, chain_id, snapshot)
            finally:
                await to_the_end(self._drop(key))

    async def _still_of(self, verdict: Verdict, chain_id: Digest, snapshot: int) -> Verdict:
        """What was seen of a snapshot that was removed meanwhile was its removal."""
        if verdict.difference and await self._require(chain_id) != snapshot:
            raise NotFoundError(f"{self.name} snapshot {chain_id} was removed meanwhile")
        return verdict

    async def reap(self) -> None:
        """See `ports.Snapshotter.reap`."""
        await self._losses.reap()
        await self._attachments.renew()

    async def notice_lost(self) -> None:
        """See `ports.Snapshotter.notice_lost`."""
        await self._losses.notice()

    async def give_up(self, chain_ids: Sequence[Digest]) -> None:
        """See `ports.Snapshotter.give_up`."""
        await self._losses.give_up(chain_ids)

    async def orphans(self) -> list[Path]:
        """See `ports.Snapshotter.orphans`."""
        return await self._losses.orphans()

    # --- the end -----------------------------------------------------------------------------

    async def remove(self, key: str) -> None:
        """See `ports.Snapshotter.remove`."""
        async with self._locks.hold(key):
            await to_the_end(self._drop(key))
            await to_the_end(self._views.remove(key))

    async def reclaim(self, tokens: Sequence[SnapshotToken]) -> None:
        """See `ports.Snapshotter.reclaim`."""
        kept = await self._database.read(lambda db: snapshots.existing(db, tokens))
        await self._throw_away([token for token in tokens if token not in kept])

    async def _drop(self, key: str) -> None:
        """Drop an unfinished snapshot. Its place may go first: no start keeps its row."""
        snapshot = await self._database.read(lambda db: snapshots.active(db, self.name, key))
        if snapshot is None:
            return
        await self._throw_away([snapshot])
        await delete(
            self._database, self._places, lambda db: snapshots.delete_active(db, self.name, key)
        )

    async def _throw_away(self, rows: Sequence[int]) -> None:
        await on_disk(lambda: self._places.throw_away(*self._places.of_all(rows)))


class _Plan(NamedTuple):
    snapshot: int
    present: bool
    """Whether the chain is there already; then the snapshot has given way to it."""
    parents: list[int]


def _parents(db: sqlite3.Connection, snapshotter: str, parent: Digest | None) -> list[int]:
    if parent is None:
        return []
    return snapshots.stack(db, snapshots.require_committed(db, snapshotter, parent))


def _refuse_empty(key: str) -> None:
    if not key:
        raise InvalidRequestError("a snapshot's key must not be empty")
