"""Unpacking a layer into a snapshot: one flight for each snapshotter, chainID and blob."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from cri_imaged.errors import CorruptContentError, ImagedError
from cri_imaged.images.leases import holding
from cri_imaged.images.pull.plan import Step
from cri_imaged.images.timeline import Timeline
from cri_imaged.images.transfers.flights import Flight, Waiter
from cri_imaged.images.transfers.rights import gives
from cri_imaged.metadata.database import Database
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import (
    Activity,
    Applied,
    Applier,
    LayerSecret,
    LayerSource,
    Lease,
    Provenance,
    Sharers,
    Snapshotter,
    Target,
    Usage,
)
from cri_imaged.shielding import to_the_end


class Blob(Protocol):
    """A layer's compressed bytes, as one pull has them."""

    @property
    def ready(self) -> asyncio.Future[None]:
        """Done when bytes are here or on their way."""
        ...

    async def source(self) -> LayerSource:
        """The bytes. Raises what their fetch failed with."""
        ...


LayerKey: TypeAlias = tuple[Digest, Digest, int, str, str]
"""chainID; digest, size and media type of the blob; fingerprint of what decrypts it."""


@dataclass(frozen=True, slots=True)
class LayerMeans:
    """What one pull has to unpack a layer with."""

    step: Step
    blob: Blob
    parent_committed: asyncio.Future[None]
    turns: asyncio.Semaphore
    """Each lets one layer of this pull be applied."""
    repository: str
    """Whence the blob comes, as `registry/path`; empty where that is not known."""
    activity: Activity
    """The pull's."""
    secret: LayerSecret | None = None
    """What decrypts it, where it is encrypted."""

    @property
    def key(self) -> LayerKey:
        """What makes two pulls' layers the same piece of work: a blob that only claims to give the
        same snapshot is another one, and can neither fail nor hold up who has the right one."""
        layer = self.step.layer
        return self.step.chain_id, layer.digest, layer.size, layer.media_type, self._fingerprint

    @property
    def origin(self) -> str:
        """Whose images it is of: the registry, and what of the path is above the repository."""
        return self.repository.rpartition("/")[0]

    @property
    def _fingerprint(self) -> str:
        return self.secret.fingerprint if self.secret is not None else ""

    def provenance(self, applied: Applied) -> Provenance:
        """How a snapshot was made of it."""
        return Provenance(
            blob=self.step.layer.digest,
            blob_size=self.step.layer.size,
            diff_id=applied.diff_id,
            size=applied.size,
            entries=applied.entries,
            repository=self.repository,
            secret=self._fingerprint,
        )


class LayerFlight(Flight[LayerMeans]):
    """Applies one layer as soon as its bytes arrive and seals it when its parent is committed."""

    def __init__(self, snapshotter: Snapshotter, applier: Applier, database: Database) -> None:
        super().__init__()
        self._snapshotter = snapshotter
        self._applier = applier
        self._database = database
        self._held = AsyncExitStack()
        self._joined: asyncio.Future[None] | None = None
        """Waited for by the work: done when somebody has joined."""
        self._sharers = Sharers()
        self._into: Target | None = None
        self._taken = Usage(0, 0)
        self.timeline = Timeline()

    def join(self, waiter: Waiter[LayerMeans]) -> None:
        """See `Flight.join`."""
        for before in self._waiters:
            before.means.activity.awaited_by(waiter.means.activity)
        self._sharers.join(waiter.means.activity)
        super().join(waiter)
        if self._joined is not None and not self._joined.done():
            self._joined.set_result(None)

    async def taken(self) -> Usage:
        """What the layer takes on the disk by now."""
        if self._into is None:
            return self._taken
        try:
            return await self._snapshotter.taken(self._into)
        except OSError:  # it just went
            return self._taken

    async def work(self) -> None:
        """See `Flight.work`."""
        if self._lease is None:
            self._lease = await self._held.enter_async_context(
                holding(self._database, keep_for_resume=lambda _: not self.known)
            )
        await self.attempt(self._unpack)

    async def _until_parent_is_committed(self) -> None:
        """By whichever pull: for all of them it is the same, and one may get it late or never."""
        while not any(waiter.means.parent_committed.done() for waiter in self._waiters):
            await self._first(waiter.means.parent_committed for waiter in self._waiters)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Of whichever pull has one first."""
        asked: dict[asyncio.Semaphore, asyncio.Task[bool]] = {}
        try:
            while not any(task.done() for task in asked.values()):
                for waiter in self._waiters:
                    turns = waiter.means.turns
                    if turns not in asked:
                        asked[turns] = asyncio.create_task(turns.acquire())
                await self._first(asked.values())
            yield
        finally:
            for turns, task in asked.items():
                if not task.cancel() and not task.cancelled():
                    turns.release()

    async def _first(self, futures: Iterable[asyncio.Future[Any]]) -> None:
        """Wait until one of them is done, or another waiter has joined."""
        joined = self._joined = asyncio.get_running_loop().create_future()
        await asyncio.wait([joined, *futures], return_when=asyncio.FIRST_COMPLETED)

    async def release(self) -> None:
        """See `Flight.release`. Where no pull made the snapshot known, it waits to be resumed."""
        await self._held.aclose()

    async def _unpack(self, waiter: Waiter[LayerMeans]) -> None:
        means, lease = waiter.means, self._lease
        step = means.step
        assert lease is not None
        info = await self._snapshotter.info(step.chain_id)
        proven = info is not None and gives(info, step, means.secret)
        if proven and await self._snapshotter.hold(step.chain_id, lease):
            return  # it came since this waiter's pull was planned
        self.timeline.enter("waiting to unpack")
        source = await means.blob.source()
        key = f"{step.chain_id}-{uuid.uuid4().hex}"
        try:
            into = await self._snapshotter.prepare(key, step.parent, lease)
            self._into = into
            try:
                async with self._turn():
                    self.timeline.enter("unpacking")
                    applied = await self._applier.apply(
                        source,
                        step.layer,
                        into,
                        algorithm=step.algorithm,
                        share=self._sharers,
                        secret=means.secret,
                        diff_id=step.diff_id,
                        origin=means.origin,
                    )
            except ImagedError as error:
                raise error.within(f"layer {step.layer.digest}") from error
            _check(applied, step)
            self.timeline.enter("waiting for the layer below")
            await self._until_parent_is_committed()
            self.timeline.enter("sealing")
            self._taken = await self._snapshotter.commit(
                step.chain_id, key, step.parent, applied, means.provenance(applied)
            )
        except BaseException:
            await to_the_end(self._snapshotter.remove(key))
            raise
        finally:
            self._into = None
            self.timeline.end()


def _check(applied: Applied, step: Step) -> None:
    if step.diff_id in (None, applied.diff_id):
        return
    problem = (
        f"layer {step.layer.digest} unpacks to diffID {applied.diff_id}, "
        f"the image's config says {step.diff_id}"
    )
    if applied.unended:
        name = applied.unended[:200].decode("utf-8", "backslashreplace")
        problem += f"; it seems truncated after the last entry {name!r}: no end marker follows"
    raise CorruptContentError(problem)


class Unpack:
    """One pull's part in the unpacking of a layer."""

    def __init__(self, flight: LayerFlight, waiter: Waiter[LayerMeans]) -> None:
        self._flight = flight
        self.done = waiter.done
        """How it ended for this pull."""

    @property
    def timeline(self) -> Timeline:
        """When what was done, whoever asked for it."""
        return self._flight.timeline

    async def taken(self) -> Usage:
        """What the layer takes on the disk by now."""
        return await self._flight.taken()

    def retire(self) -> Lease | None:
        """See `Flight.retire`."""
        return self._flight.retire()

    def made_known(self) -> None:
        """An image holds the snapshot from now on."""
        self._flight.known = True
