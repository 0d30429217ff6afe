"""`discard_unpacked_layers`: compressed blobs go when what they unpacked to is safe."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from cri_imaged.errors import NotFoundError
from cri_imaged.images.listing import write_listing
from cri_imaged.metadata import durability
from cri_imaged.metadata.database import Database
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import ContentStore, Snapshotter


def listing_of(tree: Path) -> Path:
    """Where it is written down what a snapshot's tree holds."""
    return tree.parent / "listing"


class Discarder:
    """Drops the blobs of layers whose snapshots are durable. What each snapshot holds is written
    down before, as the blob will not be there any more to compare it with."""

    def __init__(
        self,
        database: Database,
        content: ContentStore,
        snapshotters: Mapping[str, Snapshotter],
    ) -> None:
        self._database = database
        self._content = content
        self._snapshotters = snapshotters

    async def discard(self) -> None:
        """Drop what can be dropped now. Nothing may become durable meanwhile: it would have no
        listing yet."""
        if not await self._database.read(durability.discardable):
            return
        for snapshotter in self._snapshotters.values():
            for info in await snapshotter.walk():
                await self._write_listing(snapshotter, info.chain_id)

        def discard(db: sqlite3.Connection) -> list[Digest]:
            digests = durability.discardable(db)
            durability.discard(db, digests)
            return digests

        await self._content.reclaim(await self._database.write(discard, durable=True))

    async def _write_listing(self, snapshotter: Snapshotter, chain_id: Digest) -> None:
        try:
            tree = await snapshotter.path(chain_id)
            if not listing_of(tree).exists():
                await asyncio.to_thread(write_listing, tree, listing_of(tree))
        except (NotFoundError, OSError):
            if await snapshotter.info(chain_id) is not None:
                raise  # and else it was removed meanwhile
