"""Rows of images and their names, and the sweep of what nothing holds."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest

_CHAIN_IS_WHOLE = """
    images.snapshot IS NULL OR NOT EXISTS (
        WITH RECURSIVE chain(id) AS (
            SELECT images.snapshot
            UNION SELECT snapshots.parent FROM snapshots JOIN chain USING (id)
            WHERE snapshots.parent IS NOT NULL
        )
        SELECT 1 FROM chain JOIN snapshots USING (id) WHERE snapshots.chain_id IS NULL
    )
"""
_BLOBS_ARE_THERE = """
    NOT EXISTS (
        SELECT 1 FROM image_blobs JOIN blobs ON blobs.digest = image_blobs.blob
        WHERE image_blobs.image = images.id AND blobs.state = 'lost'
    )
"""
_SELECT = f"""
    SELECT images.*, snapshots.chain_id, names.name FROM images
    JOIN names ON names.image = images.id
    LEFT JOIN snapshots ON snapshots.id = images.snapshot
    WHERE ({_CHAIN_IS_WHOLE}) AND ({_BLOBS_ARE_THERE})
"""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image as a client sees it: all names of one image ID for one runtime handler."""

    image_id: Digest
    handler: str
    names: tuple[str, ...]
    """As stored: image ID, references; unordered."""
    manifest: Digest
    size: int
    """Compressed, in bytes."""
    user: str
    snapshotter: str
    chain_id: Digest | None
    """Of the topmost layer; None for an image without layers."""


@dataclass(frozen=True, slots=True)
class NewImage:
    """What a successful pull makes known in one transaction."""

    image_id: Digest
    handler: str
    names: tuple[str, ...]
    target: Descriptor
    """What the reference resolved to: an index or the manifest."""
    manifest: Digest
    documents: frozenset[Digest]
    """Indexes, manifest, config."""
    layers: frozenset[Digest]
    size: int
    user: str
    snapshotter: str
    chain_id: Digest | None


@dataclass(frozen=True, slots=True)
class Garbage:
    """Rows that a sweep has deleted; their files are to be thrown away."""

    blobs: tuple[Digest, ...] = ()
    snapshots: dict[str, list[int]] = field(default_factory=dict)
    """IDs by snapshotter, children before parents."""
    bytes: int = 0


def save(db: sqlite3.Connection, image: NewImage) -> None:
    """Make `image` known under its names; a name that meant another image is moved.

    Raises:
        sqlite3.IntegrityError: a blob or the snapshot is not there.
    """
    now = time.time()
    snapshot = None
    if image.chain_id is not None:
        snapshot = db.execute(
            "SELECT id FROM snapshots WHERE snapshotter = ? AND chain_id = ?",
            (image.snapshotter, image.chain_id),
        ).fetchone()
        if snapshot is None:
            raise sqlite3.IntegrityError(f"snapshot {image.chain_id} is not committed")
    (row,) = db.execute(
        "INSERT INTO images (image_id, handler, target, target_type, target_size, manifest,"
        " snapshotter, snapshot, size, user, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (handler, target, manifest) DO UPDATE SET"
        " snapshotter = excluded.snapshotter, snapshot = excluded.snapshot, size = excluded.size"
        " RETURNING id",
        (
            image.image_id,
            image.handler,
            image.target.digest,
            image.target.media_type,
            image.target.size,
            image.manifest,
            image.snapshotter,
            snapshot and snapshot["id"],
            image.size,
            image.user,
            now,
        ),
    ).fetchall()
    db.execute("DELETE FROM image_blobs WHERE image = ?", (row["id"],))
    db.executemany(
        "INSERT INTO image_blobs (image, blob, layer) VALUES (?, ?, ?)",
        [
            *((row["id"], digest, 0) for digest in image.documents),
            *((row["id"], digest, 1) for digest in image.layers - image.documents),
        ],
    )
    db.executemany(
        "INSERT INTO names (name, handler, image, updated) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (name, handler) DO UPDATE SET image = excluded.image, updated = ?5",
        [(name, image.handler, row["id"], now, now) for name in image.names],
    )


def find(db: sqlite3.Connection, image_id: Digest, handler: str) -> ImageRecord | None:
    """The image, or None where it is unknown or not ready."""
    query = f"{_SELECT} AND images.image_id = ? AND images.handler = ? ORDER BY images.id"
    records = _group(db.execute(query, (image_id, handler)))
    return records[0] if records else None


def owners(db: sqlite3.Connection, names: Iterable[str], handler: str) -> set[Digest]:
    """The image IDs that `names` mean now, ready or not."""
    query = (
        "SELECT image_id FROM names JOIN images ON images.id = names.image"
        " WHERE names.name = ? AND names.handler = ?"
    )
    rows = [db.execute(query, (name, handler)).fetchone() for name in names]
    return {Digest(row["image_id"]) for row in rows if row is not None}


def target(db: sqlite3.Connection, name: str) -> Descriptor | None:
    """What the reference `name` resolved to when it was last pulled, for any handler."""
    row = db.execute(
        "SELECT target_type, target, target_size FROM names JOIN images ON images.id = names.image"
        " WHERE names.name = ? ORDER BY names.updated DESC",
        (name,),
    ).fetchone()
    return row and Descriptor(row["target_type"], Digest(row["target"]), row["target_size"])


def all_ready(db: sqlite3.Connection) -> list[ImageRecord]:
    """Every image whose content and snapshots are all there."""
    return _group(db.execute(f"{_SELECT} ORDER BY images.id"))


@dataclass(frozen=True, slots=True)
class DamagedImage:
    """An image that has names but is not ready."""

    row: int
    image_id: Digest
    handler: str
    manifest: Digest
    snapshotter: str
    names: tuple[str, ...]


def damaged(db: sqlite3.Connection) -> list[DamagedImage]:
    """Images that are known but not ready."""
    query = (
        "SELECT images.*, (SELECT json_group_array(name) FROM names WHERE image = images.id)"
        f" AS names FROM images WHERE NOT (({_CHAIN_IS_WHOLE}) AND ({_BLOBS_ARE_THERE}))"
        " AND EXISTS (SELECT 1 FROM names WHERE image = images.id) ORDER BY images.id"
    )
    return [
        DamagedImage(
            row["id"],
            Digest(row["image_id"]),
            row["handler"],
            Digest(row["manifest"]),
            row["snapshotter"],
            tuple(sorted(json.loads(row["names"]))),
        )
        for row in db.execute(query)
    ]


def stand_on(db: sqlite3.Connection, image: int, snapshotter: str, chain_id: Digest | None) -> None:
    """An image's snapshots were made anew: let it hold these."""
    db.execute(
        "UPDATE images SET snapshot ="
        " (SELECT id FROM snapshots WHERE snapshotter = ? AND chain_id = ?) WHERE id = ?",
        (snapshotter, chain_id, image),
    )


def manifests(db: sqlite3.Connection) -> list[tuple[Digest, Digest]]:
    """Manifest and image ID of every image."""
    rows = db.execute("SELECT DISTINCT manifest, image_id FROM images")
    return [(Digest(row["manifest"]), Digest(row["image_id"])) for row in rows]


def users_of_blob(db: sqlite3.Connection, digest: Digest) -> list[str]:
    """Names of the images that a blob is part of."""
    rows = db.execute(
        "SELECT names.name FROM names JOIN image_blobs USING (image) WHERE blob = ?"
        " ORDER BY names.name",
        (digest,),
    )
    return [row["name"] for row in rows]


def users_of_snapshot(db: sqlite3.Connection, snapshotter: str, chain_id: Digest) -> list[str]:
    """Names of the images that stand on a snapshot."""
    rows = db.execute(
        "WITH RECURSIVE above(id) AS ("
        " SELECT id FROM snapshots WHERE snapshotter = ? AND chain_id = ?"
        " UNION SELECT snapshots.id FROM snapshots JOIN above ON snapshots.parent = above.id)"
        " SELECT names.name FROM names JOIN images ON images.id = names.image"
        " WHERE images.snapshot IN (SELECT id FROM above) ORDER BY names.name",
        (snapshotter, chain_id),
    )
    return [row["name"] for row in rows]


def remove(db: sqlite3.Connection, image_id: Digest, handler: str) -> None:
    """Forget an image with all its names. What it held is garbage for the next sweep."""
    ours = "SELECT id FROM images WHERE image_id = ? AND handler = ?"
    db.execute(f"DELETE FROM names WHERE image IN ({ours})", (image_id, handler))
    db.execute("DELETE FROM images WHERE image_id = ? AND handler = ?", (image_id, handler))


def detach_snapshots(db: sqlite3.Connection, ids: Iterable[int]) -> None:
    """Snapshots are lost, and so is every one that stands on them: free their chain IDs."""
    db.executemany(
        "WITH RECURSIVE above(id) AS (VALUES (?)"
        " UNION SELECT snapshots.id FROM snapshots JOIN above ON snapshots.parent = above.id)"
        " UPDATE snapshots SET chain_id = NULL, durable = 0 WHERE id IN (SELECT id FROM above)"
        " AND key IS NULL",
        [(id,) for id in ids],
    )


def detach_chain(db: sqlite3.Connection, snapshotter: str, chain_id: str) -> None:
    """As `detach_snapshots`, by chain ID."""
    rows = db.execute(
        "SELECT id FROM snapshots WHERE snapshotter = ? AND chain_id = ?", (snapshotter, chain_id)
    ).fetchall()
    detach_snapshots(db, [row["id"] for row in rows])


def sweep(db: sqlite3.Connection) -> Garbage:
    """Delete the rows that nothing holds: images without a name, snapshots that no image, view,
    lease or snapshot stands on, blobs that no image or lease links."""
    db.execute("DELETE FROM images WHERE NOT EXISTS (SELECT 1 FROM names WHERE image = images.id)")
    snapshots: dict[str, list[int]] = defaultdict(list)
    freed = 0
    while rows := _sweep_snapshots(db):
        for row in rows:
            snapshots[row["snapshotter"]].append(row["id"])
            freed += row["bytes"]
    blobs = db.execute(
        "DELETE FROM blobs WHERE NOT EXISTS (SELECT 1 FROM image_blobs WHERE blob = digest)"
        " AND NOT EXISTS (SELECT 1 FROM images WHERE manifest = digest)"
        " AND NOT EXISTS (SELECT 1 FROM lease_blobs WHERE blob = digest)"
        " RETURNING digest, size, state"
    ).fetchall()
    freed += sum(row["size"] for row in blobs if row["state"] == "present")
    return Garbage(tuple(Digest(row["digest"]) for row in blobs), dict(snapshots), freed)


def _sweep_snapshots(db: sqlite3.Connection) -> Sequence[sqlite3.Row]:
    return db.execute(
        "DELETE FROM snapshots WHERE key IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM snapshots AS child WHERE child.parent = snapshots.id)"
        " AND NOT EXISTS (SELECT 1 FROM images WHERE snapshot = snapshots.id)"
        " AND NOT EXISTS (SELECT 1 FROM views WHERE snapshot = snapshots.id)"
        " AND NOT EXISTS (SELECT 1 FROM lease_snapshots WHERE snapshot = snapshots.id)"
        " RETURNING id, snapshotter, bytes"
    ).fetchall()


def _group(rows: Iterable[sqlite3.Row]) -> list[ImageRecord]:
    grouped: dict[tuple[str, str], list[sqlite3.Row]] = defaultdict(list)
    for row in rows:
        grouped[row["image_id"], row["handler"]].append(row)
    return [
        ImageRecord(
            image_id=Digest(newest["image_id"]),
            handler=newest["handler"],
            names=tuple({row["name"] for row in members}),
            manifest=Digest(newest["manifest"]),
            size=newest["size"],
            user=newest["user"],
            snapshotter=newest["snapshotter"],
            chain_id=newest["chain_id"] and Digest(newest["chain_id"]),
        )
        for members in grouped.values()
        for newest in [members[-1]]
    ]
