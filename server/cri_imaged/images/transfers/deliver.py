"""Bringing in what one pull misses: its part in the daemon's flights."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, TypeVar

from cri_imaged.images.pull.plan import Plan, Step
from cri_imaged.images.reports import LayerReport, Source
from cri_imaged.images.timeline import Timeline
from cri_imaged.images.transfers.claims import Claims
from cri_imaged.images.transfers.fetch import Fetch
from cri_imaged.images.transfers.rights import Rights
from cri_imaged.images.transfers.transfers import Transfers
from cri_imaged.images.transfers.unpack import LayerMeans, Unpack
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import (
    Account,
    Activity,
    ContentStore,
    LayerSource,
    Lease,
    Priority,
    Secrets,
    Snapshotter,
    Usage,
)

_UNPACKS_FOR_EACH_DOWNLOAD = 2
"""Layers of one pull that may be unpacked, or wait for a worker, at the same time: so few that they
cannot crowd out another pull's, which gets its turn after them."""
_BEGUN_UNPACKS = 64
"""Lowest layers of one pull whose unpacking has begun and has not ended. Each is some tasks, and a
result that waits for the layers below."""

T = TypeVar("T")


class StoredBlob:
    """A layer's blob that is in the content store."""

    def __init__(self, descriptor: Descriptor, content: ContentStore) -> None:
        self._descriptor = descriptor
        self._content = content
        self.ready = _done()

    async def source(self) -> LayerSource:
        """See `unpack.Blob`."""
        return self._content.source(self._descriptor.digest)


class FetchedBlob:
    """A layer's blob that this pull fetches, once it is its turn."""

    def __init__(self) -> None:
        self.ready = asyncio.get_running_loop().create_future()
        self._fetch: Fetch | None = None
        self.timeline = Timeline()
        self.timeline.enter("waiting")

    def source_of_bytes(self) -> Source:
        """Who brought it."""
        return "shared" if self._fetch is not None and not self._fetch.is_ours else "fetched"

    @property
    def account(self) -> Account:
        """Of its fetch."""
        return self._fetch.account if self._fetch else Account()

    @property
    def bytes_here(self) -> int:
        """Compressed bytes that are here."""
        return self._fetch.bytes_here if self._fetch else 0

    def begun(self, fetch: Fetch) -> None:
        """It is the blob's turn."""
        self._fetch = fetch
        self.timeline.enter("fetching")
        self.ready.set_result(None)

    async def source(self) -> LayerSource:
        """See `unpack.Blob`."""
        await asyncio.shield(self.ready)
        assert self._fetch is not None
        return await self._fetch.source()


class Delivery:
    """One pull's fetches and unpacks. Flights stay joined until the context is left."""

    def __init__(
        self,
        plan: Plan,
        rights: Rights | None,
        snapshotter: Snapshotter,
        transfers: Transfers,
        downloads: int,
        secrets: Secrets,
        claims: Claims | None = None,
    ) -> None:
        """Without `rights` the plan must have nothing to fetch. `secrets` has those of its
        encrypted layers. `claims`: of a snapshotter that is remote."""
        self._secrets = secrets
        self._plan = plan
        self._rights = rights
        self._activity = rights.origin.activity if rights else Activity(priority=Priority.REPAIR)
        self._snapshotter = snapshotter
        self._transfers = transfers
        self._claims = claims
        self._slots = asyncio.Semaphore(downloads)
        self._turns = asyncio.Semaphore(_UNPACKS_FOR_EACH_DOWNLOAD * downloads)
        self._unpacking = asyncio.Semaphore(_BEGUN_UNPACKS)
        # What may be claimed is told from the lowest layer up: each has to wait for that at once.
        self._fetching = asyncio.Semaphore(downloads if claims is None else len(plan.fetch))
        self._stack = AsyncExitStack()
        self._parts: list[Fetch | Unpack] = []
        self._fetched = {layer.digest: FetchedBlob() for layer in plan.fetch}
        self._unpacks: dict[Digest, Unpack] = {}
        self._committed: dict[Digest, asyncio.Future[None]] = {
            step.chain_id: asyncio.get_running_loop().create_future() for step in plan.steps
        }

    async def __aenter__(self) -> Delivery:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    async def run(self) -> None:
        """Fetch and unpack all that the plan says. Raises the first failure."""
        try:
            async with asyncio.TaskGroup() as group:
                begin = partial(_begin_each, group)
                group.create_task(begin(self._fetching, self._fetch, self._plan.fetch))
                group.create_task(begin(self._unpacking, self._unpack, self._plan.steps))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    def retire(self) -> Sequence[Lease]:
        """Leases of flights that only this pull takes part in: the image that is made known in the
        transaction that ends them holds what they held."""
        leases = (part.retire() for part in self._parts)
        return [lease for lease in leases if lease is not None]

    def made_known(self) -> None:
        """The image is known: what the flights brought in is held by it."""
        for part in self._parts:
            part.made_known()

    @property
    def received(self) -> int:
        """Bytes that came over the network for the blobs of this pull."""
        return sum(part.received for part in self._parts if isinstance(part, Fetch))

    @property
    def outstanding(self) -> int:
        """Compressed bytes that are still to come."""
        return sum(layer.size - self.bytes_here(layer) for layer in self._plan.fetch)

    @property
    def claimed(self) -> Sequence[Descriptor]:
        """What was not fetched, as the snapshotter has it."""
        return [layer for layer in self._plan.fetch if layer.digest not in self._fetched]

    async def taken(self) -> Usage:
        """What this pull put on the disk since it began, or those it shares its flights with."""
        usages = [await part.taken() for part in tuple(self._parts)]
        return Usage(sum(each.bytes for each in usages), sum(each.inodes for each in usages))

    def bytes_here(self, layer: Descriptor) -> int:
        """Compressed bytes of a layer that are here; all of them where none are needed."""
        fetched = self._fetched.get(layer.digest)
        return layer.size if fetched is None else fetched.bytes_here

    def is_unpacked(self, chain_id: Digest) -> bool:
        """Whether a layer's snapshot is there."""
        committed = self._committed.get(chain_id)
        return committed is None or committed.done()

    def report(self, layer: Descriptor, chain_id: Digest | None, began: float) -> LayerReport:
        """See `Arrivals.report`."""
        blob = self._fetched.get(layer.digest)
        unpack = self._unpacks.get(chain_id) if chain_id is not None else None
        done_before = chain_id is not None and chain_id not in self._committed
        source: Source = "unpacked" if done_before else "here"
        if blob is not None:
            source = blob.source_of_bytes()
        stages = (
            *(blob.timeline.since(began) if blob else ()),
            *(unpack.timeline.since(began) if unpack else ()),
        )
        account = blob.account if blob else Account()
        return LayerReport(layer.digest, layer.size, source, layer.media_type, stages, account)

    async def _fetch(self, layer: Descriptor) -> None:
        assert self._rights is not None, "a blob is missing and nobody is there to be asked"
        if self._claims is not None and not await self._claims.is_needed(layer.digest):
            del self._fetched[layer.digest]
            return
        async with self._slots:
            fetch = await self._stack.enter_async_context(
                self._transfers.fetch(layer, self._rights.origin)
            )
            self._parts.append(fetch)
            self._fetched[layer.digest].begun(fetch)
            await fetch.done
            self._fetched[layer.digest].timeline.end()
            if not fetch.is_ours:
                await self._rights.confirm(layer)

    async def _unpack(self, step: Step) -> None:
        layer = step.layer
        parent = self._committed.get(step.parent, _done()) if step.parent else _done()
        if self._claims is not None:
            await asyncio.shield(parent)
            if await self._claims.claim(step):
                self._committed[step.chain_id].set_result(None)
                return
        blob = self._fetched.get(layer.digest) or StoredBlob(layer, self._transfers.content)
        repository = self._rights.origin.repository if self._rights is not None else ""
        secret = self._secrets.get(layer.digest)
        means = LayerMeans(step, blob, parent, self._turns, repository, self._activity, secret)
        unpack = await self._stack.enter_async_context(
            self._transfers.unpack(self._snapshotter, means)
        )
        self._parts.append(unpack)
        self._unpacks[step.chain_id] = unpack
        await unpack.done
        self._committed[step.chain_id].set_result(None)


async def _begin_each(
    group: asyncio.TaskGroup,
    places: asyncio.Semaphore,
    do: Callable[[T], Coroutine[Any, Any, None]],
    items: Sequence[T],
) -> None:
    """Do it for all items, in their order, as places get free."""
    for item in items:
        await places.acquire()
        group.create_task(do(item)).add_done_callback(lambda _: places.release())


def _done() -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future
