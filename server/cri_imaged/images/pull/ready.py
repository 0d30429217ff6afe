"""How a pull, a rebuild and a salvage make an image ready: plan, deliver, save, show."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from cri_imaged.errors import NoSpaceError, NotFoundError
from cri_imaged.images.leases import spending
from cri_imaged.images.publishing import Publisher
from cri_imaged.images.pull.plan import Plan, make_plan, steps_of
from cri_imaged.images.pull.progress import LayerProgress, Phase, PullProgress
from cri_imaged.images.pull.reserve import ReserveReachedError
from cri_imaged.images.pull.space import Space
from cri_imaged.images.stores import Stores
from cri_imaged.images.transfers.claims import Claims
from cri_imaged.images.transfers.deliver import Delivery
from cri_imaged.images.transfers.rights import Rights
from cri_imaged.images.transfers.transfers import Transfers
from cri_imaged.metadata import blobs
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.documents import Config, Manifest
from cri_imaged.ports import Decrypter, Lease, Secrets, Snapshotter
from cri_imaged.shielding import to_the_end

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be made ready."""

    manifest: Manifest
    config: Config
    names: tuple[str, ...]
    """Under which it is shown."""
    handler: str
    snapshotter: Snapshotter
    labels: Mapping[str, str] = field(default_factory=dict)
    """What tells a remote snapshotter which image it is."""
    rights: Rights | None = None
    """Of the pull that brings what is missing. None: what is here is used, and nobody asked."""
    spends: tuple[Lease, ...] = ()
    """Leases that hold nothing but what the image holds once it is known."""


Save = Callable[[sqlite3.Connection, Digest | None], T]
"""Makes the image known in one transaction, on top of the snapshot of this chainID."""


class ImageMaker:
    """Makes images ready. All of the daemon share its transfers."""

    def __init__(
        self,
        stores: Stores,
        transfers: Transfers,
        publisher: Publisher,
        space: Space,
        decrypter: Decrypter,
        max_concurrent_downloads: int,
    ) -> None:
        self.publisher = publisher
        self._stores = stores
        self._transfers = transfers
        self._space = space
        self._decrypter = decrypter
        self._downloads = max_concurrent_downloads

    async def make_ready(
        self, wanted: Wanted, lease: Lease, save: Save[T], progress: PullProgress | None = None
    ) -> T:
        """Bring in what is missing of an image, make it known by `save`, and show it. `lease` holds
        what is here meanwhile. Returns what `save` does.

        From the transaction on it is not torn by a cancellation.

        Raises:
            NotFoundError: a blob is missing, and there is nobody to be asked.
            NotDecryptableError: a layer is encrypted, and nothing here decrypts it.
            ImagedError: each of its kinds.
        """
        # Of all layers, whatever of them others have decrypted before.
        secrets = await self._decrypter.unwrap(wanted.manifest.layers)
        try:
            return await self._try(wanted, secrets, lease, save, progress)
        except ReserveReachedError:
            raise
        except NoSpaceError:
            # A quota, or somebody else's files: seen only when it is full.
            if not await self._space.make_room():
                raise
        return await self._try(wanted, secrets, lease, save, progress)

    async def fetch(
        self, blobs: Sequence[Descriptor], rights: Rights, snapshotter: Snapshotter, lease: Lease
    ) -> None:
        """Bring blobs in before there is an image, and let `lease` hold them.

        Raises:
            ImagedError: each of its kinds.
        """
        plan = Plan(fetch=tuple(blobs), steps=(), unneeded=(), chain_id=None)
        await self._space.make_sure(plan.missing_bytes)
        delivery = Delivery(plan, rights, snapshotter, self._transfers, self._downloads, {})
        with self._space.claim(delivery) as claim:
            async with delivery:
                with claim.at_work():
                    await delivery.run()
                await self._stores.content.hold_all([blob.digest for blob in blobs], lease)
                delivery.made_known()

    async def _try(
        self,
        wanted: Wanted,
        secrets: Secrets,
        lease: Lease,
        save: Save[T],
        progress: PullProgress | None,
    ) -> T:
        plan = await self._plan(wanted, secrets, lease)
        if plan.fetch and wanted.rights is None:
            raise NotFoundError(f"blob {plan.fetch[0].digest} is missing; pull the image again")
        claims = None
        if wanted.snapshotter.remote:
            claims = Claims(
                wanted.snapshotter, wanted.rights, secrets, lease, plan.steps, wanted.labels
            )
        else:
            await self._space.make_sure(
                plan.missing_bytes, lambda: self._stores.content.partial_bytes(plan.fetch)
            )
        delivery = Delivery(
            plan,
            wanted.rights,
            wanted.snapshotter,
            self._transfers,
            self._downloads if wanted.rights is not None else 1,
            secrets,
            claims,
        )
        with self._space.claim(delivery) as claim:
            async with delivery:
                if progress is not None:
                    self._show(progress, wanted, delivery)
                with claim.at_work():
                    await delivery.run()
                return await to_the_end(self._make_known(wanted, plan, save, delivery))

    def _show(self, progress: PullProgress, wanted: Wanted, delivery: Delivery) -> None:
        progress.layers = [
            LayerProgress(step.layer, step.chain_id, delivery)
            for step in steps_of(wanted.manifest, wanted.config)
        ]
        progress.layers += [LayerProgress(blob, None, delivery) for blob in wanted.manifest.blobs]
        progress.enter(Phase.FETCHING)

    async def _plan(self, wanted: Wanted, secrets: Secrets, lease: Lease) -> Plan:
        """Decide what is missing, and let `lease` hold what is here."""
        steps = steps_of(wanted.manifest, wanted.config)
        chain = [step.chain_id for step in steps]
        digests = {listed.digest for listed in (*wanted.manifest.layers, *wanted.manifest.blobs)}
        known = await self._stores.content.hold_all(digests, lease)
        held = await wanted.snapshotter.hold_chain(chain, lease)
        base = len(held)
        if wanted.rights is not None:
            base = wanted.rights.proven(steps, held, secrets)
        committed = set(chain[base - 1 : base])
        plan = make_plan(wanted.manifest, wanted.config, committed, known)
        if wanted.rights is not None:
            fetched = {layer.digest for layer in plan.fetch}
            listed = (*wanted.manifest.layers, *wanted.manifest.blobs)
            await wanted.rights.confirm(*(each for each in listed if each.digest not in fetched))
        return plan

    async def _make_known(self, wanted: Wanted, plan: Plan, save: Save[T], delivery: Delivery) -> T:
        def make_known(db: sqlite3.Connection) -> T:
            for layer in (*plan.unneeded, *delivery.claimed):
                blobs.unneeded(db, layer.digest, layer.size)
            return save(db, plan.chain_id)

        saved = await spending(
            self._stores.database, [*wanted.spends, *delivery.retire()], make_known
        )
        delivery.made_known()
        await self.publisher.update(wanted.names, wanted.handler)
        return saved
