"""What the names of an image resolved to, and which images stand on something: for runtimes, which
know one image for each name, whatever our runtime handlers."""

from __future__ import annotations

import sqlite3

from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest


def handlers(db: sqlite3.Connection, image_id: Digest) -> list[str]:
    """The runtime handlers that have this image, the default one first."""
    rows = db.execute(
        "SELECT DISTINCT handler FROM images WHERE image_id = ? ORDER BY handler", (image_id,)
    )
    return [row["handler"] for row in rows]


def named(db: sqlite3.Connection, image_id: Digest) -> dict[str, Descriptor]:
    """Each name of an image, with the index or manifest that it means. A name that means another
    image for an earlier handler (the default one is the first) is that one's."""
    rows = db.execute(
        "SELECT names.name, target_type, target, target_size FROM names"
        " JOIN images ON images.id = names.image WHERE image_id = ?"
        " AND NOT EXISTS (SELECT 1 FROM names AS first"
        "  WHERE first.name = names.name AND first.handler < names.handler)",
        (image_id,),
    )
    return {
        row["name"]: Descriptor(row["target_type"], Digest(row["target"]), row["target_size"])
        for row in rows
    }


def documents(db: sqlite3.Connection, image_id: Digest) -> list[Digest]:
    """The indexes, manifests and the config of an image."""
    rows = db.execute(
        "SELECT DISTINCT blob FROM image_blobs JOIN images ON images.id = image_blobs.image"
        " WHERE image_id = ? AND layer = 0 ORDER BY blob",
        (image_id,),
    )
    return [Digest(row["blob"]) for row in rows]


def touched(db: sqlite3.Connection, subject: str) -> set[Digest]:
    """The images that bear the name `subject`, have it among their documents, or have it for the
    chainID of their layers or of the lowest of them."""
    rows = db.execute(
        "SELECT image_id FROM names JOIN images ON images.id = names.image WHERE name = ?1"
        " UNION SELECT image_id FROM image_blobs"
        "  JOIN images ON images.id = image_blobs.image WHERE blob = ?1 AND layer = 0"
        " UNION SELECT image_id FROM images WHERE snapshot IN ("
        "  WITH RECURSIVE above(id) AS ("
        "   SELECT id FROM snapshots WHERE chain_id = ?1"
        "   UNION SELECT snapshots.id FROM snapshots JOIN above ON snapshots.parent = above.id)"
        "  SELECT id FROM above)",
        (subject,),
    )
    return {Digest(row["image_id"]) for row in rows}


def chains(db: sqlite3.Connection) -> set[Digest]:
    """The chainIDs of all layers that images stand on, the lower ones too."""
    rows = db.execute(
        "WITH RECURSIVE below(id) AS ("
        " SELECT snapshot FROM images WHERE snapshot IS NOT NULL"
        " UNION SELECT snapshots.parent FROM snapshots JOIN below ON snapshots.id = below.id"
        "  WHERE snapshots.parent IS NOT NULL)"
        " SELECT chain_id FROM snapshots WHERE id IN (SELECT id FROM below)"
        " AND chain_id IS NOT NULL"
    )
    return {Digest(row["chain_id"]) for row in rows}
