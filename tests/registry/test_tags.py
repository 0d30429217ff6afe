"""What registries tell people: their tags, and whether they take a login."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri_imaged.errors import (
    Category,
    CorruptContentError,
    InvalidRequestError,
    LimitExceededError,
    RegistryError,
)
from cri_imaged.limits import TAG_PAGE_BYTES, TAG_PAGES, TAGS
from cri_imaged.oci.reference import is_tag
from cri_imaged.ports import Credentials
from cri_imaged.registry.failures import HostFailure
from cri_imaged.registry.paging import next_query
from cri_imaged.registry.tags import tags_of
from tests.registry.helpers import client, reference
from tests.support.leaks import MARK
from tests.support.registry import TAGS as LIST
from tests.support.registry import BasicAuth, BearerAuth, Fault, FaultRegistry, status

USERS = {"ann": f"{MARK}-a"}
ANN = Credentials(username="ann", password=USERS["ann"])
EVE = Credentials(username="ann", password=f"{MARK}-wrong")


@pytest.mark.parametrize("a_page", [1, 2, 1000])
async def test_tags_come_page_by_page(a_page: int) -> None:
    async with FaultRegistry(auth=BearerAuth(USERS)) as registry, client() as opened:
        registry.tags_a_page = a_page
        names = ["1", "2", "latest"]
        for tag in names:
            registry.add_image("team/app", tag, layers=[])
        registry.add_image("team/other", "else", layers=[])
        assert await opened.tags(reference(registry, "team/app"), ANN) == names


async def test_a_repository_that_is_not_there() -> None:
    async with FaultRegistry() as registry, client() as opened:
        registry.faults.append(status(404, where=LIST))
        with pytest.raises(RegistryError) as caught:
            await opened.tags(reference(registry, "team/app"), None)
        assert caught.value.category is Category.NOT_FOUND


async def test_tags_without_end_are_refused() -> None:
    async with FaultRegistry() as registry, client() as opened:
        for number in range(TAGS + 1):
            registry.manifests["team/app", f"{number:06}"] = ("", b"")
        with pytest.raises(LimitExceededError, match="limit 10000"):
            await opened.tags(reference(registry, "team/app"), None)
        del registry.manifests["team/app", "000000"]
        assert len(await opened.tags(reference(registry, "team/app"), None)) == TAGS
        registry.tags_a_page = TAGS // TAG_PAGES - 1
        with pytest.raises(LimitExceededError, match="in 100 answers"):
            await opened.tags(reference(registry, "team/app"), None)


async def test_pages_that_go_round_end() -> None:
    async with FaultRegistry() as registry, client() as opened:
        registry.faults.append(
            Fault(
                where=LIST,
                status=200,
                headers={"Link": '</v2/team/app/tags/list?n=1>; rel="next"'},
                body=b'{"tags": ["a"]}',
            )
        )
        assert await opened.tags(reference(registry, "team/app"), None) == ["a"]
        assert len(registry.gets(LIST)) == 2


async def test_a_page_that_is_too_long_is_refused() -> None:
    async with FaultRegistry() as registry, client() as opened:
        body = b'{"tags": ["a"]}'.ljust(TAG_PAGE_BYTES)
        registry.faults.append(Fault(where=LIST, status=200, body=body))
        assert await opened.tags(reference(registry, "team/app"), None) == ["a"]
        registry.faults[0].body = body + b" "
        with pytest.raises(LimitExceededError, match="more than 1048576 bytes"):
            await opened.tags(reference(registry, "team/app"), None)
        registry.faults[0].body = json.dumps({"tags": ["a"] * (TAGS + 2)}).encode()
        with pytest.raises(LimitExceededError, match="more than 10000 tags"):
            await opened.tags(reference(registry, "team/app"), None)


async def test_what_is_no_list_of_tags_is_refused() -> None:
    async with FaultRegistry() as registry, client() as opened:
        registry.faults.append(Fault(where=LIST, status=200, body=b'{"tags": ["a/../b"]}'))
        with pytest.raises(CorruptContentError, match="what is no tag"):
            await opened.tags(reference(registry, "team/app"), None)


LISTS = st.dictionaries(st.just("tags"), st.none() | st.lists(st.text() | st.integers()))


@given(st.binary() | LISTS.map(lambda value: json.dumps(value).encode()))
def test_any_answer_is_tags_or_a_failure(document: bytes) -> None:
    with suppress(HostFailure):
        assert all(map(is_tag, tags_of(document)))


@given(st.text())
def test_any_link_is_a_query_or_none(link: str) -> None:
    assert isinstance(next_query(link), str)
    assert isinstance(next_query(f'<{link}>; rel="next"'), str)


@pytest.mark.parametrize(
    ("link", "query"),
    [
        ('</v2/a/tags/list?last=x&n=2>; rel="next"', "last=x&n=2"),
        ("<https://other.invalid/v2/a/tags/list?next_page=t%2Fb>; rel=next", "next_page=t%2Fb"),
        ('</a?b>; rel="prev", </c?d>; rel="next"', "d"),
        ('</a?b>; rel="prev"', ""),
        ("<http://[/?a>; rel=next", ""),
        ("", ""),
    ],
)
def test_the_next_page(link: str, query: str) -> None:
    assert next_query(link) == query


@pytest.mark.parametrize("auth", [BasicAuth(USERS), BearerAuth(USERS)], ids=["basic", "bearer"])
async def test_a_login_is_taken_or_refused(auth: BasicAuth | BearerAuth) -> None:
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        assert await opened.enter(registry.authority, ANN)
        with pytest.raises(RegistryError, match="cannot log in") as caught:
            await opened.enter(registry.authority, EVE)
        assert caught.value.category is Category.UNAUTHENTICATED
        assert "repository:" not in "".join(seen.path + str(seen.query) for seen in registry.seen)


@pytest.mark.parametrize("registry", ["127.0.0.1:65536", "xn--a.example", "[1:2]"])
async def test_a_login_to_a_host_that_there_cannot_be_is_refused(registry: str) -> None:
    async with client() as opened:
        with pytest.raises(InvalidRequestError, match="there can be no host") as caught:
            await opened.enter(registry, ANN)
    assert registry in str(caught.value)


async def test_a_registry_that_wants_no_login_says_nothing_of_it() -> None:
    async with FaultRegistry() as registry, client() as opened:
        assert not await opened.enter(registry.authority, EVE)
