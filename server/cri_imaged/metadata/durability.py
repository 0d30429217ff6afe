"""Rows that have not reached the disk yet, and the epoch that tells whether that matters."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from cri_imaged.metadata import snapshots
from cri_imaged.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class Volatile:
    """Rows whose files may still be in memory only."""

    blobs: frozenset[Digest] = frozenset()
    snapshots: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.blobs or self.snapshots)

    def __or__(self, other: Volatile) -> Volatile:
        return Volatile(self.blobs | other.blobs, self.snapshots | other.snapshots)

    def __sub__(self, other: Volatile) -> Volatile:
        return Volatile(self.blobs - other.blobs, self.snapshots - other.snapshots)


def volatile(db: sqlite3.Connection) -> Volatile:
    """Every row that is not durable, of finished work."""
    blobs = db.execute("SELECT digest FROM blobs WHERE NOT durable AND state = 'present'")
    unpacked = db.execute("SELECT id FROM snapshots WHERE NOT durable AND chain_id IS NOT NULL")
    return Volatile(
        frozenset(Digest(row["digest"]) for row in blobs),
        frozenset(row["id"] for row in unpacked),
    )


def mark(db: sqlite3.Connection, rows: Volatile) -> None:
    """The files of `rows` have reached the disk. To be run in a durable transaction."""
    db.executemany("UPDATE blobs SET durable = 1 WHERE digest = ?", [(d,) for d in rows.blobs])
    db.executemany("UPDATE snapshots SET durable = 1 WHERE id = ?", [(n,) for n in rows.snapshots])


def give_up(db: sqlite3.Connection, rows: Volatile) -> None:
    """The snapshots of `rows` may be torn: they are lost. Their blobs can be verified instead."""
    snapshots.lose(db, rows.snapshots)


def epoch(db: sqlite3.Connection) -> str | None:
    """The boot and file system that the last daemon here ran under."""
    row = db.execute("SELECT value FROM epoch").fetchone()
    return row and str(row["value"])


def set_epoch(db: sqlite3.Connection, value: str) -> None:
    """All volatile rows have been dealt with: from here on they belong to this epoch."""
    db.execute("DELETE FROM epoch")
    db.execute("INSERT INTO epoch (value) VALUES (?)", (value,))


def doubt(db: sqlite3.Connection) -> None:
    """A sync has failed: the next start deals with volatile rows as after another boot."""
    db.execute("UPDATE epoch SET value = 'in doubt'")


def discardable(db: sqlite3.Connection) -> list[Digest]:
    """Layers' blobs that nothing needs any more: every image that has them stands on durable
    snapshots, and no pull is at work with them."""
    rows = db.execute(
        "SELECT DISTINCT blob FROM image_blobs JOIN blobs ON blobs.digest = blob"
        " WHERE layer AND state = 'present'"
        " AND NOT EXISTS (SELECT 1 FROM lease_blobs WHERE lease_blobs.blob = blobs.digest)"
        " AND NOT EXISTS (SELECT 1 FROM image_blobs AS other JOIN images ON images.id = other.image"
        "  WHERE other.blob = blobs.digest AND (NOT other.layer OR EXISTS ("
        "   WITH RECURSIVE chain(id) AS (SELECT images.snapshot"
        "    UNION SELECT snapshots.parent FROM snapshots JOIN chain USING (id)"
        "    WHERE snapshots.parent IS NOT NULL)"
        "   SELECT 1 FROM chain JOIN snapshots USING (id)"
        "   WHERE NOT snapshots.durable OR snapshots.chain_id IS NULL)))"
    )
    return [Digest(row["blob"]) for row in rows]


def discard(db: sqlite3.Connection, digests: list[Digest]) -> None:
    """The blobs' files go; their digests stay known."""
    db.executemany(
        "UPDATE blobs SET state = 'discarded' WHERE digest = ?", [(digest,) for digest in digests]
    )
