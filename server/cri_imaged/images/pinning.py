"""Pinning images for clients."""

from __future__ import annotations

from cri_imaged.errors import (
    InUseError,
    InvalidRequestError,
    LimitExceededError,
    NotFoundError,
)
from cri_imaged.images.pins import Pins
from cri_imaged.images.publishing import Publisher
from cri_imaged.images.store import Image
from cri_imaged.limits import PINS
from cri_imaged.metadata import pins as rows
from cri_imaged.metadata.database import Database
from cri_imaged.oci.reference import Reference


class Pinner:
    """Pins images for clients."""

    def __init__(self, database: Database, pins: Pins, publisher: Publisher) -> None:
        self._database = database
        self._pins = pins
        self._publisher = publisher
        self._store = publisher.store

    async def pin(self, name: str, handler: str = "") -> Image:
        """Pin the image that `name` means, by that name, or by its ID where `name` is one.

        Raises:
            NotFoundError: it is not here.
            InvalidRequestError: `name` is malformed, or an ambiguous truncated ID.
            LimitExceededError: more than `PINS` names are pinned.
        """
        image = self._store.get(name, handler)
        if image is None:
            raise NotFoundError(f"no image {name} is present; pull it before it is pinned")
        pinned = self._store.known_as(image, name)
        if pinned not in self._pins.asked_for and len(self._pins.asked_for) >= PINS:
            raise LimitExceededError(f"{PINS} names are pinned already; unpin some")
        await self._database.write(lambda db: rows.add(db, pinned))
        await self._show()
        return self._store.find(image.id, image.record.handler) or image

    async def unpin(self, name: str, handler: str = "") -> None:
        """Take back the pins of the image that `name` means, by whichever of its names they are;
        of an image that is not here, those by this name.

        Raises:
            NotFoundError: neither an image nor a pin of that name is here.
            InUseError: the configuration pins it.
            InvalidRequestError: as `pin`.
        """
        image = self._store.get(name, handler)
        names = image.record.names if image is not None else _spellings(name)
        taken_back = await self._database.write(lambda db: rows.remove(db, names))
        await self._show()
        if image is None and not taken_back:
            raise NotFoundError(f"neither an image nor a pin {name} is here")
        if self._pins.configured(names):
            raise InUseError(
                f"image {name} is pinned by the configuration: image.pinned_images or image.preload"
            )

    async def _show(self) -> None:
        self._pins.asked_for = await self._database.read(rows.names)
        await self._publisher.repinned()


def _spellings(name: str) -> set[str]:
    """What an image that is not here may be pinned by: an ID as it is, a reference normalised."""
    try:
        return {name, str(Reference.parse(name).canonical())}
    except InvalidRequestError:
        return {name}
