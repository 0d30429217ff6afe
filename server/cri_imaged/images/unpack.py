"""Unpacking a layer into a snapshot: one flight for each snapshotter and chainID."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cri_imaged.errors import CorruptContentError, ImagedError
from cri_imaged.images.flights import Flight
from cri_imaged.images.plan import Step
from cri_imaged.images.shielded import to_the_end
from cri_imaged.metadata import leases
from cri_imaged.metadata.database import Database
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import AlreadyPresent, Applied, Applier, LayerSource, Snapshotter


@dataclass(frozen=True, slots=True)
class LayerMeans:
    """What one pull has to unpack a layer with."""

    step: Step
    source: Callable[[], Awaitable[LayerSource]]
    parent_committed: asyncio.Future[None]
    turns: asyncio.Semaphore
    """Each lets one layer of this pull be applied."""


class LayerFlight(Flight[LayerMeans]):
    """Applies one layer as soon as its bytes arrive and seals it when its parent is committed."""

    def __init__(self, snapshotter: Snapshotter, applier: Applier, database: Database) -> None:
        super().__init__()
        self._snapshotter = snapshotter
        self._applier = applier
        self._database = database
        self._lease = leases.new()

    async def work(self) -> None:
        """See `Flight.work`."""
        await self._database.write(lambda db: leases.insert(db, self._lease))
        await self.attempt(self._unpack)

    async def release(self) -> None:
        """See `Flight.release`. Where no pull made the snapshot known, it waits to be resumed."""
        await self._database.write(
            lambda db: leases.end(db, self._lease, keep_for_resume=not self.known),
            makes_room=True,
        )

    def _held(self, chain_id: Digest) -> Callable[[sqlite3.Connection], bool]:
        name, lease = self._snapshotter.name, self._lease
        return lambda db: leases.hold_snapshot(db, name, chain_id, lease)

    async def _unpack(self, means: LayerMeans) -> None:
        step = means.step
        if await self._database.write(self._held(step.chain_id)):
            return  # it came since this waiter's pull was planned
        source = await means.source()
        if not self._snapshotter.independent:
            await asyncio.shield(means.parent_committed)
        key = f"{step.chain_id}-{uuid.uuid4().hex}"
        try:
            into = await self._snapshotter.prepare(key, step.parent, self._lease, {})
            if isinstance(into, AlreadyPresent):
                return
            try:
                async with means.turns:
                    applied = await self._applier.apply(
                        source, step.layer.media_type, into, algorithm=step.diff_id.algorithm
                    )
            except ImagedError as error:
                raise type(error)(f"layer {step.layer.digest}: {error}") from error
            _check(applied, step)
            await asyncio.shield(means.parent_committed)
            await self._snapshotter.commit(step.chain_id, key, step.parent, applied)
        except BaseException:
            await to_the_end(self._snapshotter.remove(key))
            raise


def _check(applied: Applied, step: Step) -> None:
    if applied.diff_id == step.diff_id:
        return
    problem = (
        f"layer {step.layer.digest} unpacks to diffID {applied.diff_id}, "
        f"the image's config says {step.diff_id}"
    )
    if applied.unended:
        name = applied.unended[:200].decode("utf-8", "backslashreplace")
        problem += f"; it seems truncated after the last entry {name!r}: no end marker follows"
    raise CorruptContentError(problem)
