"""Which images are ready: all their content is there, and all their snapshots are committed."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

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

    @property
    def is_artifact(self) -> bool:
        """Whether it is an OCI artifact, which has no config of an image."""
        return self.image_id == self.manifest


def find(db: sqlite3.Connection, image_id: Digest, handler: str) -> ImageRecord | None:
    """The image, or None where it is unknown or not ready."""
    query = f"{_SELECT} AND images.image_id = ? AND images.handler = ? ORDER BY images.id"
    records = _group(db.execute(query, (image_id, handler)))
    return records[0] if records else None


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
