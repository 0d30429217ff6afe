"""Tokens: what they are asked for, how long they are believed in, and who may use them."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from cri_imaged.errors import Category, RegistryError
from cri_imaged.ports import Credentials
from cri_imaged.registry.auth.challenge import Challenge
from cri_imaged.registry.auth.grants import GrantCache, GrantKey
from cri_imaged.registry.auth.schemes import Shown
from tests.registry.helpers import REPOSITORY, client, noise, read, resolve, write_hosts
from tests.support.leaks import MARK
from tests.support.registry import (
    BLOB,
    MANIFEST,
    TOKEN,
    BasicAuth,
    BearerAuth,
    FaultRegistry,
    redirect,
    status,
)

USERS = {"ann": f"{MARK}-a"}
ANN = Credentials(username="ann", password=USERS["ann"])
SCOPE = f"repository:{REPOSITORY}:pull"

# --- scopes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "asked"),
    [
        (["repository:hub/library/demo:pull"], ["repository:hub/library/demo:pull"]),
        (["repository:a:pull", "repository:b:pull"], ["repository:a:pull", "repository:b:pull"]),
        (["repository:a:pull", "repository:a:pull"], ["repository:a:pull"]),
        ([], [SCOPE]),
    ],
)
@pytest.mark.parametrize("post", [True, False])
async def test_a_token_is_asked_for_with_the_scope_that_the_challenge_names_alone(
    named: list[str], asked: list[str], post: bool
) -> None:
    auth = BearerAuth(USERS, identity_tokens=[f"{MARK}-i"])
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        scope = f',scope="{" ".join(named)}"' if named else ""
        text = f'Bearer realm="{registry.url}/token",service="s"{scope}'
        registry.faults.append(status(401, headers={"WWW-Authenticate": text}, where=MANIFEST))
        with pytest.raises(RegistryError):
            await resolve(opened, registry, Credentials(identitytoken=f"{MARK}-i") if post else ANN)
        (seen,) = [seen for seen in registry.seen if seen.kind == TOKEN]
        assert (seen.form["scope"].split() if post else seen.query["scope"]) == asked


# --- answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        {"token": "t", "access_token": None, "expires_in": None, "issued_at": None},
        {"token": None, "access_token": "t"},
        {"token": "t", "expires_in": "300"},
        {"token": "t", "expires_in": ""},
        {"token": "t", "expires_in": True},
        {"token": "t", "expires_in": {}},
        {"token": "t", "expires_in": 10**30},
        {"token": "t", "expires_in": -1, "refresh_token": None},
    ],
)
@pytest.mark.parametrize("code", [200, 201, 203])
async def test_null_is_absence_in_a_token_servers_answer(
    answer: dict[str, object], code: int
) -> None:
    auth = BearerAuth()
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        image = registry.add_image(REPOSITORY, "latest")
        auth.issued["t"] = "x", frozenset({SCOPE})
        registry.faults.append(status(code, where=TOKEN, body=json.dumps(answer).encode()))
        assert (await resolve(opened, registry)).descriptor == image.manifest


# --- old tokens -------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [401, 403, 404])
async def test_a_permission_that_is_newer_than_the_token_counts(code: int) -> None:
    auth = BearerAuth(USERS, anonymous=False, expires_in=1800)
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        image = registry.add_image(REPOSITORY, "latest")
        registry.faults.append(status(code, where=MANIFEST, skip=1))
        with pytest.raises(RegistryError) as caught:
            await resolve(opened, registry, ANN)
        assert [attempt.status for attempt in caught.value.attempts] == [code]
        assert len(registry.gets(TOKEN)) == 1
        (old,) = auth.issued
        registry.faults[:] = [status(code, where=MANIFEST, token=old)]
        assert (await resolve(opened, registry, ANN)).descriptor == image.manifest
        assert len(registry.gets(TOKEN)) == 2


@pytest.mark.parametrize("code", [403, 404])
async def test_a_denial_is_tried_once_with_a_new_token_and_then_stands(code: int) -> None:
    auth = BearerAuth(USERS, anonymous=False)
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        registry.add_image(REPOSITORY, "latest")
        await resolve(opened, registry, ANN)
        registry.faults.append(status(code, where=MANIFEST))
        for tokens in (2, 3):
            with pytest.raises(RegistryError) as caught:
                await resolve(opened, registry, ANN)
            assert len(caught.value.attempts) == 1
            assert len(registry.gets(TOKEN)) == tokens


async def test_a_denial_within_the_pull_that_fetched_the_token_stands() -> None:
    auth = BearerAuth(USERS, anonymous=False)
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        layer = registry.add_image(REPOSITORY, "latest", [noise(10)]).layers[0]
        found = await resolve(opened, registry, ANN)
        registry.faults.append(status(404, where=BLOB))
        with pytest.raises(RegistryError) as caught:
            await read(found.fetcher, layer)
        assert caught.value.category is Category.NOT_FOUND
        assert len(registry.gets(TOKEN)) == len(registry.gets(BLOB)) == 1


async def test_a_token_that_is_refused_within_its_pull_without_a_challenge_is_replaced() -> None:
    """It may end earlier than its server said."""
    auth = BearerAuth(USERS, anonymous=False)
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        data = noise(10)
        layer = registry.add_image(REPOSITORY, "latest", [data]).layers[0]
        found = await resolve(opened, registry, ANN)
        (old,) = auth.issued
        registry.faults.append(status(401, where=BLOB, token=old))
        assert await read(found.fetcher, layer) == data
        assert len(registry.gets(TOKEN)) == 2


async def test_a_basic_login_that_is_refused_without_a_challenge_is_not_sent_unasked_again() -> (
    None
):
    async with FaultRegistry(auth=BasicAuth(USERS)) as registry, client() as opened:
        registry.add_image(REPOSITORY, "latest")
        await resolve(opened, registry, ANN)
        registry.faults.append(status(401, where=MANIFEST, times=1))
        with pytest.raises(RegistryError):
            await resolve(opened, registry, ANN)
        await resolve(opened, registry, ANN)
        shown = ["authorization" in seen.headers for seen in registry.seen]
        assert shown == [False, True, True, False, True]


async def test_a_basic_login_that_was_denied_is_not_sent_twice() -> None:
    async with FaultRegistry(auth=BasicAuth(USERS)) as registry, client() as opened:
        registry.add_image(REPOSITORY, "latest")
        await resolve(opened, registry, ANN)
        registry.faults.append(status(403, where=MANIFEST))
        before = len(registry.seen)
        with pytest.raises(RegistryError):
            await resolve(opened, registry, ANN)
        assert len(registry.seen) == before + 1


@pytest.mark.parametrize("code", [302, 401, 403, 404])
async def test_an_expired_token_is_renewed_before_the_host_is_asked(code: int) -> None:
    """Who shows nothing may be answered by something that looks final."""
    auth = BearerAuth(USERS, anonymous=False, expires_in=1)
    async with FaultRegistry(auth=auth) as registry, FaultRegistry() as storage:
        data = noise(10)
        layer = registry.add_image(REPOSITORY, "latest", [data]).layers[0]
        storage.faults.append(status(403))
        registry.faults.append(
            redirect(f"{storage.url}/x", code=302, where=BLOB, stranger=True)
            if code == 302
            else status(code, where=BLOB, stranger=True)
        )
        async with client() as opened:
            found = await resolve(opened, registry, ANN)
            await asyncio.sleep(1.0)
            assert await read(found.fetcher, layer) == data
        assert [seen.status for seen in registry.gets(BLOB)] == [200]
        assert len(registry.gets(TOKEN)) == 2


async def test_who_wants_no_token_any_more_is_asked_without_one() -> None:
    auth = BearerAuth(USERS, anonymous=False, expires_in=1)
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        image = registry.add_image(REPOSITORY, "latest")
        await resolve(opened, registry, ANN)
        registry.auth = None  # its token server answers 404 now
        await asyncio.sleep(1.0)
        assert (await resolve(opened, registry, ANN)).descriptor == image.manifest


# --- whose ------------------------------------------------------------------------------------


async def test_registries_under_paths_of_one_host_share_no_token(tmp_path: Path) -> None:
    auth = BearerAuth()
    async with FaultRegistry(auth=auth, prefix="/a") as first:
        image = first.add_image(REPOSITORY, "latest")
        one = f'server = "http://127.0.0.1:1"\n[host."{first.url}/v2"]\noverride_path = true'
        write_hosts(tmp_path, "one.invalid", one)
        write_hosts(tmp_path, "two.invalid", one.replace("/a/v2", "/a/v2/two"))
        first.manifests[f"two/{REPOSITORY}", "latest"] = first.manifests[REPOSITORY, "latest"]
        async with client(config_path=tmp_path) as opened:
            for name in ("one.invalid", "two.invalid"):
                assert (await resolve(opened, name)).descriptor == image.manifest
        assert [seen.query["scope"] for seen in first.gets(TOKEN)] == [
            [SCOPE],
            [f"repository:two/{REPOSITORY}:pull"],
        ]
        assert [seen.status for seen in first.gets(MANIFEST)] == [401, 200, 401, 200]


KEY = GrantKey("https", "r.example", "/v2", "r.example", SCOPE, "ann")


def test_grants_are_kept_by_all_that_they_are_for() -> None:
    now = 0.0
    cache = GrantCache(lambda: now)
    challenges = (Challenge("bearer"),)
    grant = cache.put(KEY, challenges, Shown("Bearer x", 10.0))
    assert cache.usable(KEY) is grant
    for field in KEY._fields:
        assert cache.usable(KEY._replace(**{field: "other"})) is None
        assert cache.challenges(KEY._replace(**{field: "other"})) == ()
    now = 10.0
    assert cache.usable(KEY) is None
    assert cache.challenges(KEY) == challenges
    cache.drop(KEY, grant)
    assert cache.challenges(KEY) == ()


def test_a_grant_that_was_replaced_is_not_dropped_with_the_old_one() -> None:
    cache = GrantCache()
    old = cache.put(KEY, (), Shown("Bearer x", time.monotonic() + 10))
    new = cache.put(KEY, (), Shown("Bearer y", time.monotonic() + 10))
    cache.drop(KEY, old)
    assert cache.usable(KEY) is new


def test_grants_do_not_grow_without_end() -> None:
    cache = GrantCache()
    for number in range(5000):
        cache.put(KEY._replace(authority=str(number)), (), Shown("Bearer x", 1e18))
    assert cache.usable(KEY._replace(authority="0")) is None
    assert cache.usable(KEY._replace(authority="4999")) is not None


def test_grants_of_long_tokens_do_not_grow_without_end() -> None:
    cache = GrantCache()
    for number in range(100):
        cache.put(KEY._replace(authority=str(number)), (), Shown("Bearer " + "x" * 60_000, 1e18))
    assert cache.usable(KEY._replace(authority="20")) is None
    assert cache.usable(KEY._replace(authority="99")) is not None
    for number in range(100):
        cache.forget(KEY._replace(authority=str(number)))
    cache.put(KEY, (), Shown("Bearer x", 1e18))
    assert cache.usable(KEY) is not None
