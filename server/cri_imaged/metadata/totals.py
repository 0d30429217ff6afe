"""What is in the store, in figures."""

from __future__ import annotations

import sqlite3

from cri_imaged.ports import Usage

BLOBS = ""


def objects(db: sqlite3.Connection) -> dict[str, int]:
    """How many there are of each kind."""
    counted = {
        table: int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
        for table in ("images", "names", "views", "leases", "snapshots")
    }
    row = db.execute("SELECT inodes FROM totals WHERE store = ''").fetchone()
    return {**counted, "blobs": int(row["inodes"])}


def taken(db: sqlite3.Connection) -> dict[str, Usage]:
    """What is on disk: `BLOBS` that are present, and each snapshotter's snapshots by its name,
    where it ever had any."""
    rows = db.execute("SELECT store, bytes, inodes FROM totals")
    return {row["store"]: Usage(row["bytes"], row["inodes"]) for row in rows}
