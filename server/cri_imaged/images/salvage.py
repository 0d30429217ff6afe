"""When the metadata database is corrupt: it is set aside, and what the content store still holds
becomes known again. Names are lost with the database; images are shown by their IDs, and a pull by
name finds its blobs here."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import structlog

from cri_imaged.errors import ImagedError
from cri_imaged.images.airport import Airport
from cri_imaged.images.deliver import Delivery
from cri_imaged.images.plan import Plan, compressed_size
from cri_imaged.images.store import ImageStore
from cri_imaged.limits import Limits
from cri_imaged.metadata import blobs, durability, images, leases
from cri_imaged.metadata.database import CorruptDatabaseError, Database
from cri_imaged.metadata.images import NewImage
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.documents import (
    Config,
    Manifest,
    parse_config,
    parse_document,
    type_of,
)
from cri_imaged.ports import ContentStore, Lease, Snapshotter

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

    def __init__(
        self,
        database: Database,
        content: ContentStore,
        airport: Airport,
        snapshotter: Snapshotter,
        store: ImageStore,
        limits: Limits,
    ) -> None:
        self._database = database
        self._content = content
        self._airport = airport
        self._snapshotter = snapshotter
        self._store = store
        self._limits = limits

    async def run(self, epoch: str) -> None:
        """Verify every blob's file and make it known, then unpack each image whose blobs are all
        there. What makes no image stays a while for the next pulls. At the end the database gets
        its `epoch`."""
        lease = leases.new()
        await self._database.write(lambda db: leases.insert(db, lease))
        try:
            await self._content.adopt(lease)
            salvaged = await self._database.read(blobs.all_present)
            for digest in salvaged:
                await self._salvage(digest, lease)
        finally:
            await self._database.write(
                lambda db: leases.end(db, lease, keep_for_resume=True), makes_room=True
            )
        await self._database.write(lambda db: durability.set_epoch(db, epoch), durable=True)
        if salvaged:
            log.warning("salvaged", blobs=len(salvaged), images=len(self._store.all()))

    async def _salvage(self, digest: Digest, lease: Lease) -> None:
        """Make an image of a blob that is a manifest. A layer, a config or an index is none."""
        try:
            data = await self._content.read(digest, self._limits.manifest_bytes)
            manifest = parse_document(data, type_of(data), self._limits)
        except ImagedError:
            return
        if not isinstance(manifest, Manifest):
            return
        try:
            await self._unpack(Descriptor(manifest.media_type, digest, len(data)), manifest, lease)
        except ImagedError as error:
            log.warning("manifest could not be salvaged", digest=digest, error=str(error))

    async def _unpack(self, target: Descriptor, manifest: Manifest, lease: Lease) -> None:
        image_id = manifest.config.digest
        config_data = await self._content.read(image_id, self._limits.config_bytes)
        config = parse_config(config_data, self._limits)
        plan = await self._airport.plan(manifest, config, self._snapshotter, lease)
        if plan.fetch:
            return
        async with Delivery(plan, None, self._snapshotter, self._airport, downloads=1) as delivery:
            await delivery.run()
            new = self._image(target, manifest, config, plan)

            def save(db: sqlite3.Connection) -> None:
                for layer in plan.unneeded:
                    blobs.unneeded(db, layer.digest, layer.size)
                images.save(db, new)

            await self._database.write(save)
            delivery.made_known()
        await self._store.refresh(image_id, new.handler)

    def _image(
        self, target: Descriptor, manifest: Manifest, config: Config, plan: Plan
    ) -> NewImage:
        image_id = manifest.config.digest
        return NewImage(
            image_id=image_id,
            handler="",
            names=(image_id,),
            target=target,
            manifest=target.digest,
            documents=frozenset((target.digest, image_id)),
            layers=frozenset(layer.digest for layer in manifest.layers),
            size=compressed_size(target, target, manifest),
            user=config.user,
            snapshotter=self._snapshotter.name,
            chain_id=plan.chain_id,
        )
