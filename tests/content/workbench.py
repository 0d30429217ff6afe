"""A content store on a root of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cri_imaged.content.store import FileContentStore
from cri_imaged.limits import KIB
from cri_imaged.metadata import leases
from cri_imaged.metadata.database import Database
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.media_types import OCI_LAYER
from cri_imaged.ports import BlobInfo, ContentStore, Ingest, Lease
from cri_imaged.trash import Trash

PIECE = 64 * KIB


class Bench:
    """A store with its database, trash and a lease."""

    def __init__(self, root: Path, database: Database, trash: Trash) -> None:
        self.root = root
        self.database = database
        self.trash = trash
        self.files = FileContentStore(root / "content", database, trash, lambda: None)
        self.lease = leases.new()

    @classmethod
    @asynccontextmanager
    async def open(cls, root: Path) -> AsyncIterator[Bench]:
        database = await Database.open(root / "metadata.db")
        trash = Trash(root / "trash")
        try:
            bench = cls(root, database, trash)
            await database.write(lambda db: leases.insert(db, bench.lease))
            yield bench
        finally:
            await trash.drain()
            trash.close()
            await database.close()

    @property
    def store(self) -> ContentStore:
        """What is tested, as the rest of the daemon sees it."""
        return self.files

    async def add(self, data: bytes, algorithm: str = "sha256") -> Digest:
        """Commit `data` as a blob."""
        wanted = descriptor(data, algorithm)
        async with self.store.writer(wanted, self.lease) as ingest:
            await ingest.write(data)
            await ingest.commit()
        return wanted.digest

    async def leave(self, data: bytes, held: int) -> Descriptor:
        """Leave the first `held` bytes of `data` as a partial blob."""
        wanted = descriptor(data)
        async with self.store.writer(wanted, self.lease) as ingest:
            await ingest.write(data[:held])
        return wanted

    def on_disk(self) -> dict[str, int]:
        """Every file of the store and its size."""
        folder = self.root / "content"
        return {
            str(path.relative_to(folder)): path.stat().st_size
            for path in folder.rglob("*")
            if path.is_file()
        }

    async def held_by(self, lease: Lease) -> set[str]:
        """Digests that a lease holds."""
        rows = await self.database.read(
            lambda db: db.execute(
                "SELECT blob FROM lease_blobs WHERE lease = ?", (lease.id,)
            ).fetchall()
        )
        return {row["blob"] for row in rows}


def descriptor(data: bytes, algorithm: str = "sha256", size: int | None = None) -> Descriptor:
    """What names `data`."""
    return Descriptor(OCI_LAYER, Digest.of(data, algorithm), len(data) if size is None else size)


def present(data: bytes, algorithm: str = "sha256") -> BlobInfo:
    """The info of a blob that is there."""
    return BlobInfo(Digest.of(data, algorithm), len(data))


async def bring(ingest: Ingest, data: bytes) -> None:
    for at in range(0, len(data), PIECE):
        await ingest.write(data[at : at + PIECE])
    await ingest.commit()
