"""Fetches the manifests and blobs of one resolved reference."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import BinaryIO

from cri_imaged.errors import CorruptContentError
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Account, ByteStream
from cri_imaged.registry.auth.access import Access
from cri_imaged.registry.blob import BlobRequest, Discredited
from cri_imaged.registry.concurrent import concurrent_stream
from cri_imaged.registry.failures import HostFailure
from cri_imaged.registry.hosts.host import Host
from cri_imaged.registry.referrers import Referrers
from cri_imaged.registry.session import Session
from cri_imaged.registry.stream import ContentStream


class RegistryFetcher:
    """Implements `ports.Fetcher` over the hosts that may serve one reference."""

    def __init__(
        self, session: Session, hosts: Sequence[Host], access: Access, document_limit: int
    ) -> None:
        """`document_limit` is the most bytes that a list of referrers may have."""
        self._session = session
        self._document_limit = document_limit
        self._hosts = hosts
        self._access = access
        self._discredited = Discredited(session.health)
        self._accounts: dict[Digest, Account] = {}

    def account(self, digest: Digest) -> Account:
        """See `ports.Fetcher.account`."""
        return self._accounts.setdefault(digest, Account())

    def _request(self, descriptor: Descriptor) -> BlobRequest:
        account = self.account(descriptor.digest)
        return BlobRequest(
            self._session, self._access, self._hosts, descriptor, self._discredited, account
        )

    async def has(self, descriptor: Descriptor) -> bool:
        """See `ports.Fetcher.has`."""
        request = self._request(descriptor)
        for host in self._hosts:
            with suppress(HostFailure):
                if await request.exists(host):
                    return True
        return False

    def referrers(self, subject: Digest) -> AsyncGenerator[BinaryIO, None]:
        """See `ports.Fetcher.referrers`."""
        return Referrers(
            self._session, self._access, self._hosts, subject, self._document_limit
        ).pages()

    async def size(self, digest: Digest) -> int:
        """See `ports.Fetcher.size`."""
        request = self._request(Descriptor("", digest, 0))
        return await request.tries().run(request.size, request.url)

    @asynccontextmanager
    async def fetch(self, descriptor: Descriptor, offset: int = 0) -> AsyncIterator[ByteStream]:
        """See `ports.Fetcher.fetch`."""
        request = self._request(descriptor)
        if not request.hosts:
            raise CorruptContentError(f"{request.what}: every host delivered something else")
        chunks = self._session.chunks
        if 0 < chunks.size < descriptor.size - offset and chunks.requests > 1:
            patience, spools = self._session.patience, self._session.spools
            async with concurrent_stream(request, offset, patience, chunks, spools) as both:
                yield both
            return
        stream = ContentStream(request, offset, self._session.patience)
        try:
            await stream.open()
            yield stream
        finally:
            stream.close()
