"""Rows of images and their names. Functions over a connection; `Database` runs them in
transactions."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from cri_imaged.metadata import snapshots
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import BlobInfo


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


class Meant(NamedTuple):
    """An image that a reference stands for."""

    target: Descriptor
    blobs: dict[Digest, bool]
    """All that it links, and whether it is a layer: else it is a document."""


def save(db: sqlite3.Connection, image: NewImage) -> None:
    """Make `image` known under its names; a name that meant another image is moved.

    Raises:
        sqlite3.IntegrityError: a blob or the snapshot is not there.
    """
    now = time.time()
    snapshot = None
    if image.chain_id is not None:
        snapshot = snapshots.committed(db, image.snapshotter, image.chain_id)
        if snapshot is None:
            raise sqlite3.IntegrityError(f"snapshot {image.chain_id} is not committed")
    (row,) = db.execute(
        "INSERT INTO images (image_id, handler, target, target_type, target_size, manifest,"
        " snapshotter, snapshot, size, user, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (handler, target, manifest) DO UPDATE SET"
        " snapshotter = excluded.snapshotter, snapshot = excluded.snapshot, size = excluded.size,"
        " imported = 0"
        " RETURNING id",
        (
            image.image_id,
            image.handler,
            image.target.digest,
            image.target.media_type,
            image.target.size,
            image.manifest,
            image.snapshotter,
            snapshot,
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


def imported(db: sqlite3.Connection, handler: str, target: Digest, manifest: Digest) -> None:
    """An image came from an archive. Saved again by a pull, it is a registry's."""
    db.execute(
        "UPDATE images SET imported = 1 WHERE handler = ? AND target = ? AND manifest = ?",
        (handler, target, manifest),
    )


def is_imported(db: sqlite3.Connection, image_id: Digest, handler: str) -> bool:
    """Whether an image is here from archives alone."""
    row = db.execute(
        "SELECT MIN(imported) FROM images WHERE image_id = ? AND handler = ?", (image_id, handler)
    ).fetchone()
    return bool(row[0])


def add_name(db: sqlite3.Connection, name: str, handler: str, target: Digest, new: str) -> bool:
    """Have `new` mean the image that `name` means; False where that is none, or is not of this
    `target`."""
    added = db.execute(
        "INSERT INTO names (name, handler, image, updated)"
        " SELECT ?1, names.handler, image, ?2 FROM names JOIN images ON images.id = image"
        " WHERE name = ?3 AND names.handler = ?4 AND target = ?5"
        " ON CONFLICT (name, handler) DO UPDATE SET image = excluded.image, updated = ?2",
        (new, time.time(), name, handler, target),
    )
    return added.rowcount > 0


def remove_name(db: sqlite3.Connection, name: str, handler: str, image_id: Digest) -> bool:
    """Have `name` mean nothing any more; False where it does not mean this image."""
    removed = db.execute(
        "DELETE FROM names WHERE name = ?1 AND handler = ?2"
        " AND image IN (SELECT id FROM images WHERE image_id = ?3 AND handler = ?2)",
        (name, handler, image_id),
    )
    return removed.rowcount > 0


def repository_has(db: sqlite3.Connection, repository: str, digest: Digest) -> bool:
    """Whether an image that is named after `repository` (`registry/path`) links a blob."""
    # By its few names, not by the many images that share a base layer: CROSS JOIN keeps the order.
    return any(
        db.execute(
            "SELECT 1 FROM names CROSS JOIN image_blobs USING (image)"
            " WHERE name > ? AND name < ? AND blob = ? LIMIT 1",
            (repository + mark, repository + chr(ord(mark) + 1), digest),
        ).fetchone()
        for mark in ":@"
    )


def owners(db: sqlite3.Connection, names: Iterable[str], handler: str) -> set[Digest]:
    """The image IDs that `names` mean now, ready or not."""
    query = (
        "SELECT image_id FROM names JOIN images ON images.id = names.image"
        " WHERE names.name = ? AND names.handler = ?"
    )
    rows = [db.execute(query, (name, handler)).fetchone() for name in names]
    return {Digest(row["image_id"]) for row in rows if row is not None}


def meant(db: sqlite3.Connection, name: str) -> Meant | None:
    """What the reference `name` was when it was last pulled, for any handler."""
    row = db.execute(
        "SELECT images.id, target_type, target, target_size FROM names"
        " JOIN images ON images.id = names.image"
        " WHERE names.name = ? ORDER BY names.updated DESC",
        (name,),
    ).fetchone()
    if row is None:
        return None
    linked = db.execute("SELECT blob, layer FROM image_blobs WHERE image = ?", (row["id"],))
    return Meant(
        Descriptor(row["target_type"], Digest(row["target"]), row["target_size"]),
        {Digest(blob): bool(layer) for blob, layer in linked},
    )


def stand_on(db: sqlite3.Connection, image: int, snapshotter: str, chain_id: Digest | None) -> None:
    """An image's snapshots were made anew, by this snapshotter: let it hold these."""
    snapshot = snapshots.committed(db, snapshotter, chain_id) if chain_id is not None else None
    db.execute(
        "UPDATE images SET snapshotter = ?, snapshot = ? WHERE id = ?",
        (snapshotter, snapshot, image),
    )


def manifests(db: sqlite3.Connection) -> list[Digest]:
    """The manifest of every image."""
    rows = db.execute("SELECT DISTINCT manifest FROM images")
    return [Digest(row["manifest"]) for row in rows]


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


@dataclass(frozen=True, slots=True)
class Held:
    """What an image held."""

    blobs: frozenset[Digest]
    snapshots: tuple[int, ...]
    """The topmost ones."""


def held(db: sqlite3.Connection, image_id: Digest, handler: str) -> Held:
    """What an image holds directly."""
    rows = db.execute(
        "SELECT id, manifest, snapshot FROM images WHERE image_id = ? AND handler = ?",
        (image_id, handler),
    ).fetchall()
    blobs = {Digest(row["manifest"]) for row in rows}
    for row in rows:
        linked = db.execute("SELECT blob FROM image_blobs WHERE image = ?", (row["id"],))
        blobs.update(Digest(link["blob"]) for link in linked)
    tops = {row["snapshot"] for row in rows if row["snapshot"] is not None}
    return Held(frozenset(blobs), tuple(tops))


def remove(db: sqlite3.Connection, image_id: Digest, handler: str) -> None:
    """Forget an image with all its names. What it held may be garbage."""
    ours = "SELECT id FROM images WHERE image_id = ? AND handler = ?"
    db.execute(f"DELETE FROM names WHERE image IN ({ours})", (image_id, handler))
    db.execute("DELETE FROM images WHERE image_id = ? AND handler = ?", (image_id, handler))


@dataclass(frozen=True, slots=True)
class Exported:
    """An image as it was pulled: all that is here of what its reference meant."""

    target: Descriptor
    manifests: tuple[Digest, ...]
    """One for each platform that was pulled."""
    blobs: tuple[BlobInfo, ...]


def exported(db: sqlite3.Connection, name: str, handler: str) -> Exported | None:
    """The image that `name`, a reference or an ID as it is stored, means; and what was pulled of
    the same index for others."""
    row = db.execute(
        "SELECT target_type, target, target_size FROM names JOIN images ON images.id = names.image"
        " WHERE names.name = ? AND names.handler = ?",
        (name, handler),
    ).fetchone()
    if row is None:
        return None
    target = (row["target"],)
    manifests = db.execute(
        "SELECT DISTINCT manifest FROM images WHERE target = ? ORDER BY id", target
    )
    blobs = db.execute(
        "SELECT DISTINCT blobs.digest, blobs.size, blobs.state FROM images"
        " JOIN image_blobs ON image_blobs.image = images.id"
        " JOIN blobs ON blobs.digest = image_blobs.blob WHERE images.target = ?"
        " ORDER BY blobs.digest",
        target,
    )
    return Exported(
        Descriptor(row["target_type"], Digest(row["target"]), row["target_size"]),
        tuple(Digest(each["manifest"]) for each in manifests),
        tuple(BlobInfo(Digest(each["digest"]), each["size"], each["state"]) for each in blobs),
    )
