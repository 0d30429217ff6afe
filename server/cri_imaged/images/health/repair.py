"""Mending what a check has found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from cri_imaged.disk import on_disk
from cri_imaged.errors import ImagedError
from cri_imaged.images.gc import GarbageCollector
from cri_imaged.images.health.problems import (
    BlobProblem,
    Orphan,
    Problem,
    SnapshotProblem,
    Unverified,
)
from cri_imaged.images.health.rebuild import Rebuilder
from cri_imaged.images.publishing import Publisher
from cri_imaged.images.pull.puller import Puller
from cri_imaged.images.reports import Cause
from cri_imaged.images.stores import Stores
from cri_imaged.metadata import blobs, readiness
from cri_imaged.metadata.readiness import DamagedImage
from cri_imaged.ports import Priority
from cri_imaged.shielding import to_the_end

log = structlog.get_logger()


class Repairer:
    """Throws away what is wrong and makes it again: from blobs, else from the registry."""

    def __init__(
        self,
        stores: Stores,
        publisher: Publisher,
        rebuilder: Rebuilder,
        puller: Puller | None,
        collector: GarbageCollector,
    ) -> None:
        """Without a `puller` what has lost its blobs stays hidden until somebody pulls it."""
        self._stores = stores
        self.publisher = publisher
        self.rebuilder = rebuilder
        self._puller = puller
        self._collector = collector

    async def repair(self, problems: Sequence[Problem]) -> list[Problem]:
        """Mend `problems`; each tells then whether that went well."""
        orphans = [problem.path for problem in problems if isinstance(problem, Orphan)]
        await on_disk(lambda: self._throw_away(orphans))
        failed: set[str] = set()
        for image in await to_the_end(self._give_up(problems)):
            if not await self.rebuilder.rebuild(image) and not await self._pull(image):
                failed.update(image.names)
        for each in problems:
            # What was signed meanwhile is found to be so; what was not stays as it is, and is told.
            if isinstance(each, Unverified) and not (
                each.at_digest and await self._pulled(each.at_digest, each.handler)
            ):
                failed.add(each.subject)
        self._collector.trigger()
        return [replace(each, repaired=failed.isdisjoint(each.images)) for each in problems]

    def _throw_away(self, orphans: Sequence[Path]) -> None:
        for path in orphans:
            self._stores.trash.put(path)

    async def hide_damaged(self) -> list[DamagedImage]:
        """Show no image that is not whole; returns those there are."""
        damaged = await self._stores.database.read(readiness.damaged)
        for image in damaged:
            await self.publisher.refresh(image.image_id, image.handler)
        return damaged

    async def _give_up(self, problems: Sequence[Problem]) -> list[DamagedImage]:
        """Let go of what is wrong, and hide the images that had it: all of them before the first
        is mended, which may take long."""
        lost = [each.digest for each in problems if isinstance(each, BlobProblem)]
        gone = [each for each in problems if isinstance(each, SnapshotProblem)]

        await self._stores.database.write(lambda db: blobs.lost(db, lost), durable=True)
        for each in gone:
            await self._stores.snapshotters[each.snapshotter].give_up([each.chain_id])
        await self._stores.content.reclaim(lost)
        return await self.hide_damaged()

    async def _pull(self, image: DamagedImage) -> bool:
        """Fetch what is missing."""
        for name in image.names:
            if "@" in name and await self._pulled(name, image.handler):
                return True
        return False

    async def _pulled(self, name: str, handler: str) -> bool:
        """Pull, with the node's own credentials; whether that went well."""
        if self._puller is None:
            return False
        try:
            await self._puller.pull(name, handler, cause=Cause(priority=Priority.REPAIR))
        except ImagedError as error:
            log.warning("image could not be pulled again", image=name, error=str(error))
            return False
        return True
