"""The schema, and how an older one becomes it.

`PRAGMA user_version` counts the migrations that were applied. A migration, once released, is
never edited; a change is another one at the end.

What holds what: a name holds an image; an image holds blobs and its topmost snapshot; a snapshot
and a view hold the snapshot under them; a lease holds blobs and snapshots; a runtime's snapshot
holds the one under it, and the snapshot of ours that it stands for or on. All of it is foreign
keys, and garbage is what nothing holds. Provenance (which blob, of which repository, gave a
snapshot) holds nothing, and goes with its snapshot.

`durable` says that what a row speaks of has reached the disk. A row that is not durable is good
only within the `epoch` (boot and file system) that wrote it: at a start under another epoch such
rows are verified or dropped before anything is shown.

`signers` has the keys (their fingerprints) by which pulls from a repository verified an image.

`imported` says that an image came from an archive, and `used` (Unix seconds) when something last
stood on it, as was seen; what an older store had counts as used when it was migrated. `preloads`
has the archives of the preload folder that were imported.

`file_digest` is of a snapshot whose layer is one file, with the size and the time (nanoseconds)
that it had when it was read; empty where that is to be done, as a migrated one's is not.

`totals` is what the blobs that are present (under an empty name) and each snapshotter's snapshots
take: triggers keep it, so that nobody has to add up all rows.

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

_V2 = """
CREATE TABLE provenance (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    snapshot INTEGER NOT NULL REFERENCES snapshots(id) ON DELETE CASCADE,
    blob TEXT NOT NULL,
    repository TEXT NOT NULL,
    blob_size INTEGER NOT NULL,
    diff_id TEXT NOT NULL,
    size INTEGER NOT NULL,
    entries INTEGER NOT NULL,
    UNIQUE (snapshot, blob, repository)
);
ALTER TABLE snapshots ADD COLUMN skipped TEXT NOT NULL DEFAULT '{}';
ALTER TABLE snapshots DROP COLUMN labels;
ALTER TABLE snapshots DROP COLUMN diff_id;
"""

_V3 = """
CREATE TABLE runtime_snapshots (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    runtime TEXT NOT NULL,
    snapshotter TEXT NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('active', 'view', 'committed')),
    adopted INTEGER NOT NULL,
    parent INTEGER REFERENCES runtime_snapshots(id),
    snapshot INTEGER REFERENCES snapshots(id),
    labels TEXT NOT NULL,
    bytes INTEGER,
    inodes INTEGER,
    created REAL NOT NULL,
    updated REAL NOT NULL,
    UNIQUE (runtime, snapshotter, name)
);
CREATE INDEX runtime_snapshots_parent ON runtime_snapshots(parent);
CREATE INDEX runtime_snapshots_snapshot ON runtime_snapshots(snapshot);
"""

_V4 = """
CREATE INDEX images_manifest ON images(manifest);
CREATE INDEX blobs_volatile ON blobs(digest) WHERE NOT durable AND state = 'present';
CREATE INDEX snapshots_volatile ON snapshots(id) WHERE NOT durable AND chain_id IS NOT NULL;

CREATE TABLE totals (
    store TEXT PRIMARY KEY,
    bytes INTEGER NOT NULL,
    inodes INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO totals
    SELECT '', coalesce(sum(size), 0), count(*) FROM blobs WHERE state = 'present';
INSERT INTO totals SELECT snapshotter, sum(bytes), sum(inodes) FROM snapshots GROUP BY snapshotter;

CREATE TRIGGER blobs_inserted AFTER INSERT ON blobs WHEN new.state = 'present' BEGIN
    UPDATE totals SET bytes = bytes + new.size, inodes = inodes + 1 WHERE store = '';
END;
CREATE TRIGGER blobs_updated AFTER UPDATE OF size, state ON blobs BEGIN
    UPDATE totals SET
        bytes = bytes - old.size * (old.state = 'present') + new.size * (new.state = 'present'),
        inodes = inodes - (old.state = 'present') + (new.state = 'present')
        WHERE store = '';
END;
CREATE TRIGGER blobs_deleted AFTER DELETE ON blobs WHEN old.state = 'present' BEGIN
    UPDATE totals SET bytes = bytes - old.size, inodes = inodes - 1 WHERE store = '';
END;
CREATE TRIGGER snapshots_inserted AFTER INSERT ON snapshots BEGIN
    INSERT INTO totals VALUES (new.snapshotter, new.bytes, new.inodes)
        ON CONFLICT DO UPDATE SET bytes = bytes + new.bytes, inodes = inodes + new.inodes;
END;
CREATE TRIGGER snapshots_updated AFTER UPDATE OF bytes, inodes ON snapshots BEGIN
    UPDATE totals SET bytes = bytes - old.bytes + new.bytes,
        inodes = inodes - old.inodes + new.inodes WHERE store = new.snapshotter;
END;
CREATE TRIGGER snapshots_deleted AFTER DELETE ON snapshots BEGIN
    UPDATE totals SET bytes = bytes - old.bytes, inodes = inodes - old.inodes
        WHERE store = old.snapshotter;
END;
"""

_V5 = """
CREATE TABLE pins (
    name TEXT PRIMARY KEY,
    created REAL NOT NULL
) WITHOUT ROWID;
"""

_V6 = """
CREATE TABLE signers (
    image INTEGER NOT NULL REFERENCES images(id) ON DELETE CASCADE,
    repository TEXT NOT NULL,
    key TEXT NOT NULL,
    PRIMARY KEY (image, repository, key)
) WITHOUT ROWID;
"""

_V7 = """
ALTER TABLE provenance ADD COLUMN secret TEXT NOT NULL DEFAULT '';
"""

_V8 = """
CREATE TABLE pull_counts (
    name TEXT NOT NULL,
    handler TEXT NOT NULL,
    image_id TEXT NOT NULL,
    pulls INTEGER NOT NULL,
    fetched INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    first REAL NOT NULL,
    last REAL NOT NULL,
    PRIMARY KEY (name, handler, image_id)
) WITHOUT ROWID;
CREATE INDEX pull_counts_last ON pull_counts(last);
CREATE TABLE pull_reports (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    image_id TEXT NOT NULL,
    report BLOB NOT NULL
);
"""

_V9 = """
ALTER TABLE images ADD COLUMN imported INTEGER NOT NULL DEFAULT 0;
ALTER TABLE images ADD COLUMN used REAL NOT NULL DEFAULT 0;
UPDATE images SET used = CAST(strftime('%s', 'now') AS REAL), imported =
    EXISTS (SELECT 1 FROM provenance p WHERE p.snapshot = images.snapshot
        AND p.repository = 'import')
    AND NOT EXISTS (SELECT 1 FROM provenance p WHERE p.snapshot = images.snapshot
        AND p.repository != 'import');
CREATE TABLE preloads (
    file TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    modified INTEGER NOT NULL,
    names TEXT NOT NULL,
    imported REAL NOT NULL
) WITHOUT ROWID;
"""

_V10 = """
ALTER TABLE snapshots ADD COLUMN file_digest TEXT;
ALTER TABLE snapshots ADD COLUMN file_size INTEGER;
ALTER TABLE snapshots ADD COLUMN file_modified INTEGER;
CREATE INDEX snapshots_unread ON snapshots(snapshotter) WHERE file_digest = '';
"""

MIGRATIONS: tuple[str, ...] = (_V1, _V2, _V3, _V4, _V5, _V6, _V7, _V8, _V9, _V10)


class SchemaTooNewError(ConfigError):
    """A newer version of the program wrote this store."""


def migrate(db: sqlite3.Connection) -> None:
    """Apply the migrations that are missing, each in one transaction.

    Raises:
        SchemaTooNewError: the store's version is above ours.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise SchemaTooNewError(
            f"the store has schema version {version}, this program knows up to "
            f"{len(MIGRATIONS)}: run the newer cri-imaged that wrote it, or choose another root"
        )
    for number, migration in enumerate(MIGRATIONS[version:], start=version + 1):
        db.executescript(f"BEGIN IMMEDIATE;{migration}PRAGMA user_version={number};COMMIT;")
