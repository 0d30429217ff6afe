"""The tags of a repository (distribution spec 1.1, "Listing Tags")."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
from yarl import URL

from cri_imaged.errors import LimitExceededError
from cri_imaged.limits import TAG_PAGE_BYTES, TAG_PAGES, TAGS
from cri_imaged.oci import lenient_json
from cri_imaged.oci.reference import is_tag
from cri_imaged.registry.auth.access import Access
from cri_imaged.registry.failures import HostFailure, Kind
from cri_imaged.registry.hosts.host import Host
from cri_imaged.registry.session import Session
from cri_imaged.registry.tries import Tries

_THING = "tags/list"
_PAGE = 1000
_NEXT = re.compile(r'<([^<>]*)>\s*;\s*rel="?next"?', re.ASCII)


class _Page(msgspec.Struct):
    """Null stands for absence, as every client in Go has it."""

    tags: list[str] | None = None


class TagList:
    """One repository's. A host is asked for all of it; another one begins anew."""

    def __init__(self, session: Session, access: Access, hosts: Sequence[Host]) -> None:
        self._session = session
        self._access = access
        self._hosts = hosts

    async def read(self) -> list[str]:
        """The tags, each once, in the host's order.

        Raises:
            RegistryError, CorruptContentError: see `Tries.run`.
            LimitExceededError: they are more than `TAGS`.
        """
        what = f"cannot list the tags of {self._access.registry}/{self._access.repository}"
        tries = Tries(self._hosts, what, self._session.policy, self._session.health)
        return await tries.run(self._ask, lambda host: host.url(self._access.path(host, _THING)))

    async def _ask(self, host: Host) -> list[str]:
        tags: dict[str, None] = {}
        query = f"n={_PAGE}"
        for _ in range(TAG_PAGES):
            page, query = await self._page(host, query)
            known = len(tags)
            tags.update(dict.fromkeys(page))
            if len(tags) > TAGS:
                break
            if not query or len(tags) == known:  # or it would go round
                return list(tags)
        raise LimitExceededError(
            f"{self._access.registry}/{self._access.repository} has more tags than are listed: "
            f"limit {TAGS}, in {TAG_PAGES} answers"
        )

    async def _page(self, host: Host, query: str) -> tuple[list[str], str]:
        """Some tags, and the query for those after them; none where that is all."""
        response = await self._session.authorizer.get(
            host, f"{_THING}?{query}", self._access, {"Accept": "application/json"}
        )
        try:
            response.limit_silence(self._session.patience.stall_timeout)
            document = await response.read_all(TAG_PAGE_BYTES)
        finally:
            response.close()
        if document is None:
            raise HostFailure(Kind.TOO_LARGE, f"a list of more than {TAG_PAGE_BYTES} bytes")
        return tags_of(document), next_query(response.headers.get("Link", ""))


def tags_of(document: bytes) -> list[str]:
    """The tags that an answer lists (pure).

    Raises:
        HostFailure: it is no such list, or one of them is no tag.
    """
    try:
        tags = lenient_json.decode(document, _Page).tags or []
    except ValueError:
        raise HostFailure(Kind.CORRUPT, "answers with something that is no list of tags") from None
    if not all(map(is_tag, tags)):
        raise HostFailure(Kind.CORRUPT, "lists what is no tag")
    return tags


def next_query(link: str) -> str:
    """The query of the URL that a `Link` header (RFC 8288) calls the next; none where there is none
    (pure). Only the query counts: the page is asked of the same host."""
    found = _NEXT.search(link)
    if found is None:
        return ""
    try:
        return URL(found[1], encoded=True).raw_query_string
    except ValueError:
        return ""
