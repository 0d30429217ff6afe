"""A store of many images, without pulling them."""

from __future__ import annotations

import os
from pathlib import Path

from cri_imaged.images.health.durability import epoch
from cri_imaged.metadata import blobs, durability, images
from cri_imaged.metadata.database import Database
from cri_imaged.oci import media_types
from cri_imaged.oci.chain import chain_ids
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest


async def fill(root: Path, count: int) -> None:
    """A store of `count` images as pulls would leave it."""
    for folder in ("content/blobs/sha256", "content/blobs/sha512", "content/ingest"):
        os.makedirs(root / folder)
    database = await Database.open(root / "metadata.db")

    def put(db: object, data: bytes) -> Digest:
        digest = Digest.of(data)
        (root / "content/blobs/sha256" / digest.hex).write_bytes(data)
        blobs.insert(db, digest, len(data), None)  # type: ignore[arg-type]
        return digest

    def write(db: object) -> None:
        for number in range(count):
            names = (f"base{number // 10}", f"middle{number}", f"top{number}")
            layers = [put(db, name.encode()) for name in names]
            parent = None
            for chain_id in chain_ids(layers):
                snapshot(db, root, chain_id, parent)
                parent = chain_id
            config = put(db, f'{{"image": {number}}}'.encode())
            manifest = put(db, f'{{"manifest": {number}}}'.encode())
            name = f"registry.example/team{number % 20}/image{number}"
            images.save(
                db,  # type: ignore[arg-type]
                images.NewImage(
                    image_id=config,
                    handler="",
                    names=(config, f"{name}:v1", f"{name}@{manifest}"),
                    target=Descriptor(media_types.OCI_MANIFEST, manifest, 500),
                    manifest=manifest,
                    documents=frozenset((manifest, config)),
                    layers=frozenset(layers),
                    size=50_000_000,
                    user="",
                    snapshotter="overlay",
                    chain_id=parent,
                ),
            )
        durability.mark(db, durability.volatile(db))  # type: ignore[arg-type]
        durability.set_epoch(db, epoch(root))  # type: ignore[arg-type]

    await database.write(write)
    await database.close()


def snapshot(db: object, root: Path, chain_id: Digest, parent: Digest | None) -> None:
    row = db.execute(  # type: ignore[attr-defined]
        "INSERT OR IGNORE INTO snapshots (snapshotter, chain_id, parent, bytes, inodes, created)"
        " VALUES ('overlay', ?, (SELECT id FROM snapshots WHERE chain_id = ?), 1, 1, 0)"
        " RETURNING id",
        (chain_id, parent),
    ).fetchone()
    if row is not None:
        (root / "snapshots/overlay" / str(row["id"]) / "fs").mkdir(parents=True)
