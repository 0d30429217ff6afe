"""What is known of the committed snapshots of one snapshotter, by their rows alone."""

from __future__ import annotations

from collections.abc import Sequence

from cri_imaged.metadata import runtime_snapshots, snapshots
from cri_imaged.metadata.database import Database
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Lease, Skipped, SnapshotInfo


class SnapshotRows:
    """This part of `ports.Snapshotter` is the same wherever the snapshots are kept."""

    def __init__(self, name: str, database: Database) -> None:
        self.name = name
        self._database = database

    async def hold(self, chain_id: Digest, lease: Lease) -> bool:
        """See `ports.Snapshotter.hold`."""
        return await self._database.write(lambda db: snapshots.hold(db, self.name, chain_id, lease))

    async def info(self, chain_id: Digest) -> SnapshotInfo | None:
        """See `ports.Snapshotter.info`."""
        return await self._database.read(lambda db: snapshots.info(db, self.name, chain_id))

    async def walk(self) -> list[SnapshotInfo]:
        """See `ports.Snapshotter.walk`."""
        return await self._database.read(lambda db: snapshots.walk(db, self.name))

    async def skipped(self, chain_id: Digest) -> Skipped:
        """See `ports.Snapshotter.skipped`."""
        return await self._database.read(lambda db: snapshots.skipped(db, self.name, chain_id))

    async def runtimes(self) -> Sequence[str]:
        """See `ports.Snapshotter.runtimes`."""
        return await self._database.read(lambda db: runtime_snapshots.runtimes(db, self.name))
