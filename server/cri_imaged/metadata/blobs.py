"""Rows of blobs. Functions over a connection; `Database` runs them in transactions."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable

from cri_imaged.metadata import leases
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import BlobInfo, Lease


def find(db: sqlite3.Connection, digest: Digest) -> BlobInfo | None:
    """The blob's row, or None."""
    row = db.execute("SELECT size, state FROM blobs WHERE digest = ?", (digest,)).fetchone()
    return row and BlobInfo(digest, row["size"], row["state"])


def insert(db: sqlite3.Connection, digest: Digest, size: int, lease: Lease | None) -> None:
    """A blob's file is in place: make it known, not yet durable, held by `lease`."""
    db.execute(
        "INSERT INTO blobs (digest, size, created) VALUES (?, ?, ?)"
        " ON CONFLICT (digest) DO UPDATE SET state = 'present', durable = 0,"
        " size = excluded.size",
        (digest, size, time.time()),
    )
    if lease is not None:
        hold(db, digest, lease)


def hold(db: sqlite3.Connection, digest: Digest, lease: Lease) -> BlobInfo | None:
    """Let `lease` hold the blob, whatever its state. None where there is no row."""
    found = find(db, digest)
    if found is not None:
        leases.insert(db, lease)
        db.execute(
            "INSERT OR IGNORE INTO lease_blobs (lease, blob) VALUES (?, ?)", (lease.id, digest)
        )
    return found


def all_present(db: sqlite3.Connection) -> dict[Digest, int]:
    """Digest and size of every blob that should have a file."""
    rows = db.execute("SELECT digest, size FROM blobs WHERE state = 'present'")
    return {Digest(row["digest"]): row["size"] for row in rows}


def lost(db: sqlite3.Connection, digests: Iterable[Digest]) -> None:
    """The blobs' files are gone or wrong."""
    db.executemany(
        "UPDATE blobs SET state = 'lost', durable = 0 WHERE digest = ?",
        [(digest,) for digest in digests],
    )


def unneeded(db: sqlite3.Connection, digest: Digest, size: int) -> None:
    """The blob's snapshot is there, so its bytes are not fetched: make the digest known."""
    db.execute(
        "INSERT OR IGNORE INTO blobs (digest, size, state, created) VALUES (?, ?, 'discarded', ?)",
        (digest, size, time.time()),
    )
