"""What a reference stands for, asked of one host.

What is new is fetched with GET at once: one round trip, and its hash decides what it is, whatever
`Docker-Content-Digest` says or does not say. Of what is here already each host is first asked with
HEAD, once: Docker Hub counts GETs against a node's pull rate limit, and an answer that names the
known digest says all that a GET would, also whether these credentials may read it. Any other
answer leads to the GET. Of a signed Docker schema 1 manifest the payload is what is kept: its
digest is the manifest's.

A mirror that lies in a HEAD keeps a tag where it was, which it can do as well with an old document
in answer to a GET: who may resolve tags is trusted with that.
"""

from __future__ import annotations

from typing import BinaryIO, NamedTuple

import structlog
from multidict import CIMultiDictProxy

from cri_imaged import spool
from cri_imaged.disk import on_disk
from cri_imaged.limits import Limits
from cri_imaged.oci import media_types, reading, schema1
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.reference import Reference
from cri_imaged.registry.auth.access import Access
from cri_imaged.registry.documents import check_document, document_type
from cri_imaged.registry.failures import HostFailure, Kind
from cri_imaged.registry.hosts.host import Host
from cri_imaged.registry.session import Session
from cri_imaged.shielding import to_the_end

log = structlog.get_logger()
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


class Inquiry:
    """One reference's, as it is put to each host."""

    def __init__(
        self,
        session: Session,
        reference: Reference,
        access: Access,
        known: Descriptor | None,
        limits: Limits,
    ) -> None:
        self._authorizer = session.authorizer
        self._silence = session.patience.stall_timeout
        self._spools = session.spools
        self._thing = f"manifests/{reference.digest or reference.tag}"
        self._access = access
        self._digest = reference.digest
        self._known = known
        self._limits = limits
        self._asked: set[Host] = set()
        """With HEAD. Some hosts never answer it."""

    def url(self, host: Host) -> str:
        """Where it is put to `host`, for reports."""
        return host.url(self._access.path(host, self._thing))

    async def ask(self, host: Host) -> tuple[Descriptor, BinaryIO | None]:
        """What `host` has, and its document; None where that is known. Raises `HostFailure`."""
        if self._known is not None and host not in self._asked:
            self._asked.add(host)
            if await self._still_has(host, self._known):
                return self._known, None
        document = self._spools.new()
        try:
            content_type = await self._get(host, document)
            return await self._described(host, document, content_type), document
        except BaseException:
            await to_the_end(on_disk(document.close))
            raise

    async def _described(self, host: Host, document: BinaryIO, content_type: str) -> Descriptor:
        """What the document is. It is looked at in a thread, as it may be large."""
        algorithm = self._digest.algorithm if self._digest else "sha256"
        limits = self._limits
        memory = reading.manifest_memory(spool.size_of(document), limits)
        async with self._spools.memory.holding(memory, "manifest"):
            described = await to_the_end(
                on_disk(lambda: _described(document, content_type, algorithm, limits))
            )
        if self._digest is not None and described.digest != self._digest:
            log.warning("registry sent wrong bytes", digest=self._digest, hosts=[host.authority])
            raise HostFailure(Kind.CORRUPT, f"delivers a manifest with digest {described.digest}")
        if described.problem is not None:
            raise described.problem
        return Descriptor(described.media_type, described.digest, described.size)

    async def _still_has(self, host: Host, wanted: Descriptor) -> bool:
        headers = await self._authorizer.head(host, self._thing, self._access, _HEADERS)
        return headers is not None and names(headers, wanted)

    async def _get(self, host: Host, document: BinaryIO) -> str:
        """Save the document; tells its `Content-Type`."""
        limit = self._limits.manifest_bytes
        response = await self._authorizer.get(host, self._thing, self._access, _HEADERS)
        try:
            response.limit_silence(self._silence)
            is_whole = await response.save(document, limit)
        finally:
            response.close()
        if not is_whole:
            raise HostFailure(Kind.TOO_LARGE, f"a manifest of more than {limit} bytes")
        return response.headers.get("Content-Type", "")


class _Described(NamedTuple):
    """A document, without it."""

    digest: Digest
    size: int
    media_type: str
    problem: HostFailure | None


def _described(answer: BinaryIO, content_type: str, algorithm: str, limits: Limits) -> _Described:
    """Look at an answer, which becomes the document that it holds."""
    sent = spool.read(answer)
    document = schema1.payload(sent)
    if document is not sent:
        spool.write_anew(answer, document)
    digest = Digest.of(document, algorithm)
    try:
        media_type = document_type(content_type, document)
        check_document(document, media_type, limits)
    except HostFailure as failure:
        # Without the frames that have the document.
        return _Described(digest, len(document), "", HostFailure(failure.kind, failure.outcome))
    return _Described(digest, len(document), media_type, None)


def names(headers: CIMultiDictProxy[str], wanted: Descriptor) -> bool:
    """Whether a HEAD's answer says that `wanted` is what is there (pure)."""
    digests = set(headers.getall("Docker-Content-Digest", ()))
    lengths = set(headers.getall("Content-Length", ()))
    return digests == {wanted.digest} and lengths <= {str(wanted.size)}
