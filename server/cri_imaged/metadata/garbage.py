"""What nothing holds: rows that go, and whose files are thrown away after."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from cri_imaged.metadata import images, snapshots
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import SnapshotToken


@dataclass(frozen=True, slots=True)
class Garbage:
    """Rows that a sweep has deleted; their files are to be thrown away."""

    blobs: tuple[Digest, ...] = ()
    snapshots: dict[str, list[SnapshotToken]] = field(default_factory=dict)
    """By snapshotter, for its `reclaim`; children before parents."""
    bytes: int = 0

    @property
    def snapshot_count(self) -> int:
        """Of all snapshotters."""
        return sum(map(len, self.snapshots.values()))


def snapshotters(db: sqlite3.Connection) -> list[str]:
    """Those that anything is kept in, or was and is not collected yet."""
    rows = db.execute("SELECT DISTINCT snapshotter FROM snapshots ORDER BY snapshotter")
    return [row[0] for row in rows]


def sweep(db: sqlite3.Connection) -> Garbage:
    """Delete the rows that nothing holds: images without a name, snapshots that no image, view,
    runtime, lease or snapshot stands on, blobs that no image or lease links."""
    db.execute("DELETE FROM images WHERE NOT EXISTS (SELECT 1 FROM names WHERE image = images.id)")
    snapshot_rows: list[sqlite3.Row] = []
    while rows := db.execute(f"{_FREE_SNAPSHOTS} {_SNAPSHOT}").fetchall():
        snapshot_rows += rows
    return _garbage(snapshot_rows, db.execute(f"{_FREE_BLOBS} {_BLOB}").fetchall())


def sweep_image(db: sqlite3.Connection, image_id: Digest, handler: str) -> Garbage:
    """Forget an image with all its names, and delete the rows that only it held: unlike `sweep`,
    this takes no longer the more images there are."""
    held = images.held(db, image_id, handler)
    images.remove(db, image_id, handler)
    snapshot_rows = []
    for top in held.snapshots:
        for each in snapshots.stack(db, top):
            row = db.execute(f"{_FREE_SNAPSHOTS} AND id = ? {_SNAPSHOT}", (each,)).fetchone()
            if row is None:  # it holds those below, too
                break
            snapshot_rows.append(row)
    blob_rows = [
        row
        for digest in held.blobs
        for row in db.execute(f"{_FREE_BLOBS} AND digest = ? {_BLOB}", (digest,)).fetchall()
    ]
    return _garbage(snapshot_rows, blob_rows)


_FREE_BLOBS = (
    "DELETE FROM blobs WHERE NOT EXISTS (SELECT 1 FROM image_blobs WHERE blob = digest)"
    " AND NOT EXISTS (SELECT 1 FROM images WHERE manifest = digest)"
    " AND NOT EXISTS (SELECT 1 FROM lease_blobs WHERE blob = digest)"
)
_BLOB = "RETURNING digest, size, state"
_FREE_SNAPSHOTS = (
    "DELETE FROM snapshots WHERE key IS NULL"
    " AND NOT EXISTS (SELECT 1 FROM snapshots AS child WHERE child.parent = snapshots.id)"
    " AND NOT EXISTS (SELECT 1 FROM images WHERE snapshot = snapshots.id)"
    " AND NOT EXISTS (SELECT 1 FROM views WHERE snapshot = snapshots.id)"
    " AND NOT EXISTS (SELECT 1 FROM runtime_snapshots WHERE snapshot = snapshots.id)"
    " AND NOT EXISTS (SELECT 1 FROM lease_snapshots WHERE snapshot = snapshots.id)"
)
_SNAPSHOT = "RETURNING id, snapshotter, bytes"


def _garbage(snapshot_rows: Iterable[sqlite3.Row], blob_rows: Iterable[sqlite3.Row]) -> Garbage:
    tokens: dict[str, list[SnapshotToken]] = defaultdict(list)
    freed = 0
    for row in snapshot_rows:
        tokens[row["snapshotter"]].append(SnapshotToken(row["id"]))
        freed += row["bytes"]
    digests = []
    for row in blob_rows:
        digests.append(Digest(row["digest"]))
        freed += row["size"] if row["state"] == "present" else 0
    return Garbage(tuple(digests), dict(tokens), freed)
