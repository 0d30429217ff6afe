"""Indexes, manifests and configs of the content store: each is read and decoded within the budget
of memory, where it is used, and let go. Nobody keeps one while waiting for anything else."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import BinaryIO, TypeVar

from cri_imaged import spool
from cri_imaged.budget import MemoryBudget
from cri_imaged.disk import on_disk
from cri_imaged.errors import ImagedError
from cri_imaged.limits import Limits
from cri_imaged.oci import reading
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import ContentStore, Lease
from cri_imaged.shielding import to_the_end

T = TypeVar("T")


class StoredDocuments:
    """Decodes them. All of the daemon shares one."""

    def __init__(self, content: ContentStore, budget: MemoryBudget, limits: Limits) -> None:
        self._content = content
        self._budget = budget
        self.limits = limits

    async def put(self, descriptor: Descriptor, document: BinaryIO, lease: Lease) -> None:
        """Store a document that was verified, from its spool. Raises `NoSpaceError`."""
        async with self._budget.holding(descriptor.size, f"document {descriptor.digest}"):
            data = await spool.content(document)
            await self._content.put(descriptor.digest, data, lease)

    async def manifest(
        self, digest: Digest, decode: Callable[[bytes], T], size: int | None = None
    ) -> T:
        """What `decode` makes of a manifest or index, in a thread. It must keep nothing large.
        `size`: the blob's, where the caller has looked at it.

        Raises:
            NotFoundError, CorruptContentError: it is gone or damaged.
            LimitExceededError: it is too large, or takes more than all memory that there is.
        """
        limit = self.limits.manifest_bytes
        memory = reading.manifest_memory(await self._size(digest, limit, size), self.limits)
        return await self._decoded(digest, limit, memory, decode)

    async def answered(self, document: BinaryIO, decode: Callable[[bytes], T]) -> T:
        """As `manifest`, of one that is not in the store but in a file, which is closed."""

        def read() -> T | ImagedError:
            document.seek(0)
            return _tried(decode, document.read())

        try:
            size = document.seek(0, os.SEEK_END)
            memory = reading.manifest_memory(size, self.limits)
            async with self._budget.holding(memory, "manifest"):
                decoded = await to_the_end(on_disk(read))
        finally:
            await to_the_end(on_disk(document.close))
        return _result(decoded)

    async def config(
        self, digest: Digest, decode: Callable[[bytes], T], size: int | None = None
    ) -> T:
        """As `manifest`, of a config."""
        limit = self.limits.config_bytes
        memory = reading.config_memory(await self._size(digest, limit, size), self.limits)
        return await self._decoded(digest, limit, memory, decode)

    @asynccontextmanager
    async def opened_config(self, digest: Digest) -> AsyncIterator[bytes]:
        """A config's bytes, with memory for all that is made of it while the context lasts. Raises
        as `manifest`."""
        limit = self.limits.config_bytes
        memory = reading.config_memory(await self._size(digest, limit, None), self.limits)
        async with self._budget.holding(memory, f"document {digest}"):
            yield await to_the_end(self._content.read(digest, limit))

    async def _size(self, digest: Digest, limit: int, size: int | None) -> int:
        if size is not None:
            return min(size, limit)
        blob = await self._content.info(digest)
        return min(blob.size, limit) if blob is not None else limit

    async def _decoded(
        self, digest: Digest, limit: int, memory: int, decode: Callable[[bytes], T]
    ) -> T:
        """An error is no reason to keep the document, as an exception on its way up would."""
        async with self._budget.holding(memory, f"document {digest}"):
            found = await to_the_end(
                self._content.decoded(digest, limit, lambda data: _tried(decode, data))
            )
        return _result(found)


def _tried(decode: Callable[[bytes], T], data: bytes) -> T | ImagedError:
    try:
        return decode(data)
    except ImagedError as error:
        return error.alone()


def _result(decoded: T | ImagedError) -> T:
    if isinstance(decoded, ImagedError):
        raise decoded
    return decoded
