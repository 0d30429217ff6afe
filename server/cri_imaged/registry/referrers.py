"""What refers to a manifest: signatures, say (distribution spec 1.1, "Listing Referrers")."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import BinaryIO

import msgspec

from cri_imaged.disk import on_disk
from cri_imaged.errors import Category, LimitExceededError, RegistryError
from cri_imaged.limits import KIB, REFERRER_PAGES
from cri_imaged.oci import lenient_json, media_types
from cri_imaged.oci.digest import Digest
from cri_imaged.registry.auth.access import Access
from cri_imaged.registry.failures import HostFailure, Kind
from cri_imaged.registry.hosts.host import Host
from cri_imaged.registry.paging import next_query
from cri_imaged.registry.session import Session
from cri_imaged.registry.tries import Tries
from cri_imaged.shielding import to_the_end

_HEADERS = {"Accept": media_types.OCI_INDEX}
_EMPTY_BYTES = 4 * KIB
"""No list of nothing is longer."""


class _Listed(msgspec.Struct):
    manifests: list[msgspec.Raw] | None = None


class Referrers:
    """Asks each host in turn, until one lists some: a mirror may know of none."""

    def __init__(
        self, session: Session, access: Access, hosts: Sequence[Host], subject: Digest, limit: int
    ) -> None:
        """`limit` is the most bytes that a page may have."""
        self._session = session
        self._access = access
        self._hosts = hosts
        self._subject = subject
        self._thing = f"referrers/{subject}"
        self._limit = limit

    async def pages(self) -> AsyncGenerator[BinaryIO, None]:
        """Indexes of the referrers, each to be closed; none where no host lists any.

        Raises:
            RegistryError, LimitExceededError: see `Tries.run`.
        """
        hosts, query, asked = self._hosts, "", set[str]()
        while query not in asked:  # or it would go round
            if len(asked) >= REFERRER_PAGES:
                raise LimitExceededError(
                    f"{self._access.registry}/{self._access.repository}: what refers to "
                    f"{self._subject} is listed in more than {REFERRER_PAGES} answers"
                )
            asked.add(query)
            try:
                host, document, query = await self._page(hosts, query)
            except RegistryError as error:
                if error.category is Category.NOT_FOUND:
                    return
                raise
            yield document
            if not query:
                return
            hosts = (host,)  # nobody else knows what its query means

    async def _page(self, hosts: Sequence[Host], query: str) -> tuple[Host, BinaryIO, str]:
        """Who answered, what, and the query for what follows."""
        what = f"cannot list what refers to {self._subject}"
        tries = Tries(hosts, what, self._session.policy, self._session.health)

        async def ask(host: Host) -> tuple[Host, BinaryIO, str]:
            return host, *await self._ask(host, query)

        return await tries.run(ask, lambda host: host.url(self._access.path(host, self._thing)))

    async def _ask(self, host: Host, query: str) -> tuple[BinaryIO, str]:
        thing = f"{self._thing}?{query}" if query else self._thing
        try:
            response = await self._session.authorizer.get(host, thing, self._access, _HEADERS)
        except HostFailure as failure:
            if failure.kind is Kind.REFUSED and failure.status is not None:
                # Whoever has no such endpoint says so in many ways.
                raise HostFailure(
                    Kind.NOT_FOUND, failure.outcome, status=failure.status, codes=failure.codes
                ) from None
            raise
        document = self._session.spools.new()
        try:
            response.limit_silence(self._session.patience.stall_timeout)
            if not await response.save(document, self._limit):
                raise HostFailure(Kind.TOO_LARGE, f"a list of more than {self._limit} bytes")
            if not response.headers.get("Content-Type", "").startswith(media_types.OCI_INDEX):
                raise HostFailure(Kind.NOT_FOUND, "answers with something else than an index")
            following = next_query(response.headers.get("Link", ""))
            if not query and not following and await on_disk(lambda: _is_empty(document)):
                raise HostFailure(Kind.NOT_FOUND, "lists none")
        except BaseException:
            await to_the_end(on_disk(document.close))
            raise
        finally:
            response.close()
        return document, following


def _is_empty(document: BinaryIO) -> bool:
    """Whether it is a list of nothing. One that is malformed is not: it is told as such."""
    document.seek(0)
    head = document.read(_EMPTY_BYTES)
    if len(head) == _EMPTY_BYTES:
        return False
    try:
        return not lenient_json.decode(head, _Listed).manifests
    except ValueError:
        return False
