"""The signatures that a registry has of an image."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, Generic, NamedTuple, TypeVar

from cri_imaged import spool
from cri_imaged.errors import (
    Category,
    CorruptContentError,
    ImagedError,
    LimitExceededError,
    RegistryError,
)
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
from cri_imaged.oci.documents import Index, Manifest, parse_document
from cri_imaged.oci.reference import Reference
from cri_imaged.ports import ByteStream, Credentials, Fetcher, Resolver
from cri_imaged.spool import Spools

T = TypeVar("T")

_FALLBACK_CHARACTERS = 64
"""Of a digest in the tag that stands for a list of referrers."""
_SIGNATURE_CHARACTERS = 4096
"""Of a signature in an annotation; those of the longest keys in use have 700."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image as one pull or import found it, before it is verified."""

    reference: Reference
    target: Descriptor
    """What the reference resolved to."""
    fetcher: Fetcher
    resolver: Resolver
    """Knows the tags beside it."""
    credentials: Credentials | None


class _Listed(NamedTuple):
    """What is kept of one thing that a document lists. The document itself is not: what it lists
    comes however slowly."""

    content: Descriptor
    signature: str = ""
    """Its annotation."""


class Attached(Generic[T]):
    """Signatures of one image, fetched one after the other, each looked at by `check` where it is
    decoded: in a thread, within the budget of memory."""

    def __init__(
        self,
        candidate: Candidate,
        documents: StoredDocuments,
        spools: Spools,
        check: Callable[[Signature], T],
    ) -> None:
        self._candidate = candidate
        self._image = candidate.target.digest
        self._documents = documents
        self._spools = spools
        self._check = check
        self._limits = documents.limits
        self.unfit: list[str] = []
        """Why others than those that were checked were none of this image."""

    async def checked(self) -> AsyncGenerator[T, None]:
        """What `check` makes of those that speak of the image, whoever signed them.

        Raises:
            RegistryError: whether there are any could not be found out.
        """
        async for each in self._simple():
            yield each
        async for each in self._bundled():
            yield each

    async def _simple(self) -> AsyncIterator[T]:
        tag = signatures_tag(self._image)
        payloads = await self._tagged(tag, self._payloads) if tag is not None else None
        for payload in payloads or ():
            decode = partial(simple, annotation=payload.signature, image=self._image)
            try:
                yield await self._checked(payload.content, decode)
            except (CorruptContentError, LimitExceededError) as error:
                self._is_unfit(error)

    async def _bundled(self) -> AsyncIterator[T]:
        check, seen = partial(bundled, image=self._image), 0
        async with aclosing(self._referrers()) as bundles:
            async for bundle in bundles:
                seen += 1
                if seen > self._limits.signatures:
                    return
                try:
                    for layer in await self._layers(bundle.content):
                        yield await self._checked(layer.content, check)
                except (CorruptContentError, LimitExceededError) as error:
                    self._is_unfit(error)

    def _is_unfit(self, error: Exception) -> None:
        self.unfit.append(str(error))

    async def _checked(self, wanted: Descriptor, decode: Callable[[bytes], Signature]) -> T:
        return await self._documents.answered(
            await self._read(wanted), lambda data: self._check(decode(data))
        )

    def _payloads(self, document: Index | Manifest) -> list[_Listed] | None:
        if not isinstance(document, Manifest):
            return None
        found = [each for each in document.blobs if each.media_type == SIMPLE_SIGNING]
        return [_payload(each) for each in found[: self._limits.signatures]]

    def _bundles(self, document: Index | Manifest) -> list[_Listed] | None:
        if not isinstance(document, Index):
            return None
        bundles = [each for each in document.manifests if each.artifact_type in BUNDLES]
        kept = []
        for each in bundles[: self._limits.signatures]:
            try:
                kept.append(_Listed(_alone(each.descriptor())))
            except ImagedError as error:
                self._is_unfit(error)
        return kept

    async def _layers(self, bundle: Descriptor) -> list[_Listed]:
        def first(document: Index | Manifest) -> list[_Listed]:
            listed = document.blobs if isinstance(document, Manifest) else ()
            return [_Listed(_alone(layer)) for layer in listed[:1]]

        document = await self._read(bundle)
        return await self._parsed(document, bundle.media_type, first) or []

    async def _referrers(self) -> AsyncGenerator[_Listed, None]:
        """Bundles, as the registry lists them, or under the tag that stands for such a list."""
        is_listed = False
        async with aclosing(self._candidate.fetcher.referrers(self._image)) as pages:
            async for page in pages:
                found = await self._parsed(page, media_types.OCI_INDEX, self._bundles)
                is_listed |= found is not None
                for each in found or ():
                    yield each
        if not is_listed:
            tag = f"{self._image.algorithm}-{self._image.hex[:_FALLBACK_CHARACTERS]}"
            for each in await self._tagged(tag, self._bundles) or ():
                yield each

    async def _tagged(
        self, tag: str, keep: Callable[[Index | Manifest], list[_Listed] | None]
    ) -> list[_Listed] | None:
        """What is to be kept of what a tag of the image's repository stands for, if there is such a
        tag."""
        name = self._candidate.reference
        try:
            resolved = await self._candidate.resolver.resolve(
                Reference(name.registry, name.repository, tag), self._candidate.credentials
            )
        except RegistryError as error:
            if error.category is Category.NOT_FOUND:
                return None
            raise
        except (CorruptContentError, LimitExceededError) as error:
            self._is_unfit(error)
            return None
        assert resolved.document is not None  # as none was known
        return await self._parsed(resolved.document, resolved.descriptor.media_type, keep)

    async def _parsed(
        self,
        document: BinaryIO,
        media_type: str,
        keep: Callable[[Index | Manifest], list[_Listed] | None],
    ) -> list[_Listed] | None:
        try:
            return await self._documents.answered(
                document, lambda data: keep(parse_document(data, media_type, self._limits))
            )
        except (CorruptContentError, LimitExceededError) as error:
            self._is_unfit(error)
            return None

    async def _read(self, wanted: Descriptor) -> BinaryIO:
        """Something small, verified, to be closed. Where the registry has lost it, it is none of
        ours to wait for."""
        limit = self._limits.signature_bytes
        if wanted.size > limit:
            raise LimitExceededError(
                f"{wanted.digest} has {wanted.size} bytes, limit {limit} (signature_bytes)"
            )
        document = self._spools.new()
        try:
            await self._fetch(wanted, document)
        except BaseException as error:
            await spool.close(document)
            if isinstance(error, RegistryError) and error.category is Category.NOT_FOUND:
                raise CorruptContentError(str(error)) from None
            raise
        return document

    async def _fetch(self, wanted: Descriptor, into: BinaryIO) -> None:
        hasher = wanted.digest.hasher()

        async def hashed(stream: ByteStream) -> AsyncIterator[bytes]:
            async for chunk in stream:
                hasher.update(chunk)
                yield chunk

        async with self._candidate.fetcher.fetch(wanted) as stream:
            await spool.save(hashed(stream), into)
            if not wanted.digest.matches(hasher):
                stream.discredit()
                raise CorruptContentError(f"{wanted.digest}: the registry sent other bytes")


def _payload(listed: Descriptor) -> _Listed:
    signature = listed.annotations.get(SIGNATURE, "")
    return _Listed(_alone(listed), signature if len(signature) <= _SIGNATURE_CHARACTERS else "")


def _alone(listed: Descriptor) -> Descriptor:
    """Without what else a stranger says of it."""
    return Descriptor(listed.media_type, listed.digest, listed.size)
