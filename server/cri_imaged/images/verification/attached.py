"""The signatures that a registry has of an image."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

from cri_imaged.errors import Category, CorruptContentError, LimitExceededError, RegistryError
from cri_imaged.images.documents import StoredDocuments
from cri_imaged.images.verification.signatures import (
    BUNDLES,
    SIGNATURE,
    SIMPLE_SIGNING,
    Signature,
    bundled,
    signatures_tag,
    simple,
)
from cri_imaged.oci import media_types
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.documents import Index, Manifest, parse_document
from cri_imaged.oci.reference import Reference
from cri_imaged.ports import Credentials, Fetcher, Resolver

_FALLBACK_CHARACTERS = 64
"""Of a digest in the tag that stands for a list of referrers."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image as one pull found it, before it is verified."""

    reference: Reference
    target: Descriptor
    """What the reference resolved to."""
    fetcher: Fetcher
    credentials: Credentials | None


class Attached:
    """Signatures of one image, fetched one after the other."""

    def __init__(
        self, candidate: Candidate, resolver: Resolver, documents: StoredDocuments
    ) -> None:
        self._candidate = candidate
        self._image = candidate.target.digest
        self._resolver = resolver
        self._documents = documents
        self._limits = documents.limits
        self.unfit: list[str] = []
        """Why others than those given out were none of this image."""

    async def signatures(self) -> AsyncGenerator[Signature, None]:
        """Those that speak of the image, whoever signed them.

        Raises:
            RegistryError: whether there are any could not be found out.
        """
        async for each in self._simple():
            yield each
        async for each in self._bundled():
            yield each

    async def _simple(self) -> AsyncIterator[Signature]:
        tag = signatures_tag(self._image)
        document = await self._tagged(tag) if tag is not None else None
        if not isinstance(document, Manifest):
            return
        payloads = [each for each in document.blobs if each.media_type == SIMPLE_SIGNING]
        for payload in payloads[: self._limits.signatures]:
            try:
                data = await self._read(payload)
                yield simple(data, payload.annotations.get(SIGNATURE, ""), self._image)
            except (CorruptContentError, LimitExceededError) as error:
                self._is_unfit(error)

    async def _bundled(self) -> AsyncIterator[Signature]:
        index = await self._referrers()
        if index is None:
            return
        bundles = [each for each in index.manifests if each.artifact_type in BUNDLES]
        for bundle in bundles[: self._limits.signatures]:
            try:
                manifest = await self._document(bundle.descriptor())
                listed = manifest.blobs if isinstance(manifest, Manifest) else ()
                for layer in listed[:1]:
                    yield bundled(await self._read(layer), self._image)
            except (CorruptContentError, LimitExceededError) as error:
                self._is_unfit(error)

    def _is_unfit(self, error: Exception) -> None:
        self.unfit.append(str(error))

    async def _referrers(self) -> Index | None:
        """As the registry lists them, or under the tag that stands for such a list."""
        listed = await self._candidate.fetcher.referrers(self._image)
        found = None if listed is None else await self._parsed(listed, media_types.OCI_INDEX)
        if found is None:
            tag = f"{self._image.algorithm}-{self._image.hex[:_FALLBACK_CHARACTERS]}"
            found = await self._tagged(tag)
        return found if isinstance(found, Index) else None

    async def _tagged(self, tag: str) -> Index | Manifest | None:
        """What a tag of the image's repository stands for, if there is such a tag."""
        name = self._candidate.reference
        try:
            resolved = await self._resolver.resolve(
                Reference(name.registry, name.repository, tag), self._candidate.credentials
            )
        except RegistryError as error:
            if error.category is Category.NOT_FOUND:
                return None
            raise
        assert resolved.document is not None  # as none was known
        return await self._parsed(resolved.document, resolved.descriptor.media_type)

    async def _parsed(self, document: BinaryIO, media_type: str) -> Index | Manifest | None:
        try:
            return await self._documents.answered(
                document, lambda data: parse_document(data, media_type, self._limits)
            )
        except (CorruptContentError, LimitExceededError) as error:
            self._is_unfit(error)
            return None

    async def _document(self, wanted: Descriptor) -> Index | Manifest | None:
        data = await self._read(wanted)
        return await self._parsed(BytesIO(data), wanted.media_type)

    async def _read(self, wanted: Descriptor) -> bytes:
        """Something small, verified. Where the registry has lost it, it is none of ours to wait
        for."""
        try:
            return await self._fetched(wanted)
        except RegistryError as error:
            if error.category is Category.NOT_FOUND:
                raise CorruptContentError(str(error)) from None
            raise

    async def _fetched(self, wanted: Descriptor) -> bytes:
        limit = self._limits.signature_bytes
        if wanted.size > limit:
            raise LimitExceededError(
                f"{wanted.digest} has {wanted.size} bytes, limit {limit} (signature_bytes)"
            )
        data = bytearray()
        async with self._candidate.fetcher.fetch(wanted) as stream:
            async for chunk in stream:
                data += chunk
                if len(data) > wanted.size:
                    break
            read = bytes(data)
            if Digest.of(read, wanted.digest.algorithm) != wanted.digest:
                stream.discredit()
                raise CorruptContentError(f"{wanted.digest}: the registry sent other bytes")
        return read
