"""Bringing what clients, listeners and runtimes see up to what the metadata says."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import structlog

from cri_imaged.images.events import Events, ImageGone, ImageKnown
from cri_imaged.images.store import Change, ImageStore
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import RuntimeLink

log = structlog.get_logger()

_LINK_SECONDS = 10.0
"""A link keeps its own patience; one that does not must not hold a pull up for ever."""


class Publisher:
    """Called after each transaction that makes an image known, ready, damaged or gone."""

    def __init__(self, store: ImageStore, events: Events) -> None:
        self.store = store
        self._events = events
        self._links: list[RuntimeLink] = []

    def attach(self, link: RuntimeLink) -> None:
        """Have a runtime told from now on."""
        self._links.append(link)

    async def update(self, names: Collection[str], handler: str) -> None:
        """These names mean something else now, or nothing."""
        for change in await self.store.update(names, handler):
            await self._publish(change)

    async def refresh(self, image_id: Digest, handler: str) -> None:
        """Something of this image has changed, or all of it."""
        await self._publish(await self.store.refresh(image_id, handler))

    async def _publish(self, change: Change) -> None:
        (image_id, handler), before, after = change
        if after is not None:
            self._events.publish(ImageKnown(after, before))
        elif before is not None:
            self._events.publish(ImageGone(before))
        if before is not None or after is not None:
            await asyncio.gather(*(self._tell(link, image_id, handler) for link in self._links))

    async def repinned(self) -> None:
        """Other names may be pinned now."""
        for image_id, handler in self.store.repin():
            await self.refresh(image_id, handler)

    async def _tell(self, link: RuntimeLink, image_id: Digest, handler: str) -> None:
        try:
            async with asyncio.timeout(_LINK_SECONDS):
                await link.image_changed(image_id, handler)
        except Exception:
            log.exception("a runtime was not told of an image", runtime=link.name, image=image_id)
