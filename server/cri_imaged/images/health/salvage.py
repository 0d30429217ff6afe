"""When the metadata database is corrupt: it is set aside, and what the content store still holds
becomes known again. Names are lost with the database; images are shown by their IDs, and a pull by
name finds its blobs here."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import structlog

from cri_imaged.errors import ImagedError
from cri_imaged.images.leases import always, holding
from cri_imaged.images.pull.plan import compressed_size
from cri_imaged.images.pull.ready import ImageMaker, Wanted
from cri_imaged.images.stores import Stores
from cri_imaged.metadata import blobs, durability, images
from cri_imaged.metadata.database import CorruptDatabaseError, Database
from cri_imaged.metadata.images import NewImage
from cri_imaged.oci.artifacts import image_id, read_image
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.documents import Config, Manifest, parse_document, type_of
from cri_imaged.ports import Lease, Snapshotter

log = structlog.get_logger()


_RESERVE = 4 << 20
"""Bytes for the transactions that make room on a full disk: hundreds of pages."""


async def open_database(path: Path) -> Database:
    """Open the database at `path`; a corrupt one is set aside for a new one.

    Raises:
        SchemaTooNewError: a newer version of the program wrote it.
        NoSpaceError
    """
    try:
        return await Database.open(path, reserve=_RESERVE)
    except CorruptDatabaseError as error:
        suffix = f".damaged-{int(time.time())}"
        for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            if file.exists():
                file.rename(f"{file}{suffix}")
        log.error(
            "metadata database is corrupt: set aside, images are salvaged from their blobs",
            error=str(error),
            set_aside=f"{path}{suffix}",
        )
        return await Database.open(path, reserve=_RESERVE)


class Salvager:
    """Makes images of what is in the content store. A database is to be filled by it as long as it
    has no epoch: so what a crash interrupts is begun again."""

    def __init__(self, stores: Stores, maker: ImageMaker) -> None:
        self._stores = stores
        self._maker = maker

    async def run(self, epoch: str) -> None:
        """Verify every blob's file and make it known, then unpack each image whose blobs are all
        there. What makes no image stays a while for the next pulls. At the end the database gets
        its `epoch`."""
        database = self._stores.database
        async with holding(database, keep_for_resume=always) as lease:
            await self._stores.content.adopt(lease)
            salvaged = await database.read(blobs.all_present)
            for digest in salvaged:
                await self._salvage(digest, lease)
        await database.write(lambda db: durability.set_epoch(db, epoch), durable=True)
        if salvaged:
            shown = len(self._maker.publisher.store.all())
            log.warning("salvaged", blobs=len(salvaged), images=shown)

    async def _salvage(self, digest: Digest, lease: Lease) -> None:
        """Make an image of a blob that is a manifest. A layer, a config or an index is none."""
        documents = self._stores.documents
        try:
            manifest, size = await documents.manifest(
                digest,
                lambda data: (parse_document(data, type_of(data), documents.limits), len(data)),
            )
        except ImagedError:
            return
        if not isinstance(manifest, Manifest):
            return
        try:
            target = Descriptor(manifest.media_type, digest, size)
            await self._unpack(target, manifest, lease)
        except ImagedError as error:
            log.warning("manifest could not be salvaged", digest=digest, error=str(error))

    async def _unpack(self, target: Descriptor, manifest: Manifest, lease: Lease) -> None:
        documents, listed = self._stores.documents, manifest
        manifest, config = await documents.config(
            listed.config.digest, lambda data: read_image(listed, data, documents.limits)
        )
        known_as = image_id(target.digest, manifest, config)
        snapshotter = next(iter(self._stores.snapshotters.values()))
        wanted = Wanted(manifest, config, (known_as,), "", snapshotter)

        def save(db: sqlite3.Connection, chain_id: Digest | None) -> None:
            images.save(db, _image(known_as, target, manifest, config, snapshotter, chain_id))

        await self._maker.make_ready(wanted, lease, save)


def _image(
    known_as: Digest,
    target: Descriptor,
    manifest: Manifest,
    config: Config,
    snapshotter: Snapshotter,
    chain_id: Digest | None,
) -> NewImage:
    return NewImage(
        image_id=known_as,
        handler="",
        names=(known_as,),
        target=target,
        manifest=target.digest,
        documents=frozenset(
            (target.digest, manifest.config.digest, *(blob.digest for blob in manifest.blobs))
        ),
        layers=frozenset(layer.digest for layer in manifest.layers),
        size=compressed_size(target, target, manifest),
        user=config.user,
        snapshotter=snapshotter.name,
        chain_id=chain_id,
    )
