"""Rows of views: snapshots given out as mounts. Each function runs inside a transaction of its
caller's. A key means one thing: a view or an unfinished snapshot."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass

from cri_imaged.errors import InvalidRequestError
from cri_imaged.metadata import snapshots
from cri_imaged.metadata.snapshots import EMPTY_CHAIN


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


def find(db: sqlite3.Connection, snapshotter: str, key: str) -> ViewRow | None:
    """The view `key`."""
    row = db.execute(f"{_SELECT} AND v.key = ?", (snapshotter, key)).fetchone()
    return _view(row) if row else None


def every(db: sqlite3.Connection, snapshotter: str) -> list[ViewRow]:
    """Every view, oldest first."""
    return [_view(row) for row in db.execute(f"{_SELECT} ORDER BY v.id", (snapshotter,))]


def refuse_used(db: sqlite3.Connection, snapshotter: str, key: str) -> None:
    """Raises `InvalidRequestError` where the key means something already."""
    if snapshots.active(db, snapshotter, key) is not None or find(db, snapshotter, key) is not None:
        raise InvalidRequestError(
            f"snapshot key {key!r} is in use for something else: remove that, or choose another"
        )


def open_view(
    db: sqlite3.Connection, snapshotter: str, key: str, chain_id: str, *, writable: bool
) -> ViewRow:
    """The view `key` of a snapshot; made where there is none.

    Raises:
        NotFoundError: the snapshot does not exist.
        InvalidRequestError: the key is in use for something else.
    """
    present = find(db, snapshotter, key)
    if present is not None and (present.chain_id, present.writable) == (chain_id, writable):
        return present
    refuse_used(db, snapshotter, key)
    if chain_id == EMPTY_CHAIN:
        snapshot = snapshots.insert_empty(db, snapshotter)
    else:
        snapshot = snapshots.require_committed(db, snapshotter, chain_id)
    created = time.time()
    (row,) = db.execute(
        "INSERT INTO views (snapshotter, key, snapshot, writable, created) VALUES (?, ?, ?, ?, ?)"
        " RETURNING id",
        (snapshotter, key, snapshot, writable, created),
    ).fetchall()
    return ViewRow(row["id"], key, snapshot, chain_id, writable, created)


def delete(db: sqlite3.Connection, snapshotter: str, key: str) -> int | None:
    """Delete the view `key`; its row number, or None where there is none."""
    view = find(db, snapshotter, key)
    if view is None:
        return None
    db.execute("DELETE FROM views WHERE id = ?", (view.id,))
    return view.id


_SELECT = (
    "SELECT v.id, v.key, v.snapshot, s.chain_id, v.writable, v.created"
    " FROM views v JOIN snapshots s ON s.id = v.snapshot WHERE v.snapshotter = ?"
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
