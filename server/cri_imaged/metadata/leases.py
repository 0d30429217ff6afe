"""Rows of leases. A `pull` lease dies with the daemon that opened it or turns into a `resume`
lease, which expires by age."""

from __future__ import annotations

import sqlite3
import time
import uuid

from cri_imaged.errors import NotFoundError
from cri_imaged.ports import Lease


def new() -> Lease:
    """A lease that no row knows before it holds anything."""
    return Lease(uuid.uuid4().hex)


def insert(db: sqlite3.Connection, lease: Lease) -> None:
    """Let the lease hold things, where it does not yet.

    Raises:
        NotFoundError: it has ended.
    """
    if lease.ended:
        raise NotFoundError(f"lease {lease.id!r} has ended")
    db.execute(
        "INSERT OR IGNORE INTO leases (id, kind, created) VALUES (?, 'pull', ?)",
        (lease.id, time.time()),
    )


def end(db: sqlite3.Connection, lease: Lease, *, keep_for_resume: bool) -> None:
    """The work is over: what an image holds needs no lease any more; what none holds yet may stay
    for the next try."""
    lease.ended = True
    if keep_for_resume:
        _to_resume(db, "id = ?", (lease.id,))
    else:
        db.execute("DELETE FROM leases WHERE id = ?", (lease.id,))


def inherit(db: sqlite3.Connection) -> None:
    """After a start: what an earlier daemon was at work on may be resumed."""
    _to_resume(db, "kind = 'pull'", ())


def _to_resume(db: sqlite3.Connection, which: str, values: tuple[str, ...]) -> None:
    db.execute(
        f"UPDATE leases SET kind = 'resume', created = ? WHERE {which}", (time.time(), *values)
    )
    db.execute(
        "DELETE FROM leases WHERE kind = 'resume'"
        " AND NOT EXISTS (SELECT 1 FROM lease_blobs WHERE lease = leases.id)"
        " AND NOT EXISTS (SELECT 1 FROM lease_snapshots WHERE lease = leases.id)"
    )


def expire(db: sqlite3.Connection, *, max_seconds: float) -> None:
    """Drop the resume leases older than `max_seconds`."""
    db.execute(
        "DELETE FROM leases WHERE kind = 'resume' AND created <= ?", (time.time() - max_seconds,)
    )


def shrink(db: sqlite3.Connection, *, max_bytes: int) -> None:
    """Drop the oldest resume leases until the blobs and snapshots that they hold take at most
    `max_bytes`."""
    rows = db.execute(
        "SELECT id, (SELECT coalesce(sum(size), 0) FROM lease_blobs JOIN blobs ON digest = blob"
        "  WHERE lease = leases.id AND state = 'present')"
        " + (SELECT coalesce(sum(bytes), 0) FROM lease_snapshots"
        "  JOIN snapshots ON snapshots.id = snapshot WHERE lease = leases.id) AS bytes"
        " FROM leases WHERE kind = 'resume' ORDER BY created DESC"
    ).fetchall()
    total = 0
    for row in rows:
        total += row["bytes"]
        if total > max_bytes:
            db.execute("DELETE FROM leases WHERE id = ?", (row["id"],))
