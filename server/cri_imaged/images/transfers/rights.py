"""What of the content that is here one pull may use.

That a blob is here is no proof that whoever names it may have it: a digest is no secret, and what
a private image is made of would be readable through an image that only names it. A pull uses what
came from its own repository, and else asks the registry whether it may, with its own credentials.
Nor is it a proof that a blob gives the diffID that a manifest pairs it with: a snapshot is used
only where this very blob was seen to give it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import suppress

from cri_imaged.errors import RegistryError
from cri_imaged.images.pull.plan import Step
from cri_imaged.images.transfers.fetch import Origin
from cri_imaged.metadata import images
from cri_imaged.metadata.database import Database
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import LayerSecret, Secrets, SnapshotInfo

_ASKED_AT_A_TIME = 3


class Rights:
    """One pull's."""

    def __init__(
        self,
        database: Database,
        origin: Origin,
        *,
        trusts_store: bool,
        ours: Iterable[Digest] = (),
    ) -> None:
        """With `trusts_store` all that is here may be used by every pull (`image.trust_store`).
        `ours`: what is known already to be linked by an image of the origin's repository."""
        self._database = database
        self.origin = origin
        self._trusts_store = trusts_store
        self._confirmed = set(ours)
        self._asking = asyncio.Semaphore(_ASKED_AT_A_TIME)

    def proven(self, steps: Sequence[Step], here: Sequence[SnapshotInfo], secrets: Secrets) -> int:
        """How many of the lowest layers have a snapshot that their own blob was seen to give,
        decrypted by the very secret that this pull has. `here` are the snapshots of the lowest of
        `steps`, as far as there are any.
        """
        for number, (step, info) in enumerate(zip(steps, here, strict=False)):
            if not self._may_use(info, step, secrets):
                return number
        return len(here)

    def _may_use(self, info: SnapshotInfo, step: Step, secrets: Secrets) -> bool:
        if self._trusts_store and not any(made.secret for made in info.provenance):
            return True
        return gives(info, step, secrets.get(step.layer.digest))

    def given(self, document: Descriptor) -> None:
        """The registry has answered this pull with it."""
        self._confirmed.add(document.digest)

    async def confirm(self, *wanted: Descriptor) -> None:
        """Make sure that this pull may have what is here of `wanted`.

        Raises:
            RegistryError: what the registry says where it may not.
        """
        unknown = [each for each in unique(wanted) if each.digest not in self._confirmed]
        if self._trusts_store or not unknown:
            return
        repository = self.origin.repository

        def ours(db: sqlite3.Connection) -> set[Digest]:
            digests = (each.digest for each in unknown)
            return {digest for digest in digests if images.repository_has(db, repository, digest)}

        self._confirmed |= await self._database.read(ours)
        try:
            async with asyncio.TaskGroup() as group:
                for each in unknown:
                    if each.digest not in self._confirmed:
                        group.create_task(self._ask(each))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _ask(self, wanted: Descriptor) -> None:
        async with self._asking:
            with suppress(RegistryError):
                if await self.origin.fetcher.has(wanted):
                    self._confirmed.add(wanted.digest)
                    return
            # Not every registry answers a HEAD; and a refusal is told in a GET's answer only.
            async with self.origin.fetcher.fetch(wanted):
                self._confirmed.add(wanted.digest)


def gives(info: SnapshotInfo, step: Step, secret: LayerSecret | None) -> bool:
    """Whether this step's blob was seen to give this snapshot; where it is encrypted, by this
    secret: somebody may claim to have it who wrapped another one."""
    used = secret.fingerprint if secret is not None else ""
    return any(
        (made.blob, made.blob_size) == (step.layer.digest, step.layer.size)
        and made.secret == used
        and step.diff_id in (None, made.diff_id)
        for made in info.provenance
    )


def unique(descriptors: Iterable[Descriptor]) -> Iterable[Descriptor]:
    """Each digest once."""
    return {each.digest: each for each in descriptors}.values()
