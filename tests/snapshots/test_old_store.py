"""Stores that earlier versions of the program wrote open, and show what they hold."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from cri_imaged.metadata import readiness, schema
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Skipped
from tests.snapshots.workbench import Bench

CONFIG, MANIFEST, LOWER, UPPER = (Digest.of(name) for name in (b"c", b"m", b"l", b"u"))


def write_first_version(root: Path) -> None:
    """An image of two layers, as the first version kept it."""
    db = sqlite3.connect(root / "metadata.db")
    db.executescript(schema.MIGRATIONS[0])
    db.execute("PRAGMA user_version=1")
    db.execute("INSERT INTO epoch VALUES ('boot')")
    for digest in (CONFIG, MANIFEST):
        db.execute("INSERT INTO blobs VALUES (?, 10, 'present', 1.5, 1)", (digest,))
    for number, (chain_id, parent) in enumerate(((LOWER, None), (UPPER, 1)), start=1):
        db.execute(
            "INSERT INTO snapshots (id, snapshotter, chain_id, parent, diff_id, bytes, inodes,"
            " labels, created, durable) VALUES (?, 'native', ?, ?, ?, 5, 2, ?, 2, 1)",
            (number, chain_id, parent, Digest.of(b"diff"), '{"a": "b"}'),
        )
        layer = root / "snapshots/native" / str(number) / "fs"
        layer.mkdir(parents=True)
        (layer / "file").write_text(f"{number}")
    db.execute(
        "INSERT INTO images VALUES (1, ?, '', ?, 'type', 10, ?, 'native', 2, 20, 'user', 3)",
        (CONFIG, MANIFEST, MANIFEST),
    )
    for name in (str(CONFIG), "docker.io/library/a:1"):
        db.execute("INSERT INTO names VALUES (?, '', 1, 4)", (name,))
    db.commit()
    db.close()


async def test_a_store_of_the_first_version(tmp_path: Path) -> None:
    write_first_version(tmp_path)
    for _ in range(2):  # what was brought up to date is opened again, too
        async with Bench.open(tmp_path, "native") as bench:
            (image,) = await bench.database.read(readiness.all_ready)
            assert (image.image_id, image.manifest, image.chain_id) == (CONFIG, MANIFEST, UPPER)
            lower, upper = await bench.snapshotter.walk()
            assert (lower.chain_id, upper.chain_id, upper.parent) == (LOWER, UPPER, LOWER)
            assert (upper.usage.bytes, upper.skipped, upper.provenance) == (5, Skipped(), ())
            (mount,) = await bench.snapshotter.view("view", UPPER)
            assert (Path(mount.source) / "file").read_text() == "2"
