"""Pulling an image, from a reference to a ready image. `Puller.pull` reads top to bottom."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cri_imaged.errors import QueueFullError
from cri_imaged.images.airport import Airport
from cri_imaged.images.deliver import Delivery
from cri_imaged.images.durability import Durability
from cri_imaged.images.plan import Plan, compressed_size
from cri_imaged.images.progress import Phase, RunningPulls
from cri_imaged.images.select import Selected, select
from cri_imaged.images.shielded import to_the_end
from cri_imaged.images.space import Space
from cri_imaged.images.store import Image, ImageStore
from cri_imaged.limits import Limits
from cri_imaged.metadata import blobs, images, leases
from cri_imaged.metadata.database import Database
from cri_imaged.metadata.images import ImageRecord, NewImage
from cri_imaged.oci.platform import Platform
from cri_imaged.oci.reference import Reference
from cri_imaged.ports import (
    Credentials,
    Lease,
    Resolver,
    Snapshotter,
)


@dataclass(frozen=True, slots=True)
class Handler:
    """What images pulled for one runtime handler are for."""

    name: str
    platform: Platform
    snapshotter: Snapshotter


@dataclass(frozen=True, slots=True)
class Pulled:
    """A successful pull."""

    image: Image
    reference: Reference
    repo_digest: str
    received: int
    """Bytes of layers that came over the network."""


class Puller:
    """Pulls images. All pulls of the daemon share its flights."""

    def __init__(
        self,
        *,
        resolver: Resolver,
        airport: Airport,
        handlers: Mapping[str, Handler],
        database: Database,
        store: ImageStore,
        running: RunningPulls,
        space: Space,
        durability: Durability,
        limits: Limits,
        max_concurrent_downloads: int,
    ) -> None:
        self._resolver = resolver
        self._handlers = handlers
        self._database = database
        self._store = store
        self._running = running
        self._space = space
        self._durability = durability
        self._limits = limits
        self._downloads = max_concurrent_downloads
        self._slots = asyncio.Semaphore(limits.running_pulls)
        self._waiting = 0
        self._airport = airport

    def handler(self, name: str) -> Handler:
        """The configured handler of that name, else the default one."""
        return self._handlers.get(name, self._handlers[""])

    async def pull(
        self, name: str, handler_name: str = "", credentials: Credentials | None = None
    ) -> Pulled:
        """Pull `name` as a client gives it and return the image, ready to be mounted.

        Raises:
            ImagedError: each of its kinds. Nothing of a failed pull is shown, and what it fetched
                waits for the next try.
        """
        handler = self.handler(handler_name)
        reference = Reference.parse(name).canonical()
        with self._running.track(str(reference), handler.name) as progress:
            async with self._slot(), self._lease() as lease:
                progress.phase = Phase.RESOLVING
                known = await self._airport.known(reference)
                resolved = await self._resolver.resolve(reference, credentials, known)
                selected = await select(
                    resolved, handler.platform, self._airport, lease, self._limits
                )
                plan = await self._airport.plan(
                    selected.manifest, selected.config, handler.snapshotter, lease
                )
                self._space.check(plan.missing_bytes - self._airport.partial_bytes(plan))
                progress.phase = Phase.FETCHING
                async with Delivery(
                    plan, resolved.fetcher, handler.snapshotter, self._airport, self._downloads
                ) as delivery:
                    progress.layers = delivery.progress(selected.manifest)
                    await delivery.run()
                    image = await to_the_end(
                        self._make_known(reference, handler, selected, plan, delivery)
                    )
            await self._durability.pulled()
            progress.phase = Phase.DONE
            repo_digest = str(reference.at_digest(selected.target.digest))
            return Pulled(image, reference, repo_digest, delivery.received())

    async def _make_known(
        self,
        reference: Reference,
        handler: Handler,
        selected: Selected,
        plan: Plan,
        delivery: Delivery,
    ) -> Image:
        """The one transaction that makes an image, then the in-memory store. Somebody may remove
        the image right after: it was pulled all the same."""
        image_id = selected.manifest.config.digest
        repo_digest = str(reference.at_digest(selected.target.digest))
        names = dict.fromkeys((image_id, str(reference), repo_digest))
        new = NewImage(
            image_id=image_id,
            handler=handler.name,
            names=tuple(names),
            target=selected.target,
            manifest=selected.descriptor.digest,
            documents=frozenset(selected.documents),
            layers=frozenset(layer.digest for layer in selected.manifest.layers),
            size=compressed_size(selected.target, selected.descriptor, selected.manifest),
            user=selected.config.user,
            snapshotter=handler.snapshotter.name,
            chain_id=plan.chain_id,
        )

        def save(db: sqlite3.Connection) -> ImageRecord:
            for layer in plan.unneeded:
                blobs.unneeded(db, layer.digest, layer.size)
            images.save(db, new)
            record = images.find(db, image_id, handler.name)
            if record is None:
                raise RuntimeError(f"image {image_id} is not ready though all of it is here")
            return record

        record = await self._database.write(save)
        delivery.made_known()
        await self._store.update(new.names, handler.name)
        return self._store.describe(record)

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """A place among the running pulls, first come, first served."""
        if self._slots.locked() and self._waiting >= self._limits.waiting_pulls:
            raise QueueFullError(
                f"{self._waiting} pulls wait already, limit {self._limits.waiting_pulls}; "
                "try again later"
            )
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()

    @asynccontextmanager
    async def _lease(self) -> AsyncIterator[Lease]:
        """Holds what the pull finds here and the documents it stores, until it has ended."""
        lease = leases.new()
        ended = False
        try:
            await self._database.write(lambda db: leases.insert(db, lease))
            yield lease
            ended = True
        finally:
            await to_the_end(
                self._database.write(
                    lambda db: leases.end(db, lease, keep_for_resume=not ended), makes_room=True
                )
            )
