"""What is in the store, in figures."""

from __future__ import annotations

import sqlite3


def objects(db: sqlite3.Connection) -> dict[str, int]:
    """How many there are of each kind."""
    counted = {
        table: int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
        for table in ("images", "names", "views", "leases", "snapshots")
    }
    row = db.execute("SELECT inodes FROM totals WHERE store = ''").fetchone()
    return {**counted, "blobs": int(row["inodes"])}


def sizes(db: sqlite3.Connection) -> dict[str, int]:
    """Bytes on disk: blobs, and each snapshotter's snapshots by its name."""
    return {
        row["store"] or "blobs": int(row["bytes"])
        for row in db.execute("SELECT store, bytes FROM totals")
    }
