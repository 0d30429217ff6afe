"""The snapshots of a proxy: rows here, and what they stand for there.

A committed snapshot is named there by its chainID, one that is being made by its key, a view by
`view-` and its key. What bears our label there and has no row here is left over, and goes.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from cri_imaged.errors import (
    AlreadyExistsError,
    ImagedError,
    InvalidRequestError,
    NotFoundError,
    ProxyFailedError,
)
from cri_imaged.limits import Limits
from cri_imaged.metadata import provenance as provenances
from cri_imaged.metadata import snapshots, views
from cri_imaged.metadata.database import Database
from cri_imaged.metadata.snapshots import EMPTY_CHAIN
from cri_imaged.metadata.views import ViewRow
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import (
    Applied,
    Claim,
    DirectoryTarget,
    Lease,
    Mount,
    Provenance,
    Skipped,
    SnapshotInfo,
    SnapshotKind,
    SnapshotToken,
    Target,
    Usage,
    Verdict,
    View,
)
from cri_imaged.ports.runtimes import REF_LABEL
from cri_imaged.shielding import to_the_end
from cri_imaged.snapshots.backend import Sealed
from cri_imaged.snapshots.measuring import disk_usage
from cri_imaged.snapshots.overlay import seal_overlay
from cri_imaged.snapshots.proxies.client import ProxyClient
from cri_imaged.snapshots.proxies.leftovers import Leftovers, view_name
from cri_imaged.snapshots.proxies.mounts import Writable, judged, writable
from cri_imaged.snapshots.seal import DEFAULT_MODE, is_large
from cri_imaged.snapshots.stored import SnapshotRows
from cri_imaged.snapshots.tasks import Check, Locks, Threads

log = structlog.get_logger(__name__)


class ProxySnapshotter(SnapshotRows):
    """See `ports.Snapshotter`. What asks the proxy raises `ProxyFailedError` where it fails."""

    remote = True

    def __init__(
        self, name: str, client: ProxyClient, directory: Path, database: Database, limits: Limits
    ) -> None:
        """`directory`: below which everything is that the proxy gives as mounts."""
        super().__init__(name, database)
        self.directory = directory
        self._client = client
        self._limits = limits
        self._locks = Locks()
        self._leftovers = Leftovers(name, client, database, self._locks)
        self._threads = Threads()

    # --- a snapshot comes into being ---------------------------------------------------------

    async def claim(self, claim: Claim, lease: Lease) -> bool:
        """See `ports.Snapshotter.claim`."""
        chain_id, parent = claim.chain_id, claim.parent or ""
        key = f"extract-{uuid.uuid4().hex} {chain_id}"
        async with self._locks.hold(chain_id), self._locks.hold(key):
            if await self.info(chain_id) is not None:
                return False
            # What is left over of an earlier image may have come by other rights than these.
            await self._leftovers.remove(chain_id)
            try:
                await self._client.prepare(key, parent, {**claim.labels, REF_LABEL: chain_id})
            except AlreadyExistsError:
                pass
            else:
                await self._client.remove(key)
                return False
            await self._require_there(chain_id, parent)
            usage = await self._client.usage(chain_id)

            def keep(db: sqlite3.Connection) -> None:
                row = snapshots.insert_active(db, self.name, key, lease)
                below = snapshots.require_committed(db, self.name, parent) if parent else None
                named = snapshots.commit(db, row, chain_id, below, usage, Skipped())
                provenances.add(db, named, claim.provenance)

            await to_the_end(self._database.write(keep))
            return True

    async def prepare(self, key: str, parent: Digest | None, lease: Lease) -> Target:
        """See `ports.Snapshotter.prepare`."""

        def begin(db: sqlite3.Connection) -> None:
            views.refuse_used(db, self.name, key)
            snapshots.insert_active(db, self.name, key, lease)

        async with self._locks.hold(key):
            await to_the_end(self._database.write(begin), undo=lambda: self._drop(key))
            try:
                given = await self._client.prepare(key, parent or "")
                into = self._writable(given, parent)
                await self._threads.run("snapshot", lambda check: into.layer.chmod(DEFAULT_MODE))
            except BaseException:
                await to_the_end(self._drop(key))
                raise
        return DirectoryTarget(into.layer)

    async def taken(self, target: Target) -> Usage:
        """See `ports.Snapshotter.taken`."""
        return await self._threads.run("usage", lambda check: disk_usage(target.directory, check))

    async def commit(
        self,
        chain_id: Digest,
        key: str,
        parent: Digest | None,
        applied: Applied,
        provenance: Provenance,
    ) -> Usage:
        """See `ports.Snapshotter.commit`."""
        async with self._locks.hold(key), self._locks.hold(chain_id):
            try:
                if await self.info(chain_id) is None:
                    sealed = await self._seal(key, parent, applied)
                    await self._leftovers.remove(chain_id)
                    await self._client.commit(chain_id, key)
                    await self._require_there(chain_id, parent or "")
                else:
                    await self._leftovers.forget(key)
                    sealed = Sealed(Usage(0, 0), Skipped())  # of the one that is there is kept

                def name(db: sqlite3.Connection) -> None:
                    row = snapshots.active(db, self.name, key)
                    if row is None:
                        raise NotFoundError(f"unfinished snapshot {key!r} does not exist")
                    below = snapshots.require_committed(db, self.name, parent) if parent else None
                    named = snapshots.commit(db, row, chain_id, below, *sealed)
                    provenances.add(db, named, provenance)

                await to_the_end(self._database.write(name))
                return sealed.usage
            except BaseException:
                await to_the_end(self._drop(key))
                raise

    async def _seal(self, key: str, parent: Digest | None, applied: Applied) -> Sealed:
        into = self._writable(await self._client.mounts(key), parent)

        def seal(check: Check) -> Sealed:
            return seal_overlay(into.layer, into.lower, applied, check, self._limits)

        return await self._threads.run(f"snapshot {key!r}", seal, large=is_large(applied))

    async def _require_there(self, chain_id: Digest, parent: str) -> None:
        found = await self._client.stat(chain_id)
        if found is None or found.kind != SnapshotKind.COMMITTED or found.parent != parent:
            raise ProxyFailedError(
                f"proxy snapshotter {self.name}: says that it has layers {chain_id}, and shows "
                f"{'none' if found is None else 'others'} by that name"
            )

    # --- views -------------------------------------------------------------------------------

    async def view(
        self, key: str, chain_id: Digest | None, *, writable: bool = False
    ) -> Sequence[Mount]:
        """See `ports.Snapshotter.view`."""
        if not key:
            raise InvalidRequestError("a snapshot's key must not be empty")
        async with self._locks.hold(key), self._locks.hold(view_name(key)):
            before = await self._database.read(lambda db: views.find(db, self.name, key))

            def open_row(db: sqlite3.Connection) -> None:
                views.open_view(db, self.name, key, chain_id or EMPTY_CHAIN, writable=writable)

            await to_the_end(self._database.write(open_row))
            try:
                return await self._mounts(
                    view_name(key), chain_id, writable=writable, is_new=before is None
                )
            except BaseException:
                if before is None:
                    await to_the_end(self._release(key))
                raise

    async def _mounts(
        self, name: str, chain_id: Digest | None, *, writable: bool, is_new: bool
    ) -> Sequence[Mount]:
        begin = self._client.prepare if writable else self._client.view
        try:
            mounts = await begin(name, chain_id or "")
        except AlreadyExistsError:
            if is_new:  # what is left of another one, which could not be removed
                await self._leftovers.remove(name)
                mounts = await begin(name, chain_id or "")
            else:
                mounts = await self._client.mounts(name)
        return judged(mounts, self.directory, self.name)

    async def views(self) -> list[View]:
        """See `ports.Snapshotter.views`. One whose mounts the proxy does not tell has none."""
        rows = await self._database.read(lambda db: views.every(db, self.name))
        return [await self._describe(row) for row in rows]

    async def _describe(self, row: ViewRow) -> View:
        try:
            mounts = judged(
                await self._client.mounts(view_name(row.key)), self.directory, self.name
            )
        except ImagedError as error:
            log.warning("proxy snapshotter does not tell of a view", key=row.key, error=str(error))
            mounts = ()
        chain_id = Digest(row.chain_id) if row.chain_id else None
        return View(row.key, chain_id, row.writable, row.created, tuple(mounts))

    async def remove(self, key: str) -> None:
        """See `ports.Snapshotter.remove`."""
        async with self._locks.hold(key), self._locks.hold(view_name(key)):
            await to_the_end(self._drop(key))
            await to_the_end(self._release(key))

    async def _drop(self, key: str) -> None:
        if await self._database.read(lambda db: snapshots.active(db, self.name, key)) is None:
            return
        await self._database.write(lambda db: snapshots.delete_active(db, self.name, key))
        await self._leftovers.forget(key)

    async def _release(self, key: str) -> None:
        if await self._database.write(lambda db: views.delete(db, self.name, key)) is not None:
            await self._leftovers.forget(view_name(key))

    # --- health and the end ------------------------------------------------------------------

    async def hold_chain(self, chain: Sequence[Digest], lease: Lease) -> list[SnapshotInfo]:
        """See `ports.Snapshotter.hold_chain`."""
        while True:
            held = await self._database.write(
                lambda db: snapshots.hold_chain(db, self.name, chain, lease)
            )
            if not await self._lose([each.chain_id for each in held]):
                return held

    async def _lose(self, chain_ids: Sequence[Digest]) -> bool:
        """Give up those that the proxy does not have any more; whether there are any."""
        gone = [each for each in chain_ids if await self._client.stat(each) is None]
        if gone:
            await self.give_up(gone)
        return bool(gone)

    async def verify(self, chain_id: Digest) -> Verdict:
        """See `ports.Snapshotter.verify`. What a layer holds is the proxy's to verify."""
        if await self.info(chain_id) is None or await self._lose([chain_id]):
            return Verdict("missing", f"proxy snapshotter {self.name} does not have it any more")
        return Verdict("sound")

    async def verify_by(self, chain_id: Digest, key: str, applied: Applied) -> Verdict:
        """See `ports.Snapshotter.verify_by`."""
        await self.remove(key)
        return await self.verify(chain_id)

    async def write_digests(self) -> None:
        """See `ports.Snapshotter.write_digests`. Its files are another program's."""

    async def write_listing(self, chain_id: Digest) -> None:
        """See `ports.Snapshotter.write_listing`. There is none: see `verify`."""

    async def path(self, chain_id: Digest) -> Path:
        """See `ports.Snapshotter.path`."""
        raise NotFoundError(f"proxy snapshotter {self.name} shows layers as mounts alone")

    async def orphans(self) -> list[Path]:
        """See `ports.Snapshotter.orphans`. What is left over there is no directory of ours."""
        return []

    def for_runtime(self, runtime: str, freed: Callable[[], object]) -> None:
        """See `ports.Snapshotter.for_runtime`."""

    async def give_up(self, chain_ids: Sequence[Digest]) -> None:
        """See `ports.Snapshotter.give_up`."""

        def give_up(db: sqlite3.Connection) -> None:
            rows = (snapshots.committed(db, self.name, each) for each in chain_ids)
            snapshots.lose(db, [row for row in rows if row is not None])

        await self._database.write(give_up)

    async def notice_lost(self) -> None:
        """See `ports.Snapshotter.notice_lost`."""
        if known := [info.chain_id for info in await self.walk()]:
            there = {each.name for each in await self._client.list()}
            await self.give_up([each for each in known if each not in there])

    async def reap(self) -> None:
        """See `ports.Snapshotter.reap`. A proxy may come after us."""
        await self._database.write(lambda db: snapshots.delete_all_active(db, self.name))
        try:
            await self._leftovers.remove_all()
            await self.notice_lost()
        except ImagedError as error:
            log.warning("proxy snapshotter is not there", snapshotter=self.name, error=str(error))

    async def reclaim(self, tokens: Sequence[SnapshotToken]) -> None:
        """See `ports.Snapshotter.reclaim`."""
        try:
            await self._leftovers.remove_all()
        except ImagedError as error:
            log.warning(
                "proxy snapshotter keeps what is not needed",
                snapshotter=self.name,
                error=str(error),
            )

    def _writable(self, mounts: Sequence[Mount], parent: Digest | None) -> Writable:
        return writable(judged(mounts, self.directory, self.name), parent or "", self.name)
