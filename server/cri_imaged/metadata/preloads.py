"""Rows of the archives that were imported from the preload folder. They hold nothing."""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Imported:
    """One archive, as it was when it was imported."""

    file: str
    """Its name within the folder."""
    size: int
    modified: int
    """Nanoseconds."""
    names: tuple[str, ...]
    """Of the images that it brought; IDs of those that have none."""


def save(db: sqlite3.Connection, imported: Imported) -> None:
    """Keep what a file brought, in place of what one of this name brought before."""
    db.execute(
        "INSERT OR REPLACE INTO preloads (file, size, modified, names, imported)"
        " VALUES (?, ?, ?, ?, ?)",
        (
            imported.file,
            imported.size,
            imported.modified,
            json.dumps(imported.names),
            time.time(),
        ),
    )


def remove(db: sqlite3.Connection, file: str) -> None:
    """Forget a file."""
    db.execute("DELETE FROM preloads WHERE file = ?", (file,))


def every(db: sqlite3.Connection) -> list[Imported]:
    """All that are kept."""
    return [
        Imported(row["file"], row["size"], row["modified"], tuple(json.loads(row["names"])))
        for row in db.execute("SELECT * FROM preloads")
    ]
