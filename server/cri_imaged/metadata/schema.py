"""The schema, and how an older one becomes it.

`PRAGMA user_version` counts the migrations that were applied. A migration, once released, is
never edited; a change is another one at the end.

What holds what: a name holds an image; an image holds blobs and its topmost snapshot; a snapshot
and a view hold the snapshot under them; a lease holds blobs and snapshots. All of it is foreign
keys, and garbage is what nothing holds.

`durable` says that what a row speaks of has reached the disk. A row that is not durable is good
only within the `epoch` (boot and file system) that wrote it: at a start under another epoch such
rows are verified or dropped before anything is shown.

A blob is `discarded` on purpose once its snapshot is durable, and `lost` where its file is gone or
wrong. A snapshot is lost where it has neither key nor chain ID: its chain ID is free for another
one, and images that stand on it are not ready.
"""

from __future__ import annotations

import sqlite3

from cri_imaged.errors import ConfigError

_V1 = """
CREATE TABLE epoch (
    value TEXT NOT NULL
);

CREATE TABLE blobs (
    digest TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'present' CHECK (state IN ('present', 'discarded', 'lost')),
    created REAL NOT NULL,
    durable INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

CREATE TABLE snapshots (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    snapshotter TEXT NOT NULL,
    chain_id TEXT,
    key TEXT,
    parent INTEGER REFERENCES snapshots(id),
    diff_id TEXT,
    bytes INTEGER NOT NULL DEFAULT 0,
    inodes INTEGER NOT NULL DEFAULT 0,
    labels TEXT NOT NULL DEFAULT '{}',
    created REAL NOT NULL,
    durable INTEGER NOT NULL DEFAULT 0,
    UNIQUE (snapshotter, chain_id),
    UNIQUE (snapshotter, key)
);
CREATE INDEX snapshots_parent ON snapshots(parent);

CREATE TABLE views (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    snapshotter TEXT NOT NULL,
    key TEXT NOT NULL,
    snapshot INTEGER NOT NULL REFERENCES snapshots(id),
    writable INTEGER NOT NULL,
    created REAL NOT NULL,
    UNIQUE (snapshotter, key)
);
CREATE INDEX views_snapshot ON views(snapshot);

CREATE TABLE leases (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    created REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE lease_blobs (
    lease TEXT NOT NULL REFERENCES leases(id) ON DELETE CASCADE,
    blob TEXT NOT NULL REFERENCES blobs(digest) ON DELETE CASCADE,
    PRIMARY KEY (lease, blob)
) WITHOUT ROWID;
CREATE INDEX lease_blobs_blob ON lease_blobs(blob);

CREATE TABLE lease_snapshots (
    lease TEXT NOT NULL REFERENCES leases(id) ON DELETE CASCADE,
    snapshot INTEGER NOT NULL REFERENCES snapshots(id) ON DELETE CASCADE,
    PRIMARY KEY (lease, snapshot)
) WITHOUT ROWID;
CREATE INDEX lease_snapshots_snapshot ON lease_snapshots(snapshot);

CREATE TABLE images (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    image_id TEXT NOT NULL,
    handler TEXT NOT NULL,
    target TEXT NOT NULL,
    target_type TEXT NOT NULL,
    target_size INTEGER NOT NULL,
    manifest TEXT NOT NULL REFERENCES blobs(digest),
    snapshotter TEXT NOT NULL,
    snapshot INTEGER REFERENCES snapshots(id),
    size INTEGER NOT NULL,
    user TEXT NOT NULL,
    created REAL NOT NULL,
    UNIQUE (handler, target, manifest)
);
CREATE INDEX images_image_id ON images(image_id);
CREATE INDEX images_snapshot ON images(snapshot);

CREATE TABLE image_blobs (
    image INTEGER NOT NULL REFERENCES images(id) ON DELETE CASCADE,
    blob TEXT NOT NULL REFERENCES blobs(digest),
    layer INTEGER NOT NULL,
    PRIMARY KEY (image, blob)
) WITHOUT ROWID;
CREATE INDEX image_blobs_blob ON image_blobs(blob);

CREATE TABLE names (
    name TEXT NOT NULL,
    handler TEXT NOT NULL,
    image INTEGER NOT NULL REFERENCES images(id),
    updated REAL NOT NULL,
    PRIMARY KEY (name, handler)
) WITHOUT ROWID;
CREATE INDEX names_image ON names(image);
"""

MIGRATIONS: tuple[str, ...] = (_V1,)


class SchemaTooNewError(ConfigError):
    """A newer version of the program wrote this store."""


def migrate(connection: sqlite3.Connection) -> None:
    """Apply the migrations that are missing, each in one transaction.

    Raises:
        SchemaTooNewError: the store's version is above ours.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise SchemaTooNewError(
            f"the store has schema version {version}, this program knows up to "
            f"{len(MIGRATIONS)}: run the newer cri-imaged that wrote it, or choose another root"
        )
    for number, migration in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE;{migration}PRAGMA user_version={number};COMMIT;")
