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
from cri_imaged.metadata import blobs, images, leases
from cri_imaged.metadata.database import Database
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


async def open_database(path: Path) -> tuple[Database, bool]:
    """Open the database at `path`; a corrupt one is set aside for a new one. Returns it, and
    whether it is such a new one.

    Raises:
        SchemaTooNewError: a newer version of the program wrote it.
    """
    try:
        return await Database.open(path), False
    except sqlite3.DatabaseError as error:
        suffix = f".damaged-{int(time.time())}"
        for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            if file.exists():
                file.rename(f"{file}{suffix}")
        log.error(
            "metadata database is corrupt: set aside, images are salvaged from their blobs",
            error=str(error),
            set_aside=f"{path}{suffix}",
        )
        return await Database.open(path), True


class Salvager:
    """Makes images of what is in the content store."""

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

    async def run(self) -> None:
        """Verify every blob's file and make it known, then unpack each image whose blobs are all
        there. What makes no image stays a while for the next pulls."""
        lease = leases.new()
        await self._database.write(lambda db: leases.insert(db, lease))
        try:
            salvaged = await self._content.adopt(lease)
            for digest in salvaged:
                await self._salvage(digest, lease)
        finally:
            await self._database.write(lambda db: leases.end(db, lease, keep_for_resume=True))
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
