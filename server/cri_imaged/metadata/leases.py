"""Rows of leases. A `pull` lease dies with the daemon that opened it or turns into a `resume`
lease, which expires by age."""

from __future__ import annotations

import sqlite3
import time
import uuid

from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Lease


def new() -> Lease:
    """A lease that no row knows yet."""
    return Lease(uuid.uuid4().hex)


def insert(db: sqlite3.Connection, lease: Lease) -> None:
    """Let the lease hold things. Doing it again changes nothing."""
    db.execute(
        "INSERT OR IGNORE INTO leases (id, kind, created) VALUES (?, 'pull', ?)",
        (lease.id, time.time()),
    )


def end(db: sqlite3.Connection, lease: Lease, *, keep_for_resume: bool) -> None:
    """The work is over: what an image holds needs no lease any more; what none holds yet may stay
    for the next try."""
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
    """Drop the oldest resume leases until what they hold is at most `max_bytes`."""
    rows = db.execute(
        "SELECT leases.id, coalesce(sum(blobs.size), 0) AS bytes FROM leases"
        " LEFT JOIN lease_blobs ON lease_blobs.lease = leases.id"
        " LEFT JOIN blobs ON blobs.digest = lease_blobs.blob AND blobs.state = 'present'"
        " WHERE kind = 'resume' GROUP BY leases.id ORDER BY leases.created DESC"
    ).fetchall()
    total = 0
    for row in rows:
        total += row["bytes"]
        if total > max_bytes:
            db.execute("DELETE FROM leases WHERE id = ?", (row["id"],))


def hold_snapshot(db: sqlite3.Connection, snapshotter: str, chain_id: Digest, lease: Lease) -> bool:
    """Let `lease` hold a committed snapshot. Returns whether there is one."""
    row = db.execute(
        "SELECT id FROM snapshots WHERE snapshotter = ? AND chain_id = ?", (snapshotter, chain_id)
    ).fetchone()
    if row is None:
        return False
    db.execute(
        "INSERT OR IGNORE INTO lease_snapshots (lease, snapshot) VALUES (?, ?)",
        (lease.id, row["id"]),
    )
    return True
