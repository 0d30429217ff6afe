"""Fetches the manifests and blobs of one resolved reference."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from yarl import URL

from cri_imaged.errors import CorruptContentError
from cri_imaged.oci import media_types
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.ports import ByteStream
from cri_imaged.registry.addresses import resolves_privately
from cri_imaged.registry.auth import Access, Authorizer
from cri_imaged.registry.concurrent import Chunks, Part, concurrent_stream
from cri_imaged.registry.failures import HostFailure, Kind
from cri_imaged.registry.hosts import Host, split_port
from cri_imaged.registry.patience import Patience
from cri_imaged.registry.retry import RetryPolicy
from cri_imaged.registry.stream import ContentStream
from cri_imaged.registry.transport import Request, Response, Transport, is_http
from cri_imaged.registry.tries import HostHealth, Tries

_log = structlog.get_logger(__name__)
_FOREIGN_URLS = 5


@dataclass(frozen=True, slots=True)
class Machinery:
    """What every request of a client shares."""

    transport: Transport
    authorizer: Authorizer
    health: HostHealth
    policy: RetryPolicy
    patience: Patience
    chunks: Chunks


class RegistryFetcher:
    """Implements `ports.Fetcher` over the hosts that may serve one reference."""

    def __init__(self, machinery: Machinery, hosts: Sequence[Host], access: Access) -> None:
        self._machinery = machinery
        self._hosts = hosts
        self._access = access
        self._discredited: set[Host] = set()

    @asynccontextmanager
    async def fetch(self, descriptor: Descriptor, offset: int = 0) -> AsyncIterator[ByteStream]:
        """See `ports.Fetcher.fetch`."""
        part = self._parts(descriptor)
        chunk = self._machinery.chunks.size
        if 0 < chunk < descriptor.size - offset and self._machinery.chunks.requests > 1:
            async with concurrent_stream(
                part, offset, descriptor.size, self._machinery.chunks
            ) as both:
                yield both
            return
        stream = part(offset, None)
        try:
            await stream.open()
            yield stream
        finally:
            stream.close()

    def _parts(self, descriptor: Descriptor) -> Part:
        """What makes a stream of the content, from an offset up to an end or to its own."""
        foreign = _foreign(descriptor)
        hosts = [host for host in (*foreign, *self._hosts) if host not in self._discredited]
        what = f"cannot fetch {descriptor.digest} of {self._access.registry}/" + (
            self._access.repository
        )
        if not hosts:
            raise CorruptContentError(f"{what}: every host delivered something else")
        kind = "manifests" if descriptor.media_type in media_types.DOCUMENTS else "blobs"
        path = f"{self._access.repository}/{kind}/{descriptor.digest}"
        accept = {"Accept": f"{descriptor.media_type}, */*"} if kind == "manifests" else {}

        async def open_at(host: Host, start: int, end: int | None) -> Response:
            headers = dict(accept)
            if start or end is not None:
                headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
            if host in foreign:
                return await self._get_foreign(host, foreign[host], headers)
            return await self._machinery.authorizer.get(host, path, self._access, headers)

        def shown(host: Host) -> str:
            url = foreign.get(host)
            return str(url.with_query(None)) if url else host.url(path)

        def part(start: int, end: int | None) -> ContentStream:
            return ContentStream(
                descriptor,
                start,
                tries=Tries(hosts, what, self._machinery.policy, self._machinery.health),
                open_at=open_at,
                url=shown,
                patience=self._machinery.patience,
                on_discredit=self._discredit,
                end=end,
            )

        return part

    async def _get_foreign(self, host: Host, url: URL, headers: dict[str, str]) -> Response:
        """A foreign layer's own URL: without credentials, and under the rules of token realms."""
        registry = self._hosts[-1]
        if url.scheme == "http" and self._machinery.transport.scheme(registry) != "http":
            raise HostFailure(Kind.REFUSED, "plain http, but the registry is https")
        public_only = not await resolves_privately(split_port(registry.authority)[0])
        response = await self._machinery.transport.send(
            Request(url, host, headers=headers, public_only=public_only)
        )
        if response.status in (200, 206):
            return response
        response.close()
        raise HostFailure(Kind.REFUSED, response.status_line, status=response.status)

    def _discredit(self, descriptor: Descriptor, hosts: Sequence[Host]) -> None:
        new = [host for host in hosts if host not in self._discredited]
        self._discredited.update(new)
        for host in new:
            self._machinery.health.failed(host)
        if new:
            _log.warning(
                "registry.wrong_bytes",
                digest=descriptor.digest,
                hosts=[host.authority for host in new],
            )


def _foreign(descriptor: Descriptor) -> dict[Host, URL]:
    """The places outside of the registry that a foreign layer may be fetched from."""
    found: dict[Host, URL] = {}
    if descriptor.media_type in media_types.FOREIGN_LAYERS:
        for text in descriptor.urls[:_FOREIGN_URLS]:
            try:
                url = URL(text, encoded=True).with_user(None)
                usable = is_http(url)
            except ValueError:
                continue
            if usable:
                host = Host(url.scheme, f"{url.host_subcomponent}:{url.port}", url.raw_path)
                found.setdefault(host, url)
    return found
