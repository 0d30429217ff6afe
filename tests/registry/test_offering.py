"""To whom a login is offered: hosts that hide what they have, mirrors, redirects' targets."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import msgspec
import pytest

from cri_imaged.errors import Category, RegistryError
from cri_imaged.ports import Credentials
from cri_imaged.registry.options import HostOptions
from tests.registry.conftest import Certificates
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
NODE = {"node": f"{MARK}-n"}
ANN = Credentials(username="ann", password=USERS["ann"])
NAME = "registry.invalid"


def configs(*registries: FaultRegistry, user: str = "node") -> dict[str, HostOptions]:
    """The node's own login for these hosts."""
    auth = {"username": user, "password": f"{MARK}-n"}
    table = {registry.authority: {"auth": auth} for registry in registries}
    return msgspec.convert(table, dict[str, HostOptions])


def shown(registry: FaultRegistry) -> set[str]:
    """The users that the registry was shown with Basic."""
    given = [seen.headers.get("authorization", "") for seen in registry.seen]
    basic = [value.removeprefix("Basic ") for value in given if value.startswith("Basic ")]
    return {base64.b64decode(value).decode().partition(":")[0] for value in basic}


# --- hosts that hide what they have -----------------------------------------------------------


@pytest.mark.parametrize("bearer", [True, False])
@pytest.mark.parametrize(
    ("code", "challenge"),
    [(401, ""), (401, "Negotiate"), (401, "Bearer"), (403, ""), (404, ""), (403, "Negotiate")],
)
async def test_a_login_is_offered_to_who_denies_without_a_usable_challenge(
    code: int, challenge: str, bearer: bool
) -> None:
    auth = BearerAuth(USERS, anonymous=False) if bearer else BasicAuth(USERS)
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        data = noise(10)
        image = registry.add_image(REPOSITORY, "latest", [data])
        headers = {"WWW-Authenticate": challenge} if challenge else {}
        for where in (MANIFEST, BLOB):
            registry.faults.append(status(code, where=where, headers=headers, stranger=True))
        found = await resolve(opened, registry, ANN)
        assert found.descriptor == image.manifest
        assert await read(found.fetcher, image.layers[0]) == data
        pings = [seen for seen in registry.seen if seen.path == "/v2/"]
        assert [seen.status for seen in pings] == [401]
        assert "authorization" not in pings[0].headers
        before = len(registry.seen)
        await resolve(opened, registry, ANN)
        assert len(registry.seen) == before + 1


async def test_a_root_that_forbids_may_say_how_to_log_in() -> None:
    async with FaultRegistry(auth=BasicAuth(USERS)) as registry, client() as opened:
        image = registry.add_image(REPOSITORY, "latest")
        headers = {"WWW-Authenticate": 'Basic realm="x"'}
        registry.faults.append(status(404, where=MANIFEST, stranger=True))
        registry.faults.append(status(403, headers=headers, stranger=True))
        assert (await resolve(opened, registry, ANN)).descriptor == image.manifest
        assert [seen.status for seen in registry.seen] == [404, 403, 200]


async def test_a_challenge_with_a_403_needs_no_other() -> None:
    async with FaultRegistry(auth=BasicAuth(USERS)) as registry, client() as opened:
        image = registry.add_image(REPOSITORY, "latest")
        headers = {"WWW-Authenticate": 'Basic realm="x"'}
        registry.faults.append(status(403, headers=headers, stranger=True))
        assert (await resolve(opened, registry, ANN)).descriptor == image.manifest
        assert [seen.status for seen in registry.seen] == [403, 200]


@pytest.mark.parametrize("code", [401, 403, 404])
async def test_who_has_no_login_is_denied_at_once(code: int) -> None:
    async with FaultRegistry(auth=BasicAuth(USERS)) as registry, client() as opened:
        registry.faults.append(status(code, where=MANIFEST))
        with pytest.raises(RegistryError) as caught:
            await resolve(opened, registry)
        assert [attempt.status for attempt in caught.value.attempts] == [code]
        assert len(registry.seen) == 1


@pytest.mark.parametrize(
    ("code", "category"), [(403, Category.PERMISSION_DENIED), (404, Category.NOT_FOUND)]
)
async def test_a_denial_stands_where_nobody_asks_for_a_login(code: int, category: Category) -> None:
    async with FaultRegistry() as registry, client() as opened:
        registry.faults.append(status(code, where=MANIFEST))
        with pytest.raises(RegistryError) as caught:
            await resolve(opened, registry, ANN)
        assert caught.value.category is category
        assert [seen.path for seen in registry.seen][1:] == ["/v2/"]
        assert shown(registry) == set()


async def test_a_denial_stands_where_the_token_server_knows_no_such_login() -> None:
    auth = BearerAuth({"bob": f"{MARK}-b"}, anonymous=False)
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        registry.faults.append(status(404, where=MANIFEST))
        with pytest.raises(RegistryError) as caught:
            await resolve(opened, registry, ANN)
        assert caught.value.category is Category.NOT_FOUND


async def test_a_busy_token_server_of_who_hides_what_it_has_is_asked_again() -> None:
    auth = BearerAuth(USERS, anonymous=False)
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        image = registry.add_image(REPOSITORY, "latest")
        registry.faults.append(status(404, where=MANIFEST, stranger=True))
        registry.faults.append(status(503, where=TOKEN, times=2))
        assert (await resolve(opened, registry, ANN)).descriptor == image.manifest


# --- mirrors ----------------------------------------------------------------------------------


async def test_a_mirror_is_shown_its_own_login_where_the_node_has_one(tmp_path: Path) -> None:
    async with (
        FaultRegistry(auth=BasicAuth(NODE)) as mirror,
        FaultRegistry(auth=BasicAuth(USERS)) as upstream,
    ):
        data = noise(10)
        image = upstream.add_image(REPOSITORY, "latest", [data])
        mirror.manifests = upstream.manifests
        text = f'server = "{upstream.url}"\n[host."{mirror.url}"]'
        write_hosts(tmp_path, NAME, text)
        async with client(config_path=tmp_path, configs=configs(mirror)) as opened:
            found = await resolve(opened, NAME, ANN)
            assert found.descriptor == image.manifest
            assert await read(found.fetcher, image.layers[0]) == data
        assert (shown(mirror), shown(upstream)) == ({"node"}, {"ann"})


async def test_a_login_that_names_the_mirror_is_meant_for_it(tmp_path: Path) -> None:
    async with FaultRegistry(auth=BasicAuth(USERS)) as mirror:
        image = mirror.add_image(REPOSITORY, "latest")
        write_hosts(tmp_path, NAME, f'server = "http://127.0.0.1:1"\n[host."{mirror.url}"]')
        given = Credentials(username="ann", password=USERS["ann"], server_address=mirror.authority)
        async with client(config_path=tmp_path, configs=configs(mirror)) as opened:
            assert (await resolve(opened, NAME, given)).descriptor == image.manifest
        assert shown(mirror) == {"ann"}


async def test_at_the_registry_itself_the_requests_login_comes_first() -> None:
    async with FaultRegistry(auth=BasicAuth(USERS)) as registry:
        registry.add_image(REPOSITORY, "latest")
        async with client(configs=configs(registry)) as opened:
            await resolve(opened, registry, ANN)
        assert shown(registry) == {"ann"}


async def test_a_failing_helper_of_a_mirror_does_not_have_it_shown_the_requests_login(
    tmp_path: Path,
) -> None:
    async with FaultRegistry(auth=BasicAuth(USERS)) as mirror:
        mirror.add_image(REPOSITORY, "latest")
        write_hosts(tmp_path, NAME, f'server = "http://127.0.0.1:1"\n[host."{mirror.url}"]')
        config = tmp_path / "config.json"
        config.write_text(f'{{"credHelpers": {{"{mirror.authority}": "does-not-exist"}}}}')
        async with client(config_path=tmp_path, docker_config=str(config)) as opened:
            with pytest.raises(RegistryError, match="docker-credential-does-not-exist"):
                await resolve(opened, NAME, ANN)
        assert shown(mirror) == set()


@pytest.mark.parametrize("docker", [False, True])
async def test_a_login_may_be_for_some_of_a_hosts_repositories(
    tmp_path: Path, docker: bool
) -> None:
    users = {user: f"{MARK}-{user}" for user in ("host", "team", "app")}
    async with FaultRegistry(auth=BasicAuth(users)) as registry:
        names = {"team/app/web": "app", "team/other": "team", "team": "team", "teams": "host"}
        for name in names:
            registry.add_image(name, "latest")
        keys = {"host": "", "team": "/team", "app": "/team/app/"}
        table = {
            registry.authority + path: {"auth": {"username": user, "password": users[user]}}
            for user, path in keys.items()
        }
        given: dict[str, object] = {"configs": msgspec.convert(table, dict[str, HostOptions])}
        if docker:
            file = tmp_path / "auth.json"
            auths = {key: each["auth"] for key, each in table.items()}
            file.write_text(json.dumps({"auths": auths}))
            given = {"docker_config": str(file)}
        for name, user in names.items():
            registry.seen.clear()
            async with client(**given) as opened:  # type: ignore[arg-type]
                await resolve(opened, registry, name=f"{name}:latest")
            assert shown(registry) == {user}


async def test_a_login_for_a_mirrors_repositories_goes_by_its_own_names(tmp_path: Path) -> None:
    auth = BearerAuth(NODE, anonymous=False)
    async with FaultRegistry(auth=auth) as mirror:
        data = noise(10)
        image = mirror.add_image(f"cache/{REPOSITORY}", "latest", [data])
        text = (
            f'server = "http://127.0.0.1:1"\n[host."{mirror.url}"]\n'
            f'[host."{mirror.url}".rewrite]\n"^library/(.*)" = "cache/library/$1"'
        )
        write_hosts(tmp_path, NAME, text)
        login = {"username": "node", "password": f"{MARK}-n"}
        table = {f"{mirror.authority}/cache": {"auth": login}}
        options = msgspec.convert(table, dict[str, HostOptions])
        async with client(config_path=tmp_path, configs=options) as opened:
            found = await resolve(opened, NAME)
            assert found.descriptor == image.manifest
            assert await read(found.fetcher, image.layers[0]) == data
        scopes = [seen.query["scope"] for seen in mirror.gets(TOKEN)]
        assert scopes == [[f"repository:cache/{REPOSITORY}:pull"]]


# --- redirects --------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [None, BLOB])
async def test_a_redirect_to_a_registry_that_hands_out_anonymous_tokens(where: str | None) -> None:
    async with FaultRegistry() as front, FaultRegistry(auth=BearerAuth()) as target:
        data = noise(10)
        image = target.add_image(REPOSITORY, "latest", [data])
        front.share(target)
        for kind, path in (
            (MANIFEST, f"manifests/{'latest'}"),
            (BLOB, f"blobs/{image.layers[0].digest}"),
        ):
            if where in (None, kind):
                location = f"{target.url}/v2/{REPOSITORY}/{path}?signature={MARK}"
                front.faults.append(redirect(location, where=kind))
        async with client() as opened:
            found = await resolve(opened, front, ANN)
            assert await read(found.fetcher, image.layers[0]) == data
        assert len(target.gets(TOKEN)) == 1
        assert shown(target) == set()


async def test_a_redirects_target_is_shown_the_nodes_own_login_for_it_and_no_other() -> None:
    async with (
        FaultRegistry(auth=BasicAuth(USERS)) as front,
        FaultRegistry(auth=BasicAuth(NODE)) as target,
    ):
        data = noise(10)
        image = target.add_image(REPOSITORY, "latest", [data])
        front.share(target)
        front.faults.append(
            redirect(f"{target.url}/v2/{REPOSITORY}/blobs/{image.layers[0].digest}", where=BLOB)
        )
        async with client(configs=configs(target)) as opened:
            found = await resolve(opened, front, ANN)
            assert await read(found.fetcher, image.layers[0]) == data
        assert (shown(front), shown(target)) == ({"ann"}, {"node"})


@pytest.mark.parametrize("auth", [BasicAuth(USERS), BearerAuth(USERS, anonymous=False)])
async def test_a_redirects_target_that_wants_a_login_is_not_asked_again_and_again(
    auth: BasicAuth | BearerAuth,
) -> None:
    async with FaultRegistry() as front, FaultRegistry(auth=auth) as target:
        target.add_image(REPOSITORY, "latest")
        front.faults.append(redirect(f"{target.url}/v2/{REPOSITORY}/manifests/latest"))
        async with client() as opened:
            with pytest.raises(RegistryError, match=target.authority) as caught:
                await resolve(opened, front, ANN)
        assert caught.value.category is Category.UNAUTHENTICATED
        assert len(front.seen) == 1
        assert shown(target) == set()


async def test_a_401_of_storage_is_final_and_its_403_is_not() -> None:
    async with FaultRegistry() as front, FaultRegistry() as storage:
        front.faults.append(redirect(f"{storage.url}/x?signature={MARK}"))
        for code, category in (
            (401, Category.UNAUTHENTICATED),
            (403, Category.REGISTRY_UNAVAILABLE),
        ):
            storage.faults[:] = [status(code)]
            async with client() as opened:
                with pytest.raises(
                    RegistryError, match=f"{code} .* from {storage.authority}"
                ) as caught:
                    await resolve(opened, front, ANN)
            assert caught.value.category is category
            assert len(storage.seen) == {401: 1, 403: 6}[code]


async def test_a_login_follows_from_http_to_https_of_the_same_name(
    certificates: Certificates, tmp_path: Path
) -> None:
    auth = BearerAuth(USERS, anonymous=False)
    async with (
        FaultRegistry(tls=certificates.server(), auth=auth) as secure,
        FaultRegistry() as plain,
    ):
        data = noise(10)
        image = secure.add_image(REPOSITORY, "latest", [data])
        auth.realm = f"{secure.url}/token"
        for kind, path in (
            (MANIFEST, "manifests/latest"),
            (BLOB, f"blobs/{image.layers[0].digest}"),
        ):
            plain.faults.append(redirect(f"{secure.url}/v2/{REPOSITORY}/{path}", where=kind))
        text = f'server = "{plain.url}"\nca = "{certificates.ca_file}"'
        write_hosts(tmp_path, NAME, text)
        async with client(config_path=tmp_path) as opened:
            found = await resolve(opened, NAME, ANN)
            assert await read(found.fetcher, image.layers[0]) == data
        assert plain.seen
        assert all("authorization" not in seen.headers for seen in plain.seen)
        assert len(secure.gets(TOKEN)) == 1


async def test_a_login_does_not_follow_to_https_of_another_path(
    certificates: Certificates, tmp_path: Path
) -> None:
    async with (
        FaultRegistry(tls=certificates.server(), auth=BasicAuth(USERS)) as secure,
        FaultRegistry() as plain,
    ):
        secure.add_image("other/demo", "latest")
        plain.faults.append(redirect(f"{secure.url}/v2/other/demo/manifests/latest"))
        text = f'server = "{plain.url}"\nca = "{certificates.ca_file}"'
        write_hosts(tmp_path, NAME, text)
        async with client(config_path=tmp_path) as opened:
            with pytest.raises(RegistryError):
                await resolve(opened, NAME, ANN)
        assert shown(secure) == set()


async def test_a_token_realm_may_move_to_https_of_the_same_name(
    certificates: Certificates, tmp_path: Path
) -> None:
    auth = BearerAuth(USERS, anonymous=False, identity_tokens=[f"{MARK}-identity"])
    async with (
        FaultRegistry(tls=certificates.server(), auth=auth) as secure,
        FaultRegistry(auth=auth) as plain,
    ):
        image = plain.add_image(REPOSITORY, "latest")
        plain.faults.append(redirect(f"{secure.url}/token", where=TOKEN))
        auth.realm = f"{plain.url}/token"
        text = f'server = "{plain.url}"\nca = "{certificates.ca_file}"'
        write_hosts(tmp_path, NAME, text)
        async with client(config_path=tmp_path) as opened:
            given = Credentials(identitytoken=f"{MARK}-identity")
            assert (await resolve(opened, NAME, given)).descriptor == image.manifest
        assert [seen.method for seen in secure.seen] == ["POST"]
