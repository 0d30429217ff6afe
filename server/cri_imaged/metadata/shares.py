"""What each image takes on the disk, and how much of it is its own."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from cri_imaged.oci.digest import Digest

_SHARES = """
    WITH RECURSIVE chain(image_id, handler, id) AS (
        SELECT image_id, handler, snapshot FROM images WHERE snapshot IS NOT NULL
        UNION SELECT image_id, handler, parent FROM chain JOIN snapshots USING (id)
        WHERE parent IS NOT NULL
    ),
    held(image_id, handler, thing, bytes) AS (
        SELECT image_id, handler, id, bytes FROM chain JOIN snapshots USING (id)
        UNION SELECT image_id, handler, digest, blobs.size FROM images
        JOIN image_blobs ON image_blobs.image = images.id
        JOIN blobs ON blobs.digest = image_blobs.blob WHERE blobs.state = 'present'
    ),
    counted AS (SELECT *, count(*) OVER (PARTITION BY thing) AS users FROM held)
    SELECT image_id, handler, sum(bytes) AS bytes, sum(bytes * (users = 1)) AS own
    FROM counted GROUP BY image_id, handler
"""


@dataclass(frozen=True, slots=True)
class DiskShare:
    """One image's: blobs and snapshots."""

    bytes: int
    unique_bytes: int
    """What no other image stands on."""


def of_images(db: sqlite3.Connection) -> dict[tuple[Digest, str], DiskShare]:
    """By image ID and handler. Reads all rows of images: not for what is asked often."""
    return {
        (Digest(row["image_id"]), row["handler"]): DiskShare(row["bytes"], row["own"])
        for row in db.execute(_SHARES)
    }
