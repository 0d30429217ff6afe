"""Rows of snapshots and views. Each function runs inside a transaction of its caller's."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cri_imaged.errors import InvalidRequestError, NotFoundError
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Lease, SnapshotInfo, Usage

EMPTY_CHAIN = ""
"""The chain of no layers: its snapshot is an empty directory, made when first viewed."""


@dataclass(frozen=True, slots=True)
class ViewRow:
    """A mount that was given out."""

    id: int
    key: str
    snapshot: int
    chain_id: str | None
    """None where the snapshot was lost since."""
    writable: bool
    created: float


def insert_active(
    connection: sqlite3.Connection,
    snapshotter: str,
    key: str,
    lease: Lease,
    labels: Mapping[str, str],
) -> int:
    """Begin a snapshot under `key`, held by `lease`.

    Raises:
        InvalidRequestError: the key is in use.
        NotFoundError: the lease does not exist (any more).
    """
    _refuse_used(connection, snapshotter, key)
    if not connection.execute("SELECT 1 FROM leases WHERE id=?", (lease.id,)).fetchone():
        raise NotFoundError(f"lease {lease.id!r} does not exist, it may have expired")
    snapshot = _insert(
        connection,
        "INSERT INTO snapshots (snapshotter, key, labels, created) VALUES (?, ?, ?, ?)",
        (snapshotter, key, json.dumps(dict(labels)), time.time()),
    )
    connection.execute("INSERT INTO lease_snapshots VALUES (?, ?)", (lease.id, snapshot))
    return snapshot


def active(connection: sqlite3.Connection, snapshotter: str, key: str) -> int | None:
    """The row of the unfinished snapshot `key`."""
    return _id(connection, "snapshotter=? AND key=?", (snapshotter, key))


def committed(connection: sqlite3.Connection, snapshotter: str, chain_id: str) -> int | None:
    """The row of the committed snapshot `chain_id`; a lost one has no chain."""
    return _id(connection, "snapshotter=? AND chain_id=?", (snapshotter, chain_id))


def require_committed(connection: sqlite3.Connection, snapshotter: str, chain_id: str) -> int:
    """As `committed`. Raises `NotFoundError`."""
    snapshot = committed(connection, snapshotter, chain_id)
    if snapshot is None:
        raise NotFoundError(f"{snapshotter} snapshot {chain_id} does not exist")
    return snapshot


def stack(connection: sqlite3.Connection, snapshot: int) -> list[int]:
    """The rows of a committed snapshot and of its parents, topmost first."""
    rows = connection.execute(
        "WITH RECURSIVE stack(id, parent, depth) AS ("
        " SELECT id, parent, 0 FROM snapshots WHERE id=?"
        " UNION ALL SELECT s.id, s.parent, depth + 1 FROM snapshots s JOIN stack"
        " ON s.id=stack.parent) SELECT id FROM stack ORDER BY depth",
        (snapshot,),
    )
    return [row[0] for row in rows]


def commit(
    connection: sqlite3.Connection,
    snapshot: int,
    chain_id: Digest,
    parent: int | None,
    diff_id: Digest,
    usage: Usage,
) -> bool:
    """Name the unfinished `snapshot` `chain_id`. False where another one has that name already:
    then what holds `snapshot` holds that one too, and the row of `snapshot` is gone.

    Raises:
        NotFoundError: the snapshot or its parent was removed meanwhile.
    """
    row = connection.execute(
        "SELECT snapshotter FROM snapshots WHERE id=? AND key IS NOT NULL", (snapshot,)
    ).fetchone()
    if row is None:
        raise NotFoundError(f"the unfinished snapshot of {chain_id} was removed")
    present = committed(connection, row[0], chain_id)
    if present is not None:
        give_way(connection, snapshot, present)
        return False
    try:
        connection.execute(
            "UPDATE snapshots SET chain_id=?, key=NULL, parent=?, diff_id=?, bytes=?, inodes=?,"
            " durable=0 WHERE id=?",
            (chain_id, parent, diff_id, usage.bytes, usage.inodes, snapshot),
        )
    except sqlite3.IntegrityError as error:
        raise NotFoundError(f"the parent of snapshot {chain_id} was removed") from error
    return True


def give_way(connection: sqlite3.Connection, snapshot: int, present: int) -> None:
    """Drop an unfinished snapshot whose chain is there already; its leases hold that one now."""
    connection.execute(
        "INSERT OR IGNORE INTO lease_snapshots"
        " SELECT lease, ? FROM lease_snapshots WHERE snapshot=?",
        (present, snapshot),
    )
    connection.execute("DELETE FROM snapshots WHERE id=?", (snapshot,))


def delete_active(connection: sqlite3.Connection, snapshotter: str, key: str) -> None:
    """Delete the unfinished snapshot `key`."""
    connection.execute("DELETE FROM snapshots WHERE snapshotter=? AND key=?", (snapshotter, key))


def delete_all_active(connection: sqlite3.Connection, snapshotter: str) -> None:
    """Delete every unfinished snapshot: none outlives the process that began it."""
    connection.execute(
        "DELETE FROM snapshots WHERE snapshotter=? AND key IS NOT NULL", (snapshotter,)
    )


def every(connection: sqlite3.Connection, snapshotter: str) -> dict[int, str | None]:
    """Every snapshot that is not unfinished: row number to chain, None where it was lost."""
    rows = connection.execute(
        "SELECT id, chain_id FROM snapshots WHERE snapshotter=? AND key IS NULL", (snapshotter,)
    )
    return {row[0]: row[1] for row in rows}


def all_ids(connection: sqlite3.Connection, snapshotter: str) -> set[int]:
    """The rows of every snapshot, finished or not."""
    rows = connection.execute("SELECT id FROM snapshots WHERE snapshotter=?", (snapshotter,))
    return {row[0] for row in rows}


def existing(connection: sqlite3.Connection, snapshots: Sequence[int]) -> set[int]:
    """Those of `snapshots` that still have a row."""
    found = set()
    for snapshot in snapshots:
        if _id(connection, "id=?", (snapshot,)) is not None:
            found.add(snapshot)
    return found


def info(connection: sqlite3.Connection, snapshotter: str, chain_id: str) -> SnapshotInfo | None:
    """A committed snapshot."""
    row = connection.execute(f"{_INFO} AND s.chain_id=?", (snapshotter, chain_id)).fetchone()
    return _snapshot_info(row) if row else None


def walk(connection: sqlite3.Connection, snapshotter: str) -> list[SnapshotInfo]:
    """Every committed snapshot, parents before their children."""
    rows = connection.execute(f"{_INFO} AND s.chain_id!='' ORDER BY s.id", (snapshotter,))
    found = {row["chain_id"]: _snapshot_info(row) for row in rows}
    ordered: dict[str, SnapshotInfo] = {}
    for snapshot in found.values():
        line = []
        chain: str | None = snapshot.chain_id
        while chain and chain not in ordered:
            line.append(chain)
            chain = found[chain].parent
        ordered.update((chain, found[chain]) for chain in reversed(line))
    return list(ordered.values())


def find_view(connection: sqlite3.Connection, snapshotter: str, key: str) -> ViewRow | None:
    """The view `key`."""
    row = connection.execute(f"{_VIEW} AND v.key=?", (snapshotter, key)).fetchone()
    return _view(row) if row else None


def views(connection: sqlite3.Connection, snapshotter: str) -> list[ViewRow]:
    """Every view, oldest first."""
    return [_view(row) for row in connection.execute(f"{_VIEW} ORDER BY v.id", (snapshotter,))]


def open_view(
    connection: sqlite3.Connection, snapshotter: str, key: str, chain_id: str, *, writable: bool
) -> ViewRow:
    """The view `key` of a snapshot; made where there is none.

    Raises:
        NotFoundError: the snapshot does not exist.
        InvalidRequestError: the key is in use for something else.
    """
    present = find_view(connection, snapshotter, key)
    if present is not None and (present.chain_id, present.writable) == (chain_id, writable):
        return present
    _refuse_used(connection, snapshotter, key)
    if chain_id == EMPTY_CHAIN and committed(connection, snapshotter, chain_id) is None:
        connection.execute(
            "INSERT INTO snapshots (snapshotter, chain_id, inodes, created) VALUES (?, ?, 1, ?)",
            (snapshotter, chain_id, time.time()),
        )
    snapshot = require_committed(connection, snapshotter, chain_id)
    created = time.time()
    view = _insert(
        connection,
        "INSERT INTO views (snapshotter, key, snapshot, writable, created) VALUES (?, ?, ?, ?, ?)",
        (snapshotter, key, snapshot, writable, created),
    )
    return ViewRow(view, key, snapshot, chain_id, writable, created)


def delete_view(connection: sqlite3.Connection, snapshotter: str, key: str) -> int | None:
    """Delete the view `key`; its row number, or None where there is none."""
    view = find_view(connection, snapshotter, key)
    if view is None:
        return None
    connection.execute("DELETE FROM views WHERE id=?", (view.id,))
    return view.id


_INFO = (
    "SELECT s.chain_id, p.chain_id AS parent, s.bytes, s.inodes, s.labels"
    " FROM snapshots s LEFT JOIN snapshots p ON p.id=s.parent"
    " WHERE s.snapshotter=? AND s.chain_id IS NOT NULL"
)
_VIEW = (
    "SELECT v.id, v.key, v.snapshot, s.chain_id, v.writable, v.created"
    " FROM views v JOIN snapshots s ON s.id=v.snapshot WHERE v.snapshotter=?"
)


def _refuse_used(connection: sqlite3.Connection, snapshotter: str, key: str) -> None:
    if (
        active(connection, snapshotter, key) is not None
        or find_view(connection, snapshotter, key) is not None
    ):
        raise InvalidRequestError(
            f"snapshot key {key!r} is in use for something else: remove that, or choose another"
        )


def _insert(connection: sqlite3.Connection, statement: str, values: Sequence[object]) -> int:
    row: int | None = connection.execute(statement, values).lastrowid
    if row is None:
        raise sqlite3.DatabaseError("an insertion gave no row number")
    return row


def _id(connection: sqlite3.Connection, where: str, values: Sequence[object]) -> int | None:
    row = connection.execute(f"SELECT id FROM snapshots WHERE {where}", values).fetchone()
    return row[0] if row else None


def _snapshot_info(row: sqlite3.Row) -> SnapshotInfo:
    return SnapshotInfo(
        chain_id=Digest(row["chain_id"]),
        parent=Digest(row["parent"]) if row["parent"] else None,
        usage=Usage(row["bytes"], row["inodes"]),
        labels=json.loads(row["labels"]),
    )


def _view(row: sqlite3.Row) -> ViewRow:
    return ViewRow(
        row["id"],
        row["key"],
        row["snapshot"],
        row["chain_id"],
        bool(row["writable"]),
        row["created"],
    )
