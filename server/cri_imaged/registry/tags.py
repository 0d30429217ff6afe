"""The tags of a repository (distribution spec 1.1, "Listing Tags")."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cri_imaged import spool
from cri_imaged.disk import on_disk
from cri_imaged.errors import LimitExceededError
from cri_imaged.limits import TAG_PAGE_BYTES, TAG_PAGES, TAGS
from cri_imaged.oci import lenient_json
from cri_imaged.oci.reference import is_tag
from cri_imaged.registry.auth.access import Access
from cri_imaged.registry.failures import HostFailure, Kind
from cri_imaged.registry.hosts.host import Host
from cri_imaged.registry.paging import next_query
from cri_imaged.registry.session import Session
from cri_imaged.registry.tries import Tries
from cri_imaged.shielding import to_the_end

_THING = "tags/list"
_PAGE = 1000
_COPIES = 8
"""Of a list that are held at once, at most, while it is read."""
_TAG_BYTES = 64
"""Of one tag's object, besides its text."""


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
        spools = self._session.spools
        document = spools.new()
        try:
            try:
                response.limit_silence(self._session.patience.stall_timeout)
                is_whole = await response.save(document, TAG_PAGE_BYTES)
            finally:
                response.close()
            if not is_whole:
                raise HostFailure(Kind.TOO_LARGE, f"a list of more than {TAG_PAGE_BYTES} bytes")
            memory = _COPIES * spool.size_of(document) + _TAG_BYTES * TAGS
            async with spools.memory.holding(memory, "list of tags"):
                told = await to_the_end(on_disk(lambda: _told(spool.read(document))))
        finally:
            await spool.close(document)
        if isinstance(told, HostFailure):
            raise told
        return told, next_query(response.headers.get("Link", ""))


def _told(document: bytes) -> list[str] | HostFailure:
    """The tags, or what is wrong, without the frames that have the document."""
    try:
        return tags_of(document)
    except HostFailure as failure:
        return HostFailure(failure.kind, failure.outcome)


def tags_of(document: bytes) -> list[str]:
    """The tags that an answer lists (pure).

    Raises:
        HostFailure: it is no such list, or too long a one, or one of them is no tag.
    """
    if document.count(b",") > TAGS:
        raise HostFailure(Kind.TOO_LARGE, f"a list of more than {TAGS} tags")
    try:
        tags = lenient_json.decode(document, _Page).tags or []
    except ValueError:
        raise HostFailure(Kind.CORRUPT, "answers with something that is no list of tags") from None
    if not all(map(is_tag, tags)):
        raise HostFailure(Kind.CORRUPT, "lists what is no tag")
    return tags
