"""Whether one pull may have the image that it found."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from cri_imaged.disk import on_disk
from cri_imaged.errors import SignatureRejectedError
from cri_imaged.images.documents import StoredDocuments
from cri_imaged.images.verification.attached import Attached, Candidate
from cri_imaged.images.verification.keys import PublicKey, read_keys
from cri_imaged.images.verification.policy import EVERY, Policy, Rule
from cri_imaged.images.verification.programs import Programs
from cri_imaged.images.verification.signatures import Signature
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.spool import Spools

log = structlog.get_logger()
_REASONS_SHOWN = 5


@dataclass(slots=True)
class Demands:
    """What is asked of images now. All of the daemon share one; a reload replaces its parts."""

    policy: Policy
    programs: Programs

    async def check_keys(self) -> None:
        """Read all keys, to say at once what is wrong with them. Raises `ConfigError`."""
        files = [file for rule in self.policy.rules.values() for file in rule.keys]
        if files:
            await on_disk(lambda: read_keys(files))

    async def admit_nameless(self, target: Descriptor) -> None:
        """Judge an image that is of no repository: nothing but the rule for all others is about
        it. Programs are told its digest for its name.

        Raises:
            SignatureRejectedError: it may not be here.
            ConfigError: the folder of programs cannot be read.
        """
        rule = self.policy.rules.get(EVERY)
        if rule is not None and rule.require != "accept":
            raise SignatureRejectedError(
                f"{target.digest}: {rule} lets in nothing that has no name; give it one"
            )
        await self.programs.ask(str(target.digest), target)


class Verifier:
    """Verifies images that are to be pulled or imported."""

    def __init__(self, demands: Demands, documents: StoredDocuments, spools: Spools) -> None:
        self._demands = demands
        self._documents = documents
        self._spools = spools

    async def verify(self, candidate: Candidate) -> str | None:
        """Returns the fingerprint of the key that signed the image, None where none had to.

        Raises:
            SignatureRejectedError: it may not be pulled; says by which policy or program.
            RegistryError: its signatures could not be asked for.
            ConfigError: a key's file, or the folder of programs, cannot be read.
        """
        rule = self._demands.policy.rule(candidate.reference)
        signer = None
        if rule is not None and rule.require == "reject":
            raise SignatureRejectedError(f"{candidate.reference}: {rule} rejects it")
        if rule is not None and rule.require == "signed":
            signer = await self._signer(rule, candidate)
        await self._demands.programs.ask(str(candidate.reference), candidate.target)
        return signer

    async def verify_nameless(self, target: Descriptor) -> None:
        """See `Demands.admit_nameless`."""
        await self._demands.admit_nameless(target)

    async def _signer(self, rule: Rule, candidate: Candidate) -> str:
        keys = await on_disk(lambda: read_keys(rule.keys))
        attached = Attached(
            candidate,
            self._documents,
            self._spools,
            lambda signature: _signer_of(signature, keys),
        )
        strangers = 0
        async with aclosing(attached.checked()) as checked:
            async for found in checked:
                if found is not None:
                    log.info(
                        "image is signed",
                        image=str(candidate.reference),
                        digest=candidate.target.digest,
                        key=str(found.file),
                    )
                    return found.fingerprint
                strangers += 1
        names = ", ".join(str(key.file) for key in keys)
        found_instead = [f"signatures by other keys: {strangers}"] if strangers else []
        found_instead += attached.unfit[:_REASONS_SHOWN]
        raise SignatureRejectedError(
            f"{candidate.reference}: {rule} wants {candidate.target.digest} to be signed by one of "
            f"{names}; {'; '.join(found_instead) or 'it has no signature'}"
        )


def _signer_of(signature: Signature, keys: Sequence[PublicKey]) -> PublicKey | None:
    made = (key for key in keys if key.signed(signature.signature, signature.signed))
    return next(made, None)
