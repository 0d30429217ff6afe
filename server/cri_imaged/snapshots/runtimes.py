"""The snapshots of a runtime: names of its own for chains of ours, and containers' writable ones.

See `ports.runtimes.RuntimeSnapshots`. A container's snapshot has a place as a writable view has;
one that the runtime has filled and committed becomes a layer as it is.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cri_imaged.errors import AlreadyExistsError, InUseError, InvalidRequestError, NotFoundError
from cri_imaged.metadata import runtime_snapshots as rows
from cri_imaged.metadata.database import Database
from cri_imaged.metadata.runtime_snapshots import Owner, RuntimeRow, Stack
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Mount, RuntimeSnapshot, SnapshotKind, Usage
from cri_imaged.ports.runtimes import REF_LABEL
from cri_imaged.shielding import to_the_end
from cri_imaged.snapshots.attachments import Attachments
from cri_imaged.snapshots.backend import Backend
from cri_imaged.snapshots.idmaps import IdMaps, id_maps
from cri_imaged.snapshots.measuring import Measures
from cri_imaged.snapshots.places import Places
from cri_imaged.snapshots.tasks import Check, Locks, Threads


class StoredRuntimeSnapshots:
    """See `ports.RuntimeSnapshots`."""

    def __init__(
        self,
        runtime: str,
        backend: Backend,
        places: Places,
        database: Database,
        threads: Threads,
        attachments: Attachments,
        freed: Callable[[], object],
    ) -> None:
        """`freed` is called where something of ours may be garbage now."""
        self._owner = Owner(runtime, backend.name)
        self._backend = backend
        self._places = places
        self._database = database
        self._threads = threads
        self._attachments = attachments
        self._freed = freed
        self._locks = Locks()
        self._measures = Measures(threads)

    # --- what is known -----------------------------------------------------------------------

    async def stat(self, name: str) -> RuntimeSnapshot:
        """See `ports.RuntimeSnapshots.stat`."""
        return (await self._require(name)).info

    async def list(self) -> Sequence[RuntimeSnapshot]:
        """See `ports.RuntimeSnapshots.list`."""
        return [
            row.info for row in await self._database.read(lambda db: rows.every(db, self._owner))
        ]

    async def update(
        self, name: str, labels: Mapping[str, str], paths: Sequence[str] = ()
    ) -> RuntimeSnapshot:
        """See `ports.RuntimeSnapshots.update`."""

        def update(db: sqlite3.Connection) -> RuntimeSnapshot:
            row = rows.require(db, self._owner, name)
            rows.set_labels(db, row, _merged(row.info.labels, labels, paths))
            return rows.require(db, self._owner, name).info

        return await self._database.write(update)

    async def usage(self, name: str) -> Usage:
        """See `ports.RuntimeSnapshots.usage`. What is being written is walked, and as that may take
        long, less often than it is asked for."""
        row = await self._require(name)
        if row.usage is not None or not row.has_place:
            return row.usage or Usage(0, 0)
        layer = self._backend.layer(self._places.of_runtime(row.id))
        if row.info.kind != SnapshotKind.COMMITTED:
            return await self._measures.of(row.id, layer)
        usage = await self._measures.now(layer)
        await self._database.write(lambda db: rows.set_usage(db, row, usage))
        return usage

    async def _require(self, name: str) -> RuntimeRow:
        return await self._database.read(lambda db: rows.require(db, self._owner, name))

    # --- what a snapshot becomes -------------------------------------------------------------

    async def prepare(self, key: str, parent: str, labels: Mapping[str, str]) -> Sequence[Mount]:
        """See `ports.RuntimeSnapshots.prepare`."""
        if chain_id := labels.get(REF_LABEL):
            adopted = await self._database.write(
                lambda db: rows.adopt(db, self._owner, chain_id, parent, labels)
            )
            if adopted:
                raise AlreadyExistsError(f"snapshot {chain_id} is here already")
        return await self._begin(key, parent, SnapshotKind.ACTIVE, labels)

    async def adopt(self, chain: Sequence[Digest]) -> None:
        """See `ports.RuntimeSnapshots.adopt`."""
        if not chain:
            return
        top = chain[-1]
        if await self._database.read(lambda db: rows.find(db, self._owner, top)) is not None:
            return

        def adopt(db: sqlite3.Connection) -> None:
            parent = ""
            for chain_id in chain:
                if not rows.adopt(db, self._owner, chain_id, parent, {REF_LABEL: chain_id}):
                    raise NotFoundError(f"layers {chain_id} are not here")
                parent = chain_id

        await self._database.write(adopt)

    async def view(self, key: str, parent: str, labels: Mapping[str, str]) -> Sequence[Mount]:
        """See `ports.RuntimeSnapshots.view`."""
        return await self._begin(key, parent, SnapshotKind.VIEW, labels)

    async def mounts(self, key: str) -> Sequence[Mount]:
        """See `ports.RuntimeSnapshots.mounts`."""

        def find(db: sqlite3.Connection) -> tuple[RuntimeRow, Stack]:
            row = rows.require(db, self._owner, key)
            return row, rows.stack(db, row)

        row, stack = await self._database.read(find)
        if row.info.kind == SnapshotKind.COMMITTED:
            raise InUseError(f"{self._owner.runtime} snapshot {key!r} is committed")
        await self._attach(row, stack)
        return await self._threads.run(
            f"snapshot {key!r}", lambda check: self._mounts(row, self._whole(row, stack))
        )

    async def commit(self, name: str, key: str, labels: Mapping[str, str]) -> None:
        """See `ports.RuntimeSnapshots.commit`."""
        _refuse_empty(name)
        async with self._locks.hold(key):
            await self._database.write(lambda db: rows.commit(db, self._owner, name, key, labels))

    async def remove(self, name: str) -> None:
        """See `ports.RuntimeSnapshots.remove`."""
        async with self._locks.hold(name):
            await to_the_end(self._remove(name))
        self._freed()

    async def forget(self) -> None:
        """See `ports.RuntimeSnapshots.forget`."""
        gone = await self._database.write(
            lambda db: rows.delete_all(db, self._owner), makes_room=True
        )
        await to_the_end(self._throw_away(gone))
        self._freed()

    async def _begin(
        self, key: str, parent: str, kind: SnapshotKind, labels: Mapping[str, str]
    ) -> Sequence[Mount]:
        _refuse_empty(key)
        maps = id_maps(labels)
        root = maps.root if maps is not None else None

        def begin(db: sqlite3.Connection) -> tuple[RuntimeRow, Stack]:
            row = rows.insert(db, self._owner, key, parent, kind, labels)
            return row, rows.stack(db, row)

        async with self._locks.hold(key):
            row, stack = await to_the_end(
                self._database.write(begin), undo=lambda: self._remove(key)
            )
            try:
                mounts = await self._threads.run(
                    f"snapshot {key!r}",
                    lambda check: self._make(row, self._whole(row, stack), root, check),
                )
                await self._attach(row, stack)
                return mounts
            except BaseException:
                await to_the_end(self._remove(key))
                raise

    async def _attach(self, row: RuntimeRow, stack: Stack) -> None:
        await self._attachments.attach(self._of(stack) or [self._places.of_runtime(row.id)])

    def _make(
        self, row: RuntimeRow, stack: Sequence[Path], root: tuple[int, int] | None, check: Check
    ) -> Sequence[Mount]:
        def fill(place: Path) -> None:
            if row.info.kind == SnapshotKind.VIEW:
                self._backend.prepare(place)
            else:
                self._backend.prepare_view(place, stack, check)
            if root is not None and self._backend.layer(place).is_dir():
                os.chown(self._backend.layer(place), *root)

        if row.has_place:
            self._places.build(self._places.of_runtime(row.id), fill)
        return self._mounts(row, stack)

    def _mounts(self, row: RuntimeRow, stack: Sequence[Path]) -> Sequence[Mount]:
        place = self._places.of_runtime(row.id)
        if row.info.kind == SnapshotKind.VIEW:
            mounts = self._backend.mounts(None, stack or [place])
        else:
            mounts = self._backend.mounts(place, stack)
        return _mapped(mounts, id_maps(row.info.labels))

    def _whole(self, row: RuntimeRow, stack: Stack) -> Sequence[Path]:
        places = self._of(stack)
        if not all(self._backend.layer(place).exists() for place in places):
            raise NotFoundError(f"layers under snapshot {row.info.name!r} are gone from disk")
        return places

    def _of(self, stack: Stack) -> Sequence[Path]:
        own = [self._places.of_runtime(row) for row in stack.own]
        return own + self._places.of_all(stack.ours)

    async def _remove(self, name: str) -> None:
        row = await self._database.write(
            lambda db: rows.delete(db, self._owner, name), makes_room=True
        )
        await self._throw_away([row])

    async def _throw_away(self, gone: Sequence[RuntimeRow]) -> None:
        places = [self._places.of_runtime(row.id) for row in gone if row.has_place]
        for row in gone:
            self._measures.forget(row.id)
        await self._threads.run("removal", lambda check: self._places.throw_away(*places))
        await self._attachments.let_go()


def _mapped(mounts: Sequence[Mount], maps: IdMaps | None) -> Sequence[Mount]:
    if maps is None:
        return mounts
    return [replace(mount, options=(*maps.options, *mount.options)) for mount in mounts]


def _merged(
    old: Mapping[str, str], new: Mapping[str, str], paths: Sequence[str]
) -> Mapping[str, str]:
    """`old` labels with those that `paths` name taken from `new`; `new` where none is named."""
    if not paths:
        return new
    merged = dict(old)
    for path in paths:
        whole, dot, key = path.partition(".")
        if whole != "labels" or (dot and not key):
            raise InvalidRequestError(f"{path!r} of a snapshot cannot be changed, labels can")
        if not dot:
            merged = dict(new)
        elif key in new:
            merged[key] = new[key]
        else:
            merged.pop(key, None)
    return merged


def _refuse_empty(name: str) -> None:
    if not name:
        raise InvalidRequestError("a snapshot's name must not be empty")
