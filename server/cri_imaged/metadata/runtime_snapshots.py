"""Rows of the snapshots of runtimes. Each function runs inside a transaction of its caller's.

A row is adopted, where it stands for a snapshot of ours, or has a place of its own, where the
runtime writes. `snapshot` is what of ours it stands for, or stands on: held, as long as the row is
there, also where that snapshot was lost since.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from cri_imaged.errors import AlreadyExistsError, InUseError, InvalidRequestError, NotFoundError
from cri_imaged.metadata import snapshots
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import RuntimeSnapshot, SnapshotKind, Usage


class Owner(NamedTuple):
    """Whose rows: names of one runtime in one of our snapshotters."""

    runtime: str
    snapshotter: str


@dataclass(frozen=True, slots=True)
class RuntimeRow:
    """A row, with what it says of the snapshot."""

    id: int
    parent: int | None
    snapshot: int | None
    adopted: bool
    usage: Usage | None
    """What it takes alone, where that was measured."""
    info: RuntimeSnapshot

    @property
    def has_place(self) -> bool:
        """Whether something on disk is its own."""
        kind = self.info.kind
        return not self.adopted and (kind != SnapshotKind.VIEW or self.parent is None)


class Stack(NamedTuple):
    """What a row stands on, topmost first: the runtime's own below it, then ours."""

    own: list[int]
    ours: list[int]


def find(db: sqlite3.Connection, owner: Owner, name: str) -> RuntimeRow | None:
    """The snapshot `name`; None also where it stands for layers that were lost."""
    row = db.execute(f"{_SELECT} AND r.name = ?", (*owner, name)).fetchone()
    found = _row(row) if row is not None else None
    return None if found is None or _is_lost(found) else found


def require(db: sqlite3.Connection, owner: Owner, name: str) -> RuntimeRow:
    """As `find`. Raises `NotFoundError`."""
    found = find(db, owner, name)
    if found is None:
        raise NotFoundError(f"{owner.runtime} snapshot {name!r} does not exist")
    return found


def every(db: sqlite3.Connection, owner: Owner) -> list[RuntimeRow]:
    """All of one owner's, parents before children, also those that stand for layers that were lost:
    the owner could not reach what stands on them to remove it."""
    return [_row(row) for row in db.execute(f"{_SELECT} ORDER BY r.id", owner)]


def runtimes(db: sqlite3.Connection, snapshotter: str) -> list[str]:
    """The runtimes that have rows in `snapshotter`."""
    rows = db.execute(
        "SELECT DISTINCT runtime FROM runtime_snapshots WHERE snapshotter = ? ORDER BY runtime",
        (snapshotter,),
    )
    return [row["runtime"] for row in rows]


def with_places(db: sqlite3.Connection, snapshotter: str) -> list[int]:
    """All rows, of whatever runtime, that have something of their own on disk."""
    rows = db.execute(f"{_OF_SNAPSHOTTER} ORDER BY r.id", (snapshotter,))
    return [row.id for row in map(_row, rows) if row.has_place]


def stack(db: sqlite3.Connection, row: RuntimeRow) -> Stack:
    """What `row` stands on."""
    own = db.execute(
        "WITH RECURSIVE below(id, depth) AS (SELECT ?, 0"
        " UNION ALL SELECT r.parent, depth + 1 FROM runtime_snapshots r JOIN below"
        "  ON r.id = below.id WHERE r.parent IS NOT NULL AND NOT r.adopted)"
        " SELECT r.id FROM below JOIN runtime_snapshots r ON r.id = below.id"
        " WHERE depth > 0 AND NOT r.adopted ORDER BY depth",
        (row.id,),
    )
    ours = snapshots.stack(db, row.snapshot) if row.snapshot is not None else []
    return Stack([each[0] for each in own], ours)


def adopt(
    db: sqlite3.Connection, owner: Owner, chain_id: str, parent: str, labels: Mapping[str, str]
) -> bool:
    """Let a name stand for our snapshot of that chain, on top of the name that stands for the one
    below. False where we have no such snapshot, or not on top of that.

    Raises:
        NotFoundError: there is no `parent`.
    """
    snapshot = snapshots.committed(db, owner.snapshotter, chain_id) if chain_id else None
    if snapshot is None:
        return False
    below = require(db, owner, parent) if parent else None
    _, *ours = snapshots.stack(db, snapshot)
    name = _name_on(below, chain_id)
    taken = find(db, owner, name)
    if not _stands_for(db, below, ours) or (taken is not None and not taken.adopted):
        return False
    now = time.time()
    db.execute(
        "UPDATE runtime_snapshots SET snapshot = ? WHERE runtime = ? AND snapshotter = ?"
        " AND adopted AND name GLOB ?",
        (snapshot, *owner, f"{chain_id}@*"),
    )
    db.execute(
        "INSERT INTO runtime_snapshots (runtime, snapshotter, name, kind, adopted, parent,"
        " snapshot, labels, created, updated) VALUES (?, ?, ?, 'committed', 1, ?, ?, ?, ?, ?)"
        " ON CONFLICT (runtime, snapshotter, name) DO UPDATE SET snapshot = excluded.snapshot",
        (*owner, name, below and below.id, snapshot, json.dumps(dict(labels)), now, now),
    )
    return True


def _name_on(below: RuntimeRow | None, chain_id: str) -> str:
    """The chainID; with a mark where what is below is no name of ours, as each stands on one."""
    if below is None or (below.adopted and below.info.name == below.info.chain_id):
        return chain_id
    return f"{chain_id}@{Digest.of(below.info.name.encode()).hex[:16]}"


def _stands_for(db: sqlite3.Connection, below: RuntimeRow | None, ours: list[int]) -> bool:
    """Whether `below` is the highest of `ours`, or the very layers, which the runtime had unpacked
    itself before: containerd's `namespace/number/chainID`."""
    if below is None or not ours:
        return below is None and not ours
    if below.adopted:
        return below.snapshot == ours[0]
    (chain_id,) = db.execute("SELECT chain_id FROM snapshots WHERE id = ?", ours[:1]).fetchone()
    return below.info.kind == SnapshotKind.COMMITTED and below.info.name.endswith(f"/{chain_id}")


def insert(
    db: sqlite3.Connection,
    owner: Owner,
    name: str,
    parent: str,
    kind: SnapshotKind,
    labels: Mapping[str, str],
) -> RuntimeRow:
    """Begin a snapshot on top of the committed `parent`; of nothing for "".

    Raises:
        AlreadyExistsError: the name is in use.
        NotFoundError: there is no `parent`.
        InvalidRequestError: `parent` is not committed.
    """
    _refuse_used(db, owner, name)
    below = require(db, owner, parent) if parent else None
    if below is not None and below.info.kind != SnapshotKind.COMMITTED:
        raise InvalidRequestError(f"{owner.runtime} snapshot {parent!r} is not committed")
    now = time.time()
    db.execute(
        "INSERT INTO runtime_snapshots (runtime, snapshotter, name, kind, adopted, parent,"
        " snapshot, labels, created, updated) VALUES (?, ?, ?, ?, 0, ?, ?, ?, ?, ?)",
        (
            *owner,
            name,
            kind.value,
            below and below.id,
            below and below.snapshot,
            json.dumps(dict(labels)),
            now,
            now,
        ),
    )
    return require(db, owner, name)


def commit(
    db: sqlite3.Connection, owner: Owner, name: str, key: str, labels: Mapping[str, str]
) -> None:
    """Finish the active snapshot `key` as `name`, which is created by this.

    Raises:
        AlreadyExistsError: `name` is in use.
        NotFoundError: there is no `key`.
        InUseError: `key` is not active.
    """
    row = require(db, owner, key)
    if row.info.kind != SnapshotKind.ACTIVE:
        raise InUseError(f"{owner.runtime} snapshot {key!r} is not active")
    _refuse_used(db, owner, name)
    now = time.time()
    db.execute(
        "UPDATE runtime_snapshots SET name = ?, kind = 'committed', labels = ?, created = ?,"
        " updated = ? WHERE id = ?",
        (name, json.dumps(dict(labels)), now, now, row.id),
    )


def set_labels(db: sqlite3.Connection, row: RuntimeRow, labels: Mapping[str, str]) -> None:
    """Replace the labels."""
    db.execute(
        "UPDATE runtime_snapshots SET labels = ?, updated = ? WHERE id = ?",
        (json.dumps(dict(labels)), time.time(), row.id),
    )


def set_usage(db: sqlite3.Connection, row: RuntimeRow, usage: Usage) -> None:
    """Keep what a committed snapshot takes: it does not change any more."""
    db.execute(
        "UPDATE runtime_snapshots SET bytes = ?, inodes = ? WHERE id = ? AND kind = 'committed'",
        (usage.bytes, usage.inodes, row.id),
    )


def delete(db: sqlite3.Connection, owner: Owner, name: str) -> RuntimeRow:
    """Forget a snapshot, also one that stands for layers that were lost.

    Raises:
        NotFoundError
        InUseError: another one stands on it.
    """
    found = db.execute(f"{_SELECT} AND r.name = ?", (*owner, name)).fetchone()
    if found is None:
        raise NotFoundError(f"{owner.runtime} snapshot {name!r} does not exist")
    above = db.execute(
        "SELECT name FROM runtime_snapshots WHERE parent = ?", (found["id"],)
    ).fetchone()
    if above is not None:
        raise InUseError(
            f"cannot remove {owner.runtime} snapshot {name!r}: {above['name']!r} stands on it"
        )
    db.execute("DELETE FROM runtime_snapshots WHERE id = ?", (found["id"],))
    return _row(found)


def delete_unfinished(
    db: sqlite3.Connection, snapshotter: str, has_place: Callable[[int], bool]
) -> None:
    """Delete the active snapshots and views that should have a place and have none."""
    rows = [_row(row) for row in db.execute(_OF_SNAPSHOTTER, (snapshotter,))]
    for row in rows:
        if row.has_place and row.info.kind != SnapshotKind.COMMITTED and not has_place(row.id):
            db.execute("DELETE FROM runtime_snapshots WHERE id = ?", (row.id,))


def delete_all(db: sqlite3.Connection, owner: Owner) -> list[RuntimeRow]:
    """Forget all of one owner's."""
    rows = [_row(row) for row in db.execute(_SELECT, owner)]
    for row in sorted(rows, key=lambda row: row.id, reverse=True):
        db.execute("DELETE FROM runtime_snapshots WHERE id = ?", (row.id,))
    return rows


_COLUMNS = (
    "SELECT r.*, p.name AS parent_name, s.chain_id, s.bytes AS our_bytes,"
    " s.inodes AS our_inodes FROM runtime_snapshots r"
    " LEFT JOIN runtime_snapshots p ON p.id = r.parent"
    " LEFT JOIN snapshots s ON s.id = r.snapshot"
)
_SELECT = f"{_COLUMNS} WHERE r.runtime = ? AND r.snapshotter = ?"
_OF_SNAPSHOTTER = f"{_COLUMNS} WHERE r.snapshotter = ?"


def _refuse_used(db: sqlite3.Connection, owner: Owner, name: str) -> None:
    if db.execute(f"{_SELECT} AND r.name = ?", (*owner, name)).fetchone() is not None:
        raise AlreadyExistsError(f"{owner.runtime} snapshot {name!r} exists already")


def _is_lost(row: RuntimeRow) -> bool:
    return row.adopted and row.info.chain_id is None


def _row(row: sqlite3.Row) -> RuntimeRow:
    of = "our_" if row["adopted"] else ""
    size, inodes = row[f"{of}bytes"], row[f"{of}inodes"]
    return RuntimeRow(
        id=row["id"],
        parent=row["parent"],
        snapshot=row["snapshot"],
        adopted=bool(row["adopted"]),
        usage=Usage(size, inodes) if size is not None else None,
        info=RuntimeSnapshot(
            name=row["name"],
            parent=row["parent_name"] or "",
            kind=SnapshotKind(row["kind"]),
            labels=json.loads(row["labels"]),
            created=row["created"],
            updated=row["updated"],
            chain_id=Digest(row["chain_id"]) if row["chain_id"] else None,
        ),
    )
