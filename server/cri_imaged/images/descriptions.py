"""What people ask of all images at once, and CRI's lists leave out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from cri_imaged.errors import ImagedError
from cri_imaged.images.health.rebuild import stored_manifest
from cri_imaged.images.store import Image, ImageStore
from cri_imaged.images.stores import Stores
from cri_imaged.metadata import shares
from cri_imaged.metadata.shares import DiskShare
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.documents import built

_NOTHING = DiskShare(0, 0)


@dataclass(frozen=True, slots=True)
class Description:
    """Of one image."""

    image: Image
    built: float
    """Unix seconds, as the config says; 0 where it does not."""
    share: DiskShare


class Descriptions:
    """Reads each config once."""

    def __init__(self, stores: Stores, store: ImageStore) -> None:
        self._stores = stores
        self._store = store
        self._built: dict[Digest, float] = {}
        """Of images that are here."""

    async def all(self, *, sizes: bool) -> AsyncIterator[Description]:
        """Every image, in the order of the store; with `sizes`, what each takes."""
        found = await self._stores.database.read(shares.of_images) if sizes else {}
        images = self._store.all()
        for gone in self._built.keys() - {image.id for image in images}:
            del self._built[gone]
        for image in images:
            share = found.get((image.id, image.record.handler), _NOTHING)
            yield Description(image, await self._when_built(image), share)

    async def _when_built(self, image: Image) -> float:
        if image.id not in self._built:
            try:
                self._built[image.id] = await self._read(image)
            except ImagedError:  # damaged, or removed meanwhile: the list is not to fail for it
                return 0.0
        return self._built[image.id]

    async def _read(self, image: Image) -> float:
        documents = self._stores.documents
        manifest = await stored_manifest(documents, image.record.manifest)
        return await documents.config(manifest.config.digest, built)
