"""What layers that are files are known by. Each function runs inside a transaction of its
caller's."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from cri_imaged.oci.digest import Digest


class FileDigest(NamedTuple):
    """A file as it was when it was read."""

    digest: Digest
    size: int
    modified: int
    """Unix nanoseconds."""


def want(db: sqlite3.Connection, snapshot: int) -> None:
    """The file of `snapshot` is to be read once it is on the disk."""
    db.execute("UPDATE snapshots SET file_digest = '' WHERE id = ?", (snapshot,))


def wanted(db: sqlite3.Connection, snapshotter: str) -> list[int]:
    """The durable snapshots whose files are to be read."""
    rows = db.execute(
        "SELECT id FROM snapshots WHERE snapshotter = ? AND file_digest = ''"
        " AND durable AND chain_id IS NOT NULL",
        (snapshotter,),
    )
    return [row["id"] for row in rows]


def keep(db: sqlite3.Connection, snapshot: int, seen: FileDigest) -> None:
    """The file of `snapshot` was read."""
    db.execute(
        "UPDATE snapshots SET file_digest = ?, file_size = ?, file_modified = ? WHERE id = ?",
        (*seen, snapshot),
    )


def of(db: sqlite3.Connection, snapshots: Iterable[int]) -> dict[int, FileDigest]:
    """What is known of the files of `snapshots`, where something is."""
    found = {}
    for snapshot in snapshots:
        row = db.execute(
            "SELECT file_digest, file_size, file_modified FROM snapshots"
            " WHERE id = ? AND file_digest != ''",
            (snapshot,),
        ).fetchone()
        if row is not None:
            found[snapshot] = FileDigest(Digest(row[0]), row[1], row[2])
    return found
