"""Making damaged images whole again: from the content store where all layers are there, else from
the registry."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

import structlog

from cri_imaged.errors import CorruptContentError, ImagedError
from cri_imaged.images.airport import Airport
from cri_imaged.images.deliver import Delivery
from cri_imaged.images.plan import Plan
from cri_imaged.images.shielded import to_the_end
from cri_imaged.images.store import ImageStore
from cri_imaged.limits import Limits
from cri_imaged.metadata import blobs, images, leases
from cri_imaged.metadata.database import Database
from cri_imaged.metadata.images import DamagedImage
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.documents import Config, Manifest, parse_config, parse_document, type_of
from cri_imaged.ports import ContentStore, Lease, Snapshotter

log = structlog.get_logger()


class Rebuilder:
    """Unpacks what was unpacked before and is gone."""

    def __init__(
        self,
        database: Database,
        airport: Airport,
        snapshotters: Mapping[str, Snapshotter],
        store: ImageStore,
        limits: Limits,
    ) -> None:
        self._database = database
        self._airport = airport
        self._snapshotters = snapshotters
        self._store = store
        self._limits = limits

    async def run(self) -> None:
        """The background task after a start: rebuild what can be, and show it."""
        for image in await self._database.read(images.damaged):
            try:
                await self.rebuild(image)
            except Exception:
                log.exception("image could not be rebuilt", names=image.names)

    async def rebuild(self, image: DamagedImage) -> bool:
        """Unpack `image` again from its blobs. Returns whether it is ready then; if not, a blob is
        missing, and a pull will bring it."""
        lease = leases.new()
        rebuilt = False
        await self._database.write(lambda db: leases.insert(db, lease))
        try:
            rebuilt = await self._unpack(image, lease)
        except ImagedError as error:
            log.warning("image could not be rebuilt", names=image.names, error=str(error))
        finally:
            await to_the_end(
                self._database.write(
                    lambda db: leases.end(db, lease, keep_for_resume=False), makes_room=True
                )
            )
        if rebuilt:
            log.info("image rebuilt from its blobs", names=image.names)
        return rebuilt

    async def _unpack(self, image: DamagedImage, lease: Lease) -> bool:
        manifest, config = await stored_image(
            self._airport.content, image.manifest, image.image_id, self._limits
        )
        snapshotter = self._snapshotters[image.snapshotter]
        plan = await self._airport.plan(manifest, config, snapshotter, lease)
        if plan.fetch:
            return False
        async with Delivery(plan, None, snapshotter, self._airport, downloads=1) as delivery:
            await delivery.run()

            await to_the_end(self._make_known(image, plan, delivery))
        return self._store.find(image.image_id, image.handler) is not None

    async def _make_known(self, image: DamagedImage, plan: Plan, delivery: Delivery) -> None:
        """The transaction, then the in-memory store: nothing else would show the image later."""

        def stand_on(db: sqlite3.Connection) -> None:
            for layer in plan.unneeded:
                blobs.unneeded(db, layer.digest, layer.size)
            images.stand_on(db, image.row, image.snapshotter, plan.chain_id)

        await self._database.write(stand_on)
        delivery.made_known()
        await self._store.refresh(image.image_id, image.handler)


async def stored_image(
    content: ContentStore, manifest_digest: Digest, image_id: Digest, limits: Limits
) -> tuple[Manifest, Config]:
    """An image's manifest and config from the content store.

    Raises:
        NotFoundError, CorruptContentError: they are gone or damaged.
    """
    data = await content.read(manifest_digest, limits.manifest_bytes)
    manifest = parse_document(data, type_of(data), limits)
    if not isinstance(manifest, Manifest):
        raise CorruptContentError(f"blob {manifest_digest} is an index, not a manifest")
    return manifest, parse_config(await content.read(image_id, limits.config_bytes), limits)
