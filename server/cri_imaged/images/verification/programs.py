"""The programs of a folder, asked about an image: the protocol of containerd's bindir verifier
(containerd, docs/image-verification.md)."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from cri_imaged import children
from cri_imaged.disk import on_disk
from cri_imaged.errors import ConfigError, SignatureRejectedError
from cri_imaged.limits import VERIFIER_OUTPUT_BYTES
from cri_imaged.oci.descriptor import Descriptor

log = structlog.get_logger()

_DESCRIPTOR = "application/vnd.oci.descriptor.v1+json"
_SHOWN_CHARACTERS = 1000
"""Of what a program says, in an error."""


@dataclass(frozen=True, slots=True)
class Programs:
    """Those of one folder. Each has to accept."""

    folder: Path
    most: int
    """The first so many by name are asked; negative: all."""
    seconds: float
    """That each may take."""

    async def ask(self, name: str, target: Descriptor) -> None:
        """Ask about the image that `name` resolved to. A folder that is empty, or not there, has
        nothing against it.

        Raises:
            SignatureRejectedError: a program rejects it, fails, or takes too long.
            ConfigError: the folder cannot be read.
        """
        names = await on_disk(self._names)
        asked = names if self.most < 0 else names[: self.most]
        if len(asked) < len(names):
            log.warning(
                "there are more verifiers than are asked",
                folder=str(self.folder),
                verifiers=len(names),
                max_verifiers=self.most,
            )
        for each in asked:
            try:
                reason = await self._ask(self.folder / each, name, target)
            except SignatureRejectedError as error:
                raise error.within(f"{name}: verifier {each}") from None
            log.info("verifier accepted image", verifier=each, image=name, reason=reason)

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(
                f"image.verification.bin_dir: {self.folder} cannot be read: {error.strerror}"
            ) from None

    async def _ask(self, program: Path, name: str, target: Descriptor) -> str:
        """Why it accepts."""
        arguments = ("-name", name, "-digest", target.digest, "-stdin-media-type", _DESCRIPTOR)
        document = {
            "mediaType": target.media_type,
            "digest": str(target.digest),
            "size": target.size,
        }
        try:
            ran = await children.ask(
                [str(program), *arguments],
                msgspec.json.encode(document) + b"\n",  # as containerd ends it: shells read lines
                seconds=self.seconds,
                kept=VERIFIER_OUTPUT_BYTES,
            )
        except OSError as error:
            if isinstance(error, TimeoutError):
                raise SignatureRejectedError(f"gave no verdict within {self.seconds:g} s") from None
            raise SignatureRejectedError(f"cannot be run: {error.strerror}") from None
        said = _text(ran.out)
        log.debug("verifier ended", verifier=program.name, status=ran.status, stderr=_text(ran.err))
        if ran.status < 0:
            raise SignatureRejectedError(f"was ended by {_name_of(-ran.status)}")
        if ran.status:
            reason = f": {said[:_SHOWN_CHARACTERS]}" if said else ""
            raise SignatureRejectedError(f"rejected the image (exit code {ran.status}){reason}")
        return said


def _name_of(number: int) -> str:
    """A signal's; most of the real-time ones have none."""
    named = number in set(signal.Signals)
    return signal.Signals(number).name if named else f"signal {number}"


def _text(output: bytes) -> str:
    return output.decode(errors="replace").strip()
