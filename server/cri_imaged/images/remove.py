"""Removing an image: hidden at once, its space returns in the background."""

from __future__ import annotations

from cri_imaged.images.gc import GarbageCollector
from cri_imaged.images.publishing import Publisher
from cri_imaged.images.store import Image
from cri_imaged.images.usage import UsageMeter
from cri_imaged.shielding import to_the_end


class Remover:
    """Removes images with all their names. Mounted ones too: their views hold the snapshots."""

    def __init__(
        self, publisher: Publisher, collector: GarbageCollector, meter: UsageMeter
    ) -> None:
        self._publisher = publisher
        self._collector = collector
        self._meter = meter

    async def remove(self, name: str, handler: str = "") -> Image | None:
        """Remove the image that `name` means, and return it. None where there is none.

        Raises:
            InvalidRequestError: `name` is malformed, or an ambiguous truncated ID.
        """
        image = self._publisher.store.get(name, handler)
        if image is not None:
            await to_the_end(self._forget(image))
        return image

    async def _forget(self, image: Image) -> None:
        record = image.record
        try:
            await self._collector.remove(record.image_id, record.handler)
        finally:
            # Where throwing files away fails, the rows are gone all the same.
            await self._publisher.refresh(record.image_id, record.handler)
        await self._meter.measure()
