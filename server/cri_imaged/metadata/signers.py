"""By which keys images were verified."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest


def add(db: sqlite3.Connection, name: str, handler: str, repository: str, key: str) -> None:
    """The image that `name` means now was verified by a key, for a pull from a repository."""
    db.execute(
        "INSERT OR IGNORE INTO signers (image, repository, key)"
        " SELECT image, ?3, ?4 FROM names WHERE name = ?1 AND handler = ?2",
        (name, handler, repository, key),
    )


@dataclass(frozen=True, slots=True)
class Verified:
    """What is known of the image that a name means."""

    target: Descriptor
    keys: frozenset[str]
    """By which it was verified, for pulls from a repository."""


def verified(db: sqlite3.Connection, name: str, handler: str, repository: str) -> Verified | None:
    """What was found of the image that `name` means; None where it means none."""
    row = db.execute(
        "SELECT images.* FROM names JOIN images ON images.id = names.image"
        " WHERE names.name = ? AND names.handler = ?",
        (name, handler),
    ).fetchone()
    if row is None:
        return None
    keys = db.execute(
        "SELECT key FROM signers WHERE image = ? AND repository = ?", (row["id"], repository)
    )
    return Verified(
        Descriptor(row["target_type"], Digest(row["target"]), row["target_size"]),
        frozenset(each["key"] for each in keys),
    )
