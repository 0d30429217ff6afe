"""When images were last used, and what each of them takes: what a node's policy decides by."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from cri_imaged.metadata import snapshots
from cri_imaged.oci.digest import Digest

_STOOD_ON = (
    "SELECT snapshot FROM views"
    " UNION SELECT snapshot FROM runtime_snapshots WHERE NOT adopted AND snapshot IS NOT NULL"
)
"""Snapshots under mounts that were given out, and under what runtimes have made of their own."""


@dataclass(slots=True)
class ImageUse:
    """One image of a runtime handler."""

    last: float = 0.0
    """Unix seconds: when it was last used, pulled or imported."""
    held: bool = False
    """Whether something stands on it now."""
    imported: bool = True
    """Whether all of it came from archives."""
    parts: dict[str, int] = field(default_factory=dict)
    """Bytes on the disk of what it needs, by what tells apart blobs and snapshots."""


def mark(db: sqlite3.Connection, now: float, image_ids: Iterable[Digest]) -> None:
    """What something stands on is in use at `now`, and so are these images."""
    db.execute(f"UPDATE images SET used = ? WHERE snapshot IN ({_STOOD_ON})", (now,))
    db.executemany(
        "UPDATE images SET used = ? WHERE image_id = ?", [(now, each) for each in image_ids]
    )


def is_used_since(db: sqlite3.Connection, image_id: Digest, handler: str, since: float) -> bool:
    """Whether the image was used, pulled or imported since then (Unix seconds), or something stands
    on it now."""
    found = db.execute(
        "SELECT 1 FROM images LEFT JOIN names ON names.image = images.id"
        " WHERE images.image_id = ? AND images.handler = ? AND"
        f" (max(images.used, images.created, coalesce(names.updated, 0)) > ?"
        f" OR images.snapshot IN ({_STOOD_ON}))",
        (image_id, handler, since),
    )
    return found.fetchone() is not None


def every(db: sqlite3.Connection) -> dict[tuple[Digest, str], ImageUse]:
    """All images, by ID and runtime handler."""
    found: dict[tuple[Digest, str], ImageUse] = defaultdict(ImageUse)
    sizes = dict(db.execute("SELECT digest, size FROM blobs WHERE state = 'present'").fetchall())
    snapshot_bytes = dict(db.execute("SELECT id, bytes FROM snapshots").fetchall())
    rows = db.execute(
        "SELECT images.*,"
        " max(images.used, images.created, coalesce(max(names.updated), 0)) AS last,"
        f" coalesce(images.snapshot IN ({_STOOD_ON}), 0) AS held"
        " FROM images LEFT JOIN names ON names.image = images.id GROUP BY images.id"
    ).fetchall()
    for row in rows:
        use = found[Digest(row["image_id"]), row["handler"]]
        use.last = max(use.last, row["last"])
        use.held |= bool(row["held"])
        use.imported &= bool(row["imported"])
        linked = db.execute("SELECT blob FROM image_blobs WHERE image = ?", (row["id"],))
        for digest in (row["manifest"], *(each["blob"] for each in linked)):
            use.parts[digest] = sizes.get(digest, 0)
        if row["snapshot"] is not None:
            for each in snapshots.stack(db, row["snapshot"]):
                use.parts[f"snapshot {each}"] = snapshot_bytes.get(each, 0)
    return dict(found)
