"""Removes images by the node's policy, and keeps in mind when they were used."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from cri_imaged.images.policy.decide import Candidate, Removal, Rules, decide
from cri_imaged.images.remove import Remover
from cri_imaged.images.store import ImageStore
from cri_imaged.metadata import uses
from cri_imaged.metadata.database import Database
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Runtime

log = structlog.get_logger()

_PERIOD = 3600.0


class ImageCollector:
    """Unlike the `GarbageCollector`, it removes images."""

    def __init__(
        self,
        database: Database,
        store: ImageStore,
        remover: Remover,
        runtimes: Mapping[str, Runtime],
        rules: Rules,
        removed: Callable[[str], object] = lambda _: None,
    ) -> None:
        """`removed` is told the reason for which each image went."""
        self.rules = rules
        self._removed = removed
        self._database = database
        self._store = store
        self._remover = remover
        self._runtimes = runtimes
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """The background task. Uses are noted whatever the rules are, as they may change."""
        while True:
            await asyncio.sleep(_PERIOD)
            try:
                await self.collect(dry_run=False)
            except Exception:
                log.exception("images could not be removed by the policy; it is tried again later")

    async def collect(self, *, dry_run: bool) -> Sequence[Removal]:
        """Remove what the rules say; with `dry_run`, only tell what that would be."""
        async with self._lock:
            in_use, now = await self._used_by_runtimes(), time.time()
            await self._database.write(lambda db: uses.mark(db, now, in_use))
            if not self.rules.wanted:
                return []
            removals = list(decide(await self._candidates(in_use), self.rules, now))
            if dry_run:
                return removals
            return [each for each in removals if await self._remove(each, now)]

    async def _candidates(self, in_use: frozenset[Digest]) -> list[Candidate]:
        found = await self._database.read(uses.every)
        return [
            Candidate(
                image.id,
                image.record.handler,
                image.record.names,
                use.last,
                held=use.held or image.pinned or image.id in in_use,
                imported=use.imported,
                parts=use.parts,
            )
            for image in self._store.all()
            if (use := found.get((image.id, image.record.handler))) is not None
        ]

    async def _used_by_runtimes(self) -> frozenset[Digest]:
        links = [each.link for each in self._runtimes.values() if each.link is not None]
        return frozenset().union(*[await link.images_in_use() for link in links])

    async def _remove(self, removal: Removal, decided: float) -> bool:
        """Whether it is gone. Since it was decided somebody may have pinned, pulled or used it."""
        image = removal.image
        here = self._store.find(image.id, image.handler)
        if here is None or here.pinned:
            return False
        if await self._database.read(
            lambda db: uses.is_used_since(db, image.id, image.handler, decided)
        ):
            return False
        await self._remover.remove(image.id, image.handler)
        self._removed(removal.reason)
        log.info(
            "image removed by the node's policy",
            image_id=image.id,
            names=list(image.names),
            reason=removal.reason,
            bytes=removal.bytes,
            last_used=round(image.last_used),
        )
        return True
