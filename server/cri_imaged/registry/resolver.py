"""Asks registry hosts what a reference stands for.

What is new is fetched with GET at once: one round trip, and its hash decides what it is, whatever
`Docker-Content-Digest` says or does not say. Of what is here already each host is first asked with
HEAD, once: Docker Hub counts GETs against a node's pull rate limit, and an answer that names the
known digest says all that a GET would, also whether these credentials may read it. Any other
answer leads to the GET.

A mirror that lies in a HEAD keeps a tag where it was, which it can do as well with an old document
in answer to a GET: who may resolve tags is trusted with that.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import structlog
from multidict import CIMultiDictProxy

from cri_imaged.errors import ConfigError
from cri_imaged.limits import Limits
from cri_imaged.oci import media_types
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.reference import Reference
from cri_imaged.ports import Credentials, Known, Resolved
from cri_imaged.registry.auth import Access
from cri_imaged.registry.credentials import Keyring
from cri_imaged.registry.failures import HostFailure, Kind
from cri_imaged.registry.fetcher import Machinery, RegistryFetcher
from cri_imaged.registry.hosts import Capability, Host, capable
from cri_imaged.registry.hosts_dir import HostsDirectory
from cri_imaged.registry.patience import Watch
from cri_imaged.registry.tries import Tries

_log = structlog.get_logger(__name__)
_HEADERS = {
    "Accept": ", ".join(
        (
            media_types.OCI_INDEX,
            media_types.DOCKER_INDEX,
            media_types.OCI_MANIFEST,
            media_types.DOCKER_MANIFEST,
            "*/*",
        )
    )
}


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

    async def resolve(
        self, reference: Reference, credentials: Credentials | None, known: Known | None = None
    ) -> Resolved:
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
        inquiry = _Inquiry(
            self._machinery, path, access, reference.digest, known, self._limits.manifest_bytes
        )
        descriptor, document = await tries.run(inquiry.ask, lambda host: host.url(path))
        fetcher = RegistryFetcher(self._machinery, pullers, access)
        return Resolved(descriptor, document, fetcher)


class _Inquiry:
    """One question, as it is put to each host."""

    def __init__(
        self,
        machinery: Machinery,
        path: str,
        access: Access,
        digest: Digest | None,
        known: Known | None,
        limit: int,
    ) -> None:
        self._authorizer = machinery.authorizer
        self._watch = Watch(machinery.patience)
        self._path = path
        self._access = access
        self._digest = digest
        self._known = known
        self._limit = limit
        self._asked: set[Host] = set()
        """With HEAD. Some hosts never answer it."""

    async def ask(self, host: Host) -> tuple[Descriptor, bytes]:
        """The document that `host` has, and what it is. Raises `HostFailure`."""
        if self._known is not None and host not in self._asked:
            self._asked.add(host)
            if await self._still_has(host, self._known.descriptor):
                return self._known.descriptor, self._known.document
        document, content_type = await self._get(host)
        found = Digest.of(document, self._digest.algorithm if self._digest else "sha256")
        if self._digest is not None and found != self._digest:
            _log.warning("registry.wrong_bytes", digest=self._digest, hosts=[host.authority])
            raise HostFailure(Kind.CORRUPT, f"delivers a manifest with digest {found}")
        return Descriptor(document_type(content_type, document), found, len(document)), document

    async def _still_has(self, host: Host, wanted: Descriptor) -> bool:
        with self._watched():
            headers = await self._authorizer.head(host, self._path, self._access, _HEADERS)
        return headers is not None and names(headers, wanted)

    async def _get(self, host: Host) -> tuple[bytes, str]:
        """The document and its `Content-Type`."""
        with self._watched():
            response = await self._authorizer.get(host, self._path, self._access, _HEADERS)
            try:
                response.limit_silence(self._watch.limit())
                document = await response.read_all(self._limit)
            finally:
                response.close()
        if document is None:
            raise HostFailure(Kind.TOO_LARGE, f"a manifest of more than {self._limit} bytes")
        return document, response.headers.get("Content-Type", "")

    @contextmanager
    def _watched(self) -> Iterator[None]:
        asked = time.monotonic()
        try:
            yield
        except HostFailure as failure:
            raise self._watch.fail(failure, time.monotonic() - asked) from None


def names(headers: CIMultiDictProxy[str], wanted: Descriptor) -> bool:
    """Whether a HEAD's answer says that `wanted` is what is there (pure)."""
    digests = set(headers.getall("Docker-Content-Digest", ()))
    lengths = set(headers.getall("Content-Length", ()))
    return digests == {wanted.digest} and lengths <= {str(wanted.size)}


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
