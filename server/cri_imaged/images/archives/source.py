"""An archive as the registry of a pull."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import BinaryIO

from cri_imaged.errors import CorruptContentError
from cri_imaged.images.archives.contents import Archive
from cri_imaged.images.transfers.fetch import Origin
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Account, Activity, ByteStream

REPOSITORY = "import"
"""Whence an import's blobs come, as their provenance says. No reference names it."""


class ArchiveFetcher:
    """A `Fetcher`. What it has is in the content store already, so nothing is ever to be sent."""

    def __init__(self, archive: Archive) -> None:
        self._digests = {file.digest for file in archive.files.values()}

    async def has(self, descriptor: Descriptor) -> bool:
        """Whether the archive holds it."""
        return descriptor.digest in self._digests

    async def size(self, digest: Digest) -> int:
        """Never: no archive has schema 1 manifests. Raises `CorruptContentError`."""
        raise CorruptContentError(f"archive: it does not say the size of blob {digest}")

    async def referrers(self, subject: Digest) -> AsyncGenerator[BinaryIO, None]:
        """None: nothing in an archive is looked for but what its images are made of."""
        return
        yield  # the form of a generator

    def account(self, digest: Digest) -> Account:
        """An empty one."""
        return Account()

    @asynccontextmanager
    async def fetch(self, descriptor: Descriptor, offset: int = 0) -> AsyncIterator[ByteStream]:
        """Never. Raises `CorruptContentError`: the archive lacks it."""
        raise CorruptContentError(
            f"archive: blob {descriptor.digest}, which an image in it needs, is not in it"
        )
        yield  # the form of a generator


def origin_of(archive: Archive, activity: Activity) -> Origin:
    """Where an import's blobs come from."""
    return Origin(ArchiveFetcher(archive), REPOSITORY, REPOSITORY, activity)
