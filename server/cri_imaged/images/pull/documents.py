"""The documents that one pull reads: from the content store where they are, else from where the
pull gets its blobs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import BinaryIO, TypeVar

from cri_imaged.errors import CorruptContentError, LimitExceededError, NotFoundError
from cri_imaged.images.leases import spending
from cri_imaged.images.stores import Stores
from cri_imaged.images.transfers.rights import Rights
from cri_imaged.images.transfers.transfers import Transfers
from cri_imaged.metadata import blobs
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Lease

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Documents:
    """Indexes, manifests and configs of one pull. All that is read is held by `lease`."""

    stores: Stores
    transfers: Transfers
    lease: Lease
    rights: Rights
    held: dict[Digest, int] = field(default_factory=dict)
    """Documents that are here and that the lease holds already, and their sizes."""

    async def resolved(self, descriptor: Descriptor, document: BinaryIO | None) -> None:
        """Keep what the registry answered to the reference. None: it is here and held."""
        if document is not None:
            await self.stores.documents.put(descriptor, document, self.lease)
        self.held[descriptor.digest] = descriptor.size
        self.rights.given(descriptor)

    async def made(self, descriptor: Descriptor, document: bytes) -> None:
        """Keep what was made of documents of this pull."""
        await self.stores.content.put(descriptor.digest, document, self.lease)
        self.rights.given(descriptor)

    async def manifest(self, wanted: Descriptor, decode: Callable[[bytes], T]) -> T:
        """What `decode` makes of a manifest or index; see `StoredDocuments.manifest`.

        Raises:
            CorruptContentError, LimitExceededError, RegistryError, NoSpaceError
        """
        stored = self.stores.documents
        limit = stored.limits.manifest_bytes
        return await self._read(
            wanted, limit, lambda: stored.manifest(wanted.digest, decode, wanted.size)
        )

    async def config(self, wanted: Descriptor, decode: Callable[[bytes], T]) -> T:
        """As `manifest`, of a config."""
        stored = self.stores.documents
        limit = stored.limits.config_bytes
        return await self._read(
            wanted, limit, lambda: stored.config(wanted.digest, decode, wanted.size)
        )

    async def _read(self, wanted: Descriptor, limit: int, decoded: Callable[[], Awaitable[T]]) -> T:
        if wanted.size > limit:
            raise LimitExceededError(
                f"document {wanted.digest} has {wanted.size} bytes, limit {limit}"
            )
        if self.held.get(wanted.digest) == wanted.size or await self._is_here(wanted):
            try:
                await self.rights.confirm(wanted)
                return await decoded()
            except (CorruptContentError, NotFoundError):
                if await self._is_here(wanted):
                    raise
        async with self.transfers.fetch(wanted, self.rights.origin) as fetch:
            await fetch.done
            if not fetch.is_ours:
                await self.rights.confirm(wanted)
            retired = fetch.retire()
            await spending(
                self.stores.database,
                [retired] if retired is not None else [],
                lambda db: blobs.hold(db, wanted.digest, self.lease),
            )
            fetch.made_known()
        return await decoded()

    async def _is_here(self, wanted: Descriptor) -> bool:
        held = await self.stores.content.hold(wanted.digest, self.lease)
        return held is not None and (held.state, held.size) == ("present", wanted.size)
