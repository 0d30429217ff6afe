"""What happens at a start, before anything is shown."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

import structlog

from cri_imaged.images.stores import Stores
from cri_imaged.metadata import blobs, durability, leases, readiness
from cri_imaged.metadata.database import Database
from cri_imaged.ports import ContentStore, Snapshotter, View

log = structlog.get_logger()


async def recover(
    stores: Stores,
    epoch: str,
    *,
    unmounted: Callable[[Sequence[View]], Sequence[str]],
) -> bool:
    """Bring rows and files into agreement: clear what a crash left, distrust what a power cut may
    have torn, and take note of what somebody else removed. `unmounted` gives the keys of the views
    that nobody has mounted.

    Returns whether the database is new. Blobs without a row are left then, to be salvaged.
    """
    database, content = stores.database, stores.content
    await database.write(leases.inherit, makes_room=True)
    before = await database.read(durability.epoch)
    rebooted = before != epoch
    if rebooted:
        await _distrust(database, content)
    if before is not None:
        await content.reap()
    for snapshotter in stores.snapshotters.values():
        await snapshotter.reap()
        await _reconcile_views(snapshotter, unmounted, release=rebooted)
    if before is not None:
        await database.write(lambda db: durability.set_epoch(db, epoch), durable=True)
    for image in await database.read(readiness.damaged):
        log.warning("image is damaged and hidden until it is whole again", names=image.names)
    return before is None


async def _distrust(database: Database, content: ContentStore) -> None:
    """Another boot or file system: verify each blob that had not reached the disk, and give up
    each such snapshot."""
    rows = await database.read(durability.volatile)
    damaged = [digest for digest in rows.blobs if not await content.verify(digest)]

    def give_up(db: sqlite3.Connection) -> None:
        blobs.lost(db, damaged)
        durability.give_up(db, rows)

    await database.write(give_up, durable=True)
    await content.drop_ingests(max_seconds=0, max_bytes=0)
    if rows:
        log.warning(
            "the machine went down before all was on the disk",
            blobs_verified=len(rows.blobs) - len(damaged),
            blobs_lost=len(damaged),
            snapshots_given_up=len(rows.snapshots),
        )


async def _reconcile_views(
    snapshotter: Snapshotter, unmounted: Callable[[Sequence[View]], Sequence[str]], *, release: bool
) -> None:
    """No mount and no process outlives a reboot, so a read-only view that nobody has mounted
    after one is released. Any other may be in use where we cannot look, or hold what was written
    into it: it is only told."""
    views = await snapshotter.views()
    stale = set(unmounted(views))
    for view in views:
        if view.key not in stale:
            continue
        if release and not view.writable:
            await snapshotter.remove(view.key)
            log.info("view released: nobody has it mounted since the reboot", key=view.key)
        else:
            log.warning("view is not mounted here; release it if nobody uses it", key=view.key)
