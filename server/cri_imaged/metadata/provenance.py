"""Rows of provenance: which blobs gave a snapshot, and from which repositories they came.

Functions over a connection; `Database` runs them in transactions.
"""

from __future__ import annotations

import sqlite3

from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Provenance

KEPT = 256
"""Rows of one snapshot that are kept, the newest: a pull by any name may add one."""


def add(db: sqlite3.Connection, snapshot: int, provenance: Provenance) -> None:
    """Keep with `snapshot` what it was made of. Doing it again renews it."""
    db.execute(
        "INSERT OR REPLACE INTO provenance"
        " (snapshot, blob, repository, blob_size, diff_id, size, entries, secret)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            snapshot,
            provenance.blob,
            provenance.repository,
            provenance.blob_size,
            provenance.diff_id,
            provenance.size,
            provenance.entries,
            provenance.secret,
        ),
    )
    db.execute(
        "DELETE FROM provenance WHERE id IN"
        " (SELECT id FROM provenance WHERE snapshot = ? ORDER BY id DESC LIMIT -1 OFFSET ?)",
        (snapshot, KEPT),
    )


def of(db: sqlite3.Connection, snapshot: int) -> tuple[Provenance, ...]:
    """All that is known of how `snapshot` was made, oldest first."""
    rows = db.execute("SELECT * FROM provenance WHERE snapshot = ? ORDER BY id", (snapshot,))
    return tuple(
        Provenance(
            blob=Digest(row["blob"]),
            blob_size=row["blob_size"],
            diff_id=Digest(row["diff_id"]),
            size=row["size"],
            entries=row["entries"],
            repository=row["repository"],
            secret=row["secret"],
        )
        for row in rows
    )
