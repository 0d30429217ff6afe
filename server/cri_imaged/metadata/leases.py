"""Rows of leases. A `pull` lease dies with the daemon that opened it or turns into a `resume`
lease, which expires by age."""

from __future__ import annotations

import sqlite3
import time
import uuid

from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Lease


def open_lease(db: sqlite3.Connection) -> Lease:
    """A new lease for one pull."""
    lease = Lease(uuid.uuid4().hex)
    db.execute(
        "INSERT INTO leases (id, kind, created) VALUES (?, 'pull', ?)", (lease.id, time.time())
    )
    return lease


def close_lease(db: sqlite3.Connection, lease: Lease) -> None:
    """The pull succeeded: what it brought in is held by its image."""
    db.execute("DELETE FROM leases WHERE id = ?", (lease.id,))


def keep_for_resume(db: sqlite3.Connection, lease: Lease | None = None) -> None:
    """A pull (or, with None, every pull of an earlier daemon) ended early: its verified blobs stay
    for the next try, its snapshots do too, until `expire`. An empty lease is dropped."""
    one = "" if lease is None else " AND id = :id"
    db.execute(
        f"UPDATE leases SET kind = 'resume', created = :now WHERE kind = 'pull'{one}",
        {"now": time.time(), "id": lease.id if lease else ""},
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
