"""`discard_unpacked_layers`: compressed blobs go when what they unpacked to is safe."""

from __future__ import annotations

import sqlite3

from cri_imaged.images.stores import Stores
from cri_imaged.metadata import durability
from cri_imaged.oci.digest import Digest


class Discarder:
    """Drops the blobs of layers whose snapshots are durable. What each snapshot holds is written
    down before, as the blob will not be there any more to compare it with."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    async def discard(self) -> None:
        """Drop what can be dropped now. Nothing may become durable meanwhile: it would have no
        listing yet."""
        if not await self._stores.database.read(durability.discardable):
            return
        for snapshotter in self._stores.snapshotters.values():
            for info in await snapshotter.walk():
                await snapshotter.write_listing(info.chain_id)

        def discard(db: sqlite3.Connection) -> list[Digest]:
            digests = durability.discardable(db)
            durability.discard(db, digests)
            return digests

        await self._stores.content.reclaim(await self._stores.database.write(discard, durable=True))
