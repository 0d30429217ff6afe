"""Asks registry hosts what a reference stands for.

The manifest is fetched with GET at once: one round trip, and its hash decides what it is, whatever
`Docker-Content-Digest` says or does not say. HEAD is not needed.
"""

from __future__ import annotations

import time

import msgspec
import structlog

from cri_imaged.errors import ConfigError
from cri_imaged.limits import Limits
from cri_imaged.oci import media_types
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.reference import Reference
from cri_imaged.ports import Credentials, Resolved
from cri_imaged.registry.auth import Access
from cri_imaged.registry.credentials import Keyring
from cri_imaged.registry.failures import HostFailure, Kind
from cri_imaged.registry.fetcher import Machinery, RegistryFetcher
from cri_imaged.registry.hosts import Capability, Host, capable
from cri_imaged.registry.hosts_dir import HostsDirectory
from cri_imaged.registry.patience import Watch
from cri_imaged.registry.tries import Tries

_log = structlog.get_logger(__name__)
_ACCEPT = ", ".join(
    (
        media_types.OCI_INDEX,
        media_types.DOCKER_INDEX,
        media_types.OCI_MANIFEST,
        media_types.DOCKER_MANIFEST,
        "*/*",
    )
)


class _Envelope(msgspec.Struct, rename="camel"):
    media_type: str = ""
    schema_version: int = 0
    manifests: msgspec.Raw = msgspec.Raw()
    config: msgspec.Raw = msgspec.Raw()


class RegistryResolver:
    """Resolves references at the hosts that are configured for them."""

    def __init__(
        self, machinery: Machinery, directory: HostsDirectory, keyring: Keyring, limits: Limits
    ) -> None:
        self._machinery = machinery
        self._directory = directory
        self._keyring = keyring
        self._limits = limits

    async def resolve(self, reference: Reference, credentials: Credentials | None) -> Resolved:
        """See `ports.Resolver.resolve`."""
        reference = reference.canonical()
        access = Access(
            reference.registry, reference.repository, self._keyring.for_request(credentials)
        )
        hosts = self._directory.hosts(reference.registry)
        pullers = capable(hosts, Capability.PULL)
        resolvers = pullers
        if reference.digest is None:
            resolvers = capable(hosts, Capability.PULL | Capability.RESOLVE)
        if not resolvers:
            raise ConfigError(
                f"hosts.toml leaves no host of {reference.registry} that may resolve {reference}"
            )
        path = f"{reference.repository}/manifests/{reference.digest or reference.tag}"
        tries = Tries(
            resolvers,
            f"cannot resolve {reference}",
            self._machinery.policy,
            self._machinery.health,
        )
        watch = Watch(self._machinery.patience)

        async def ask(host: Host) -> tuple[Descriptor, bytes]:
            return await self._document(host, path, access, reference.digest, watch)

        descriptor, document = await tries.run(ask, lambda host: host.url(path))
        fetcher = RegistryFetcher(self._machinery, pullers, access)
        return Resolved(descriptor, document, fetcher)

    async def _document(
        self, host: Host, path: str, access: Access, digest: Digest | None, watch: Watch
    ) -> tuple[Descriptor, bytes]:
        asked = time.monotonic()
        try:
            response = await self._machinery.authorizer.get(host, path, access, {"Accept": _ACCEPT})
            try:
                response.limit_silence(watch.limit)
                document = await response.read_all(self._limits.manifest_bytes)
            finally:
                response.close()
        except HostFailure as failure:
            raise watch.fail(failure, time.monotonic() - asked) from None
        if document is None:
            raise HostFailure(
                Kind.TOO_LARGE, f"a manifest of more than {self._limits.manifest_bytes} bytes"
            )
        found = Digest.of(document, digest.algorithm if digest else "sha256")
        if digest is not None and found != digest:
            _log.warning("registry.wrong_bytes", digest=digest, hosts=[host.authority])
            raise HostFailure(Kind.CORRUPT, f"delivers a manifest with digest {found}")
        media_type = document_type(response.headers.get("Content-Type", ""), document)
        return Descriptor(media_type, found, len(document)), document


def document_type(content_type: str, document: bytes) -> str:
    """The media type of a manifest or index: what the response announced, or, where that says
    nothing about documents, what the document says of itself (pure).

    Raises:
        HostFailure: not a JSON object (a login page, say).
    """
    announced = content_type.partition(";")[0].strip().lower()
    try:
        envelope = msgspec.json.decode(document, type=_Envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise HostFailure(
            Kind.CORRUPT, f"answers with {announced[:100] or 'something'} that is no manifest"
        ) from None
    if announced in media_types.DOCUMENTS:
        return announced
    if envelope.media_type:
        return envelope.media_type
    if envelope.schema_version == 2 and envelope.manifests:
        return media_types.OCI_INDEX
    if envelope.schema_version == 2 and envelope.config:
        return media_types.OCI_MANIFEST
    if envelope.schema_version == 1:
        return media_types.DOCKER_MANIFEST_V1
    return announced
