"""Showing no image whose content was found to be damaged, whoever found that."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from cri_imaged.images.publishing import Publisher
from cri_imaged.metadata import readiness
from cri_imaged.metadata.database import Database
from cri_imaged.oci.digest import Digest

log = structlog.get_logger()

_AGAIN_SECONDS = 30.0


async def show_what_is_whole(lost: asyncio.Event, database: Database, publisher: Publisher) -> None:
    """The background task: each time that `lost` is set, hide what is not whole any more, so that
    clients pull it. It is shown once its content is here again, which the pull of another image may
    bring about."""
    hidden: set[tuple[Digest, str]] = set()
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(_AGAIN_SECONDS if hidden else None):
                await lost.wait()
        lost.clear()
        try:
            damaged = await database.read(readiness.damaged)
            found = {(image.image_id, image.handler) for image in damaged}
            hidden |= found  # also where one of them fails
            for image_id, handler in hidden:
                await publisher.refresh(image_id, handler)
            hidden = found
        except Exception:
            log.exception("could not hide what is damaged; it is tried again")
            await asyncio.sleep(_AGAIN_SECONDS)
            lost.set()
