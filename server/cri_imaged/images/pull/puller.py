"""Pulling an image, from a reference to a ready image. `Puller.pull` reads top to bottom."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

from cri_imaged import spool
from cri_imaged.images.handlers import Handler, Handlers
from cri_imaged.images.health.durability import Durability
from cri_imaged.images.leases import holding, unless_well
from cri_imaged.images.pull.documents import Documents
from cri_imaged.images.pull.making import make_image
from cri_imaged.images.pull.places import Places
from cri_imaged.images.pull.progress import Phase, PullProgress, RunningPulls
from cri_imaged.images.pull.ready import ImageMaker
from cri_imaged.images.pull.schema1 import Schema1Converter
from cri_imaged.images.pull.select import Selected, select
from cri_imaged.images.pull.shares import Share
from cri_imaged.images.pull.silence import ended_by_silence
from cri_imaged.images.pull.starts import Starts
from cri_imaged.images.pull.texts import Texts
from cri_imaged.images.pull.warnings import warnings_of
from cri_imaged.images.reports import Cause
from cri_imaged.images.store import Image
from cri_imaged.images.stores import Stores
from cri_imaged.images.transfers.fetch import Origin
from cri_imaged.images.transfers.rights import Rights
from cri_imaged.images.transfers.transfers import Transfers
from cri_imaged.images.usage import UsageMeter
from cri_imaged.images.verification.attached import Candidate
from cri_imaged.images.verification.verifier import Verifier
from cri_imaged.limits import Limits
from cri_imaged.metadata import blobs, images, signers
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.platform import Platform
from cri_imaged.oci.reference import Reference
from cri_imaged.ports import Activity, Credentials, Lease, Resolved, Resolver

_NO_CAUSE = Cause()


@dataclass(frozen=True, slots=True)
class Pulled:
    """A successful pull."""

    image: Image
    reference: Reference
    repo_digest: str
    """Empty for an image that was converted from Docker schema 1 and was pulled by a tag."""
    received: int
    """Bytes of layers that came over the network."""
    warnings: tuple[str, ...] = ()
    """Sentences on what its user may miss."""


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What is seen to once an image is ready and before its pull answers."""

    durability: Durability
    meter: UsageMeter

    async def run(self) -> None:
        """The disk is synced, soon or now, and what the images take is measured."""
        await self.durability.pulled()
        await self.meter.measure()


@dataclass(frozen=True, slots=True)
class PullPolicy:
    """What pulls may do."""

    limits: Limits
    trusts_store: bool
    """Whether a pull may use all that is here, whoever brought it (`image.trust_store`)."""
    progress_timeout: float | None
    """Seconds that a pull may get nothing while it waits for a registry; None: for ever."""
    verifier: Verifier
    schema1: Schema1Converter


class _Known(NamedTuple):
    """What is known of a reference before its registry is asked."""

    target: Descriptor | None
    """What it stood for, where that is here."""
    documents: dict[Digest, int]
    """Those of the image that are here, and their sizes."""
    linked: Collection[Digest]
    """All that the image links, here or not."""


class Puller:
    """Pulls images. All pulls of the daemon share its transfers."""

    def __init__(
        self,
        *,
        resolver: Resolver,
        stores: Stores,
        transfers: Transfers,
        maker: ImageMaker,
        handlers: Handlers,
        running: RunningPulls,
        aftermath: Aftermath,
        policy: PullPolicy,
    ) -> None:
        self.handlers = handlers
        self._resolver = resolver
        self._stores = stores
        self._transfers = transfers
        self._maker = maker
        self._running = running
        self._aftermath = aftermath
        self._policy = policy
        self._limits = policy.limits
        self._places = Places(policy.limits)
        self._starts = Starts()
        self._texts = Texts(policy.limits)

    async def pull(
        self,
        name: str,
        handler_name: str = "",
        credentials: Credentials | None = None,
        cause: Cause = _NO_CAUSE,
        platform: Platform | None = None,
    ) -> Pulled:
        """Pull `name` as a client gives it and return the image, ready to be mounted. It is for
        `platform`, where that is given, else for the handler's.

        Raises:
            ImagedError: each of its kinds. Nothing of a failed pull is shown, and what it fetched
                waits for the next try.
        """
        handler = self.handlers.of(handler_name)
        if platform is not None:
            handler = replace(handler, platform=platform)
        with self._running.track(name, handler.name, cause) as progress:
            reference = Reference.parse(name).canonical()
            progress.reference = str(reference)
            progress.snapshotter = handler.snapshotter.name
            share = Share.of(reference)
            activity = Activity(progress.cause.traceparent, cause.priority, share)
            async with (
                self._places.place(share, lambda: progress.awaited, activity),
                self._starts.start(share, activity, lambda: progress.stage is Phase.FETCHING),
                holding(
                    self._stores.database,
                    # Before that nothing came, and who is denied keeps nothing.
                    keep_for_resume=lambda well: unless_well(well) and progress.is_resolved,
                ) as lease,
                ended_by_silence(activity, self._policy.progress_timeout, str(reference)),
            ):
                progress.enter(Phase.RESOLVING)
                known = await self._known(reference, lease)
                async with self._resolved(
                    reference, credentials, known.target, activity
                ) as resolved:
                    target, progress.account = resolved.descriptor, resolved.account
                    progress.is_resolved = True
                    signer = await self._policy.verifier.verify(
                        Candidate(reference, target, resolved.fetcher, self._resolver, credentials)
                    )
                    origin = Origin(resolved.fetcher, reference.registry, reference.name, activity)
                    documents = self._documents(origin, known, lease)
                    await documents.resolved(target, resolved.document)
                image_target = await self._policy.schema1.converted(
                    target, documents, handler.snapshotter
                )
                repo_digest = _repo_digest(reference, target, image_target)
                selected = await select(image_target, handler.platform, documents, self._limits)
                with self._texts.kept(share, selected.manifest):
                    image = await self._make_ready(
                        reference, repo_digest, handler, selected, signer, documents, progress
                    )
            await self._aftermath.run()
            progress.enter(Phase.DONE)
            return Pulled(image, reference, repo_digest, progress.received, progress.warnings)

    @asynccontextmanager
    async def _resolved(
        self,
        reference: Reference,
        credentials: Credentials | None,
        known: Descriptor | None,
        activity: Activity,
    ) -> AsyncIterator[Resolved]:
        """What the registry answers, and its document, open while the context lasts."""
        resolved = await self._resolver.resolve(reference, credentials, known, activity)
        try:
            yield resolved
        finally:
            if resolved.document is not None:
                await spool.close(resolved.document)

    async def _known(self, reference: Reference, lease: Lease) -> _Known:
        """What is here of what `reference` stood for when it was last pulled. `lease` holds the
        documents from then on: whoever removes the image now takes none of them away."""

        def hold(db: sqlite3.Connection) -> _Known:
            meant = images.meant(db, str(reference))
            if meant is None:
                return _Known(None, {}, {})
            documents = [each for each, is_layer in meant.blobs.items() if not is_layer]
            found = [blobs.hold(db, each, lease) for each in documents]
            here = {each.digest: each.size for each in found if each and each.state == "present"}
            target = meant.target if meant.target.digest in here else None
            return _Known(target, here, meant.blobs)

        return await self._stores.database.write(hold)

    def _documents(self, origin: Origin, known: _Known, lease: Lease) -> Documents:
        rights = Rights(
            self._stores.database,
            origin,
            trusts_store=self._policy.trusts_store,
            ours=known.linked,
        )
        return Documents(self._stores, self._transfers, lease, rights, known.documents)

    async def _make_ready(
        self,
        reference: Reference,
        repo_digest: str,
        handler: Handler,
        selected: Selected,
        signer: str | None,
        documents: Documents,
        progress: PullProgress,
    ) -> Image:
        def add_signer(db: sqlite3.Connection) -> None:
            if signer is not None:
                signers.add(db, str(reference), handler.name, reference.name, signer)

        record = await make_image(
            self._maker,
            selected,
            tuple(filter(None, (str(reference), repo_digest))),
            handler,
            documents.rights,
            documents.lease,
            progress,
            also=add_signer,
            spends=(documents.lease,),
        )
        progress.image_id, progress.image_bytes = record.image_id, record.size
        progress.warnings = await warnings_of(
            selected.config, handler.platform, handler.snapshotter, record.chain_id
        )
        return self._maker.publisher.store.describe(record)


def _repo_digest(reference: Reference, resolved: Descriptor, target: Descriptor) -> str:
    """What the registry has the image under, as containerd names it: nothing where it was converted
    on the way, unless the reference itself says it."""
    if target.digest == resolved.digest or reference.digest is not None:
        return str(reference.at_digest(resolved.digest))
    return ""
