"""Making damaged images whole again: from the content store where all layers are there, else from
the registry."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from cri_imaged.errors import CorruptContentError, ImagedError
from cri_imaged.images.documents import StoredDocuments
from cri_imaged.images.leases import holding, never
from cri_imaged.images.pull.ready import ImageMaker, Wanted
from cri_imaged.images.stores import Stores
from cri_imaged.metadata import images, readiness
from cri_imaged.metadata.readiness import DamagedImage
from cri_imaged.oci.artifacts import read_image
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.documents import Config, Manifest, parse_document, type_of
from cri_imaged.ports import Snapshotter

log = structlog.get_logger()


class Rebuilder:
    """Unpacks what was unpacked before and is gone."""

    def __init__(
        self, stores: Stores, maker: ImageMaker, home: Callable[[DamagedImage], Snapshotter]
    ) -> None:
        """`home` says into which snapshotter an image is unpacked."""
        self._stores = stores
        self._maker = maker
        self._home = home

    async def run(self) -> None:
        """The background task after a start: rebuild what can be, and show it."""
        for image in await self._stores.database.read(readiness.damaged):
            try:
                await self.rebuild(image)
            except Exception:
                log.exception("image could not be rebuilt", names=image.names)

    async def rebuild(self, image: DamagedImage) -> bool:
        """Unpack `image` again from its blobs. Returns whether it is ready then; if not, a blob is
        missing, and a pull will bring it."""
        try:
            async with holding(self._stores.database, keep_for_resume=never) as lease:
                manifest, config = await stored_image(self._stores.documents, image.manifest)
                home = self._home(image)
                wanted = Wanted(manifest, config, image.names, image.handler, home)
                await self._maker.make_ready(
                    wanted,
                    lease,
                    lambda db, chain_id: images.stand_on(db, image.row, home.name, chain_id),
                )
        except ImagedError as error:
            log.warning("image could not be rebuilt", names=image.names, error=str(error))
            return False
        if self._maker.publisher.store.find(image.image_id, image.handler) is None:
            return False
        log.info("image rebuilt from its blobs", names=image.names)
        return True


async def stored_image(
    documents: StoredDocuments, manifest_digest: Digest
) -> tuple[Manifest, Config]:
    """An image's manifest and config from the content store.

    Raises:
        NotFoundError, CorruptContentError: they are gone or damaged.
    """
    manifest = await stored_manifest(documents, manifest_digest)
    return await documents.config(
        manifest.config.digest, lambda data: read_image(manifest, data, documents.limits)
    )


async def stored_manifest(documents: StoredDocuments, digest: Digest) -> Manifest:
    """An image's manifest as it is in the content store. Raises as `stored_image`."""
    manifest = await documents.manifest(
        digest, lambda data: parse_document(data, type_of(data), documents.limits)
    )
    if not isinstance(manifest, Manifest):
        raise CorruptContentError(f"blob {digest} is an index, not a manifest")
    return manifest
