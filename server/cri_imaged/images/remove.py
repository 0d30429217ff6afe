"""Removing an image: hidden at once, its space returns in the background."""

from __future__ import annotations

from cri_imaged.images.gc import GarbageCollector
from cri_imaged.images.shielded import to_the_end
from cri_imaged.images.store import Image, ImageStore
from cri_imaged.images.usage import UsageMeter
from cri_imaged.metadata import images


class Remover:
    """Removes images with all their names. Mounted ones too: their views hold the snapshots."""

    def __init__(self, store: ImageStore, collector: GarbageCollector, meter: UsageMeter) -> None:
        self._store = store
        self._collector = collector
        self._meter = meter

    async def remove(self, name: str, handler: str = "") -> Image | None:
        """Remove the image that `name` means, and return it. None where there is none.

        Raises:
            InvalidRequestError: `name` is malformed, or an ambiguous truncated ID.
        """
        image = self._store.get(name, handler)
        if image is not None:
            await to_the_end(self._forget(image))
        return image

    async def _forget(self, image: Image) -> None:
        record = image.record
        try:
            await self._collector.collect(
                first=lambda db: images.remove(db, record.image_id, record.handler)
            )
        finally:
            # Where throwing files away fails, the rows are gone all the same.
            await self._store.refresh(record.image_id, record.handler)
        await self._meter.measure()
