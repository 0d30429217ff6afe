"""What pulls and rebuilds share: the flights under way, how one begins, and what is here."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress

from cri_imaged.errors import CorruptContentError, LimitExceededError, NotFoundError
from cri_imaged.images.fetch import BlobFlight
from cri_imaged.images.flights import Flights
from cri_imaged.images.plan import Plan, image_chain, make_plan
from cri_imaged.images.unpack import LayerFlight
from cri_imaged.limits import Limits
from cri_imaged.metadata import images, leases
from cri_imaged.metadata.database import Database
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.documents import Config, Manifest
from cri_imaged.oci.reference import Reference
from cri_imaged.ports import Applier, ContentStore, Fetcher, Known, Lease, Snapshotter


class Airport:
    """The daemon's one set of flights."""

    def __init__(
        self,
        content: ContentStore,
        applier: Applier,
        database: Database,
        limits: Limits,
        count_bytes: Callable[[int], None],
    ) -> None:
        self.content = content
        self._fetches: Flights[tuple[Digest, int], BlobFlight] = Flights()
        self.unpacks: Flights[tuple[str, Digest], LayerFlight] = Flights()
        self._applier = applier
        self._database = database
        self._limits = limits
        self._count_bytes = count_bytes

    def fetch(
        self, wanted: Descriptor, fetcher: Fetcher | None
    ) -> AbstractAsyncContextManager[tuple[BlobFlight, asyncio.Future[None]]]:
        """Join the fetch of a blob, as `Flights.join` does. A manifest that lies about a blob's
        size flies alone: it must not fail those that do not."""

        def begin() -> BlobFlight:
            tries = self._limits.tries_per_request
            return BlobFlight(wanted, self.content, self._database, self._count_bytes, tries)

        return self._fetches.join((wanted.digest, wanted.size), begin, fetcher)

    async def known(self, reference: Reference) -> Known | None:
        """What `reference` stood for when it was last pulled, where that document is intact here.
        It is in memory from then on: whoever removes the image now takes nothing away."""
        target = await self._database.read(lambda db: images.target(db, str(reference)))
        if target is not None:
            with suppress(CorruptContentError, LimitExceededError, NotFoundError):
                document = await self.content.read(target.digest, self._limits.manifest_bytes)
                return Known(target, document)
        return None

    async def document(
        self, wanted: Descriptor, fetcher: Fetcher, lease: Lease, limit: int
    ) -> bytes:
        """A small document, held by `lease`: from the content store where it is intact there, else
        from the registry.

        Raises:
            CorruptContentError, LimitExceededError, RegistryError, NoSpaceError
        """
        if wanted.size > limit:
            raise LimitExceededError(
                f"document {wanted.digest} has {wanted.size} bytes, limit {limit}"
            )
        held = await self.content.hold(wanted.digest, lease)
        if held is not None and (held.state, held.size) == ("present", wanted.size):
            with suppress(CorruptContentError, NotFoundError):
                return await self.content.read(wanted.digest, limit)
        async with self.fetch(wanted, fetcher) as (flight, done):
            await done
            await self.content.hold(wanted.digest, lease)
            flight.known = True
        return await self.content.read(wanted.digest, limit)

    def partial_bytes(self, plan: Plan) -> int:
        """How much of what `plan` fetches earlier tries, or other pulls, have put on the disk."""
        return sum(min(self.content.partial(each.digest), each.size) for each in plan.fetch)

    def begin_unpack(self, snapshotter: Snapshotter) -> LayerFlight:
        """A flight that unpacks a layer."""
        return LayerFlight(snapshotter, self._applier, self._database)

    async def plan(
        self, manifest: Manifest, config: Config, snapshotter: Snapshotter, lease: Lease
    ) -> Plan:
        """Decide what is missing of an image, and let `lease` hold what is here."""
        chain = image_chain(manifest, config)
        known = {
            layer.digest: await self.content.hold(layer.digest, lease) for layer in manifest.layers
        }
        await snapshotter.notice_lost(chain)

        def hold_highest(db: sqlite3.Connection) -> set[Digest]:
            for chain_id in reversed(chain):
                if leases.hold_snapshot(db, snapshotter.name, chain_id, lease):
                    return {chain_id}
            return set()

        return make_plan(manifest, config, await self._database.write(hold_highest), known)
