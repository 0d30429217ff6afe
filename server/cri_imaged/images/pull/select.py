"""From what a reference resolved to down to one platform's manifest and config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cri_imaged.errors import (
    CorruptContentError,
    ImagedError,
    LimitExceededError,
    NotFoundError,
    UnsupportedContentError,
)
from cri_imaged.images.pull.documents import Documents
from cri_imaged.limits import Limits
from cri_imaged.oci import media_types
from cri_imaged.oci import platform as platforms
from cri_imaged.oci.artifacts import read_image
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.documents import (
    Config,
    Index,
    IndexEntry,
    Manifest,
    parse_document,
)
from cri_imaged.oci.platform import Platform

_SHOWN_PLATFORMS = 20


@dataclass(frozen=True, slots=True)
class Selected:
    """One platform's image behind a reference. Its documents are in the content store."""

    target: Descriptor
    descriptor: Descriptor
    """Of the manifest."""
    manifest: Manifest
    config: Config
    documents: tuple[Digest, ...]
    """Indexes, manifest and config."""


async def select(
    target: Descriptor, wanted: Platform, source: Documents, limits: Limits
) -> Selected:
    """Walk from `target` to the best manifest for `wanted`, keeping each document.

    What an index says of a manifest's platform decides, whatever the config says; so does the
    reference itself where it names one manifest. Only where an index tells no platform, the config
    is asked.

    Raises:
        NotFoundError: no manifest for the platform; the message lists those there are.
        CorruptContentError, UnsupportedContentError, LimitExceededError, RegistryError
    """
    walk = _Walk(target, wanted, source, limits)
    alone = target.media_type in media_types.MANIFESTS
    found = await walk.follow(target, (), decided=alone)
    if found is None:
        raise walk.not_found()
    return found


def candidates(index: Index, wanted: Platform) -> Sequence[IndexEntry]:
    """The entries to look into, in this order: those of the best platform, else those without any.
    Entries that demand what no node of ours offers are none, nor are artifacts in an index that
    also lists images."""
    readable = [
        entry
        for entry in index.manifests
        if entry.media_type in media_types.DOCUMENTS and not entry.demands
    ]
    images = [entry for entry in readable if entry.artifact_type in ("", *media_types.CONFIGS)]
    plain = images or readable
    position = platforms.choose(wanted, [entry.platform for entry in plain])
    if position is None:
        return ()
    return [entry for entry in plain if entry.platform == plain[position].platform]


def misfit(config: Config, wanted: Platform) -> Platform | None:
    """The platform that a config names, where `wanted` does not run it. A config that names none
    runs anywhere, as containerd has it."""
    told = config.platform
    if told.os and told.architecture and platforms.choose(wanted, [told]) is None:
        return told
    return None


class _Candidate(NamedTuple):
    """What is kept of an index's entry that is to be looked into."""

    descriptor: Descriptor | ImagedError
    """Or what is wrong with it, told only when it is its turn."""
    decided: bool
    """Whether the index says for which platform it is."""


class _Choice(NamedTuple):
    """What is kept of an index."""

    candidates: Sequence[_Candidate]
    others: Sequence[str]
    """Some platforms that it lists."""


class _Walk:
    def __init__(
        self, target: Descriptor, wanted: Platform, source: Documents, limits: Limits
    ) -> None:
        self._target = target
        self._wanted = wanted
        self._source = source
        self._limits = limits
        self._looked_into = 0
        self._others: set[str] = set()
        self._refusal: Exception | None = None

    async def follow(
        self, descriptor: Descriptor, above: tuple[Digest, ...], *, decided: bool
    ) -> Selected | None:
        """The image that a document leads to, or None. `decided`: its platform is the right one."""
        document = await self._source.manifest(
            descriptor, lambda data: self._read(data, descriptor.media_type)
        )
        documents = (*above, descriptor.digest)
        if isinstance(document, Manifest):
            return await self._image(descriptor, document, documents, decided=decided)
        if len(documents) > self._limits.index_depth:
            raise LimitExceededError(
                f"indexes are nested more than {self._limits.index_depth} deep"
            )
        artifact: Selected | None = None
        for candidate in document.candidates:
            self._looked_into += 1
            if self._looked_into > self._limits.index_candidates:
                break
            try:
                found = await self._enter(candidate, documents, decided=decided)
            except UnsupportedContentError as error:
                self._refusal = self._refusal or error.alone()
            except CorruptContentError as error:
                if candidate.decided:
                    raise
                self._refusal = self._refusal or error.alone()
            else:
                if found is not None and not found.config.is_artifact:
                    return found
                if candidate.decided or not document.others:
                    artifact = artifact or found
        self._others.update(document.others)
        return artifact

    def _read(self, data: bytes, media_type: str) -> Manifest | _Choice:
        document = parse_document(data, media_type, self._limits)
        if isinstance(document, Manifest):
            return document
        entries = candidates(document, self._wanted)[: self._limits.index_candidates]
        others = {str(entry.platform) for entry in document.manifests if entry.platform}
        return _Choice(tuple(map(_candidate, entries)), sorted(others)[:_SHOWN_PLATFORMS])

    def not_found(self) -> Exception:
        """What to tell where nothing was found."""
        if self._refusal is not None:
            return self._refusal
        return NotFoundError(
            f"no manifest for platform {self._wanted}; the image is there for "
            f"{', '.join(sorted(self._others)[:_SHOWN_PLATFORMS]) or 'no platform'}"
        )

    async def _enter(
        self, candidate: _Candidate, above: tuple[Digest, ...], *, decided: bool
    ) -> Selected | None:
        if isinstance(candidate.descriptor, ImagedError):
            raise candidate.descriptor
        return await self.follow(candidate.descriptor, above, decided=decided or candidate.decided)

    async def _image(
        self,
        descriptor: Descriptor,
        manifest: Manifest,
        documents: tuple[Digest, ...],
        *,
        decided: bool,
    ) -> Selected | None:
        listed = manifest
        manifest, config = await self._source.config(
            listed.config, lambda data: read_image(listed, data, self._limits)
        )
        other = misfit(config, self._wanted)
        if other is not None and not decided:
            self._others.add(str(other))
            return None
        return Selected(
            target=self._target,
            descriptor=descriptor,
            manifest=manifest,
            config=config,
            documents=(*documents, manifest.config.digest),
        )


def _candidate(entry: IndexEntry) -> _Candidate:
    descriptor: Descriptor | ImagedError
    try:
        said = entry.descriptor()
        descriptor = Descriptor(said.media_type, said.digest, said.size)
    except ImagedError as error:
        descriptor = error.alone()
    return _Candidate(descriptor, entry.platform is not None)
