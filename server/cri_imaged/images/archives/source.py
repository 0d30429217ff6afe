"""An archive as the registry of a pull."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from io import BytesIO
from typing import BinaryIO

from cri_imaged.errors import Category, CorruptContentError, RegistryError
from cri_imaged.images.archives.contents import Archive
from cri_imaged.limits import Limits
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.reference import Reference
from cri_imaged.ports import (
    Account,
    Activity,
    ByteStream,
    ContentStore,
    Credentials,
    Resolved,
)

REPOSITORY = "import"
"""Whence an import's blobs come, as their provenance says. No reference names it."""


class _Whole:
    """A `ByteStream` of something small."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._data

    def discredit(self) -> None:
        """See `ByteStream`. Nobody else is to be asked."""


class ArchiveSource:
    """A `Fetcher`, and a `Resolver` of what is attached to images. What it has is in the content
    store already, so that nothing but signatures is ever to be sent."""

    def __init__(
        self,
        archive: Archive,
        attached: Mapping[str, Descriptor],
        content: ContentStore,
        limits: Limits,
    ) -> None:
        self._digests = {file.digest for file in archive.files.values()}
        self._attached = attached
        self._content = content
        self._limits = limits

    async def has(self, descriptor: Descriptor) -> bool:
        """Whether the archive holds it."""
        return descriptor.digest in self._digests

    async def size(self, digest: Digest) -> int:
        """Never: no archive has schema 1 manifests. Raises `CorruptContentError`."""
        raise CorruptContentError(f"archive: it does not say the size of blob {digest}")

    async def referrers(self, subject: Digest) -> AsyncGenerator[BinaryIO, None]:
        """None: they are listed under a tag."""
        return
        yield  # the form of a generator

    def account(self, digest: Digest) -> Account:
        """An empty one."""
        return Account()

    @asynccontextmanager
    async def fetch(self, descriptor: Descriptor, offset: int = 0) -> AsyncIterator[ByteStream]:
        """Something small, from its beginning. Raises `CorruptContentError` where it lacks it."""
        if descriptor.digest not in self._digests:
            raise CorruptContentError(
                f"archive: blob {descriptor.digest}, which an image in it needs, is not in it"
            )
        yield _Whole(await self._content.read(descriptor.digest, self._limits.signature_bytes))

    async def resolve(
        self,
        reference: Reference,
        credentials: Credentials | None,
        known: Descriptor | None = None,
        activity: Activity | None = None,
    ) -> Resolved:
        """What is attached by a tag, whatever the repository."""
        found = self._attached.get(reference.tag or "")
        if found is None or found.digest not in self._digests:
            raise RegistryError(Category.NOT_FOUND, f"archive: {reference} is not in it", ())
        document = await self._content.read(found.digest, self._limits.manifest_bytes)
        return Resolved(found, BytesIO(document), self, Account())
