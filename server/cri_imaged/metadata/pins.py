"""Rows of the names that clients pinned. They hold nothing: a pin outlasts its image."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable


def add(db: sqlite3.Connection, name: str) -> None:
    """Pin a canonical reference, or an image ID."""
    db.execute("INSERT OR IGNORE INTO pins (name, created) VALUES (?, ?)", (name, time.time()))


def remove(db: sqlite3.Connection, names: Iterable[str]) -> int:
    """Unpin these; returns how many were pinned."""
    query = "DELETE FROM pins WHERE name = ?"
    return sum(db.execute(query, (name,)).rowcount for name in names)


def names(db: sqlite3.Connection) -> frozenset[str]:
    """All that are pinned."""
    return frozenset(row["name"] for row in db.execute("SELECT name FROM pins"))
