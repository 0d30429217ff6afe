"""What happens at a start, before anything is shown."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import structlog

from cri_imaged.metadata import blobs, durability, images, leases
from cri_imaged.metadata.database import Database
from cri_imaged.ports import ContentStore, Snapshotter

log = structlog.get_logger()


async def recover(
    database: Database,
    content: ContentStore,
    snapshotters: Iterable[Snapshotter],
    epoch: str,
    *,
    salvage: bool,
) -> None:
    """Bring rows and files into agreement: clear what a crash left, distrust what a power cut may
    have torn, and take note of what somebody else removed. With `salvage` blobs without a row are
    left for the salvager."""
    await database.write(leases.inherit)
    before = await database.read(durability.epoch)
    if before is not None and before != epoch:
        await _distrust(database, content)
    if not salvage:
        await content.reap()
    for snapshotter in snapshotters:
        await snapshotter.reap()
    await database.write(lambda db: durability.set_epoch(db, epoch), durable=True)
    for image in await database.read(images.damaged):
        log.warning("image is damaged and hidden until it is whole again", names=image.names)


async def _distrust(database: Database, content: ContentStore) -> None:
    """Another boot or file system: verify each blob that had not reached the disk, and give up
    each such snapshot."""
    rows = await database.read(durability.volatile)
    damaged = [digest for digest in rows.blobs if not await content.verify(digest)]

    def give_up(db: sqlite3.Connection) -> None:
        blobs.lost(db, damaged)
        images.detach_snapshots(db, rows.snapshots)

    await database.write(give_up, durable=True)
    content.drop_ingests(max_seconds=0, max_bytes=0)
    if rows:
        log.warning(
            "the machine went down before all was on the disk",
            blobs_verified=len(rows.blobs) - len(damaged),
            blobs_lost=len(damaged),
            snapshots_given_up=len(rows.snapshots),
        )
