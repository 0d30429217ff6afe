"""What is here that no pull would get today."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

from cri_imaged.disk import on_disk
from cri_imaged.errors import ConfigError, SignatureRejectedError
from cri_imaged.images.store import Image
from cri_imaged.images.verification.keys import read_keys
from cri_imaged.images.verification.verifier import Demands
from cri_imaged.metadata import signers
from cri_imaged.metadata.database import Database
from cri_imaged.metadata.signers import Verified
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.reference import Reference


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a name of an image is not as the policy wants it."""

    name: str
    """Its ID, where it has no other."""
    at_digest: str
    """The name of just that image, which nobody can move; empty where it has none."""
    reason: str


class Standing:
    """Judges images by what was found when they were pulled; no registry is asked."""

    def __init__(self, demands: Demands, database: Database) -> None:
        self._demands = demands
        self._database = database

    async def objections(self, image: Image) -> AsyncIterator[Objection]:
        """To each name of an image that is not as the policy wants it; to its ID, where it has no
        other."""
        names = (*image.repo_tags, *image.repo_digests)
        for name in names or (image.id,):
            reference = Reference.parse(name) if names else None
            found = await self._database.read(
                partial(
                    signers.verified,
                    name=name,
                    handler=image.record.handler,
                    repository=reference.name if reference else "",
                )
            )
            if found is None:
                continue
            try:
                await self._judge(reference, found)
            except (SignatureRejectedError, ConfigError) as error:
                at_digest = str(reference.at_digest(found.target.digest)) if reference else ""
                yield Objection(name, at_digest, str(error))

    async def admit(self, name: str, handler: str, reference: Reference) -> Digest | None:
        """Judge the image that `name` means as one that `reference` is to mean. Returns its target;
        None where there is no such image.

        Raises:
            SignatureRejectedError: the policy does not want it.
            ConfigError: a key cannot be read.
        """
        found = await self._database.read(
            lambda db: signers.verified(db, name, handler, reference.name)
        )
        if found is None:
            return None
        await self._judge(reference, found)
        return found.target.digest

    async def _judge(self, reference: Reference | None, found: Verified) -> None:
        if reference is None:
            await self._demands.admit_nameless(found.target)
            return
        rule = self._demands.policy.rule(reference)
        if rule is not None and rule.require == "reject":
            raise SignatureRejectedError(f"{rule} rejects it")
        if rule is not None and rule.require == "signed":
            keys = await on_disk(lambda: read_keys(rule.keys))
            if found.keys.isdisjoint(key.fingerprint for key in keys):
                raise SignatureRejectedError(
                    f"{rule} wants it to be signed, and no pull has seen a signature by one of its "
                    "keys"
                )
        await self._demands.programs.ask(str(reference), found.target)
