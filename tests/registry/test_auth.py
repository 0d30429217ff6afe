"""Authentication: Basic, bearer, identity and registry tokens, and who is told what."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from pathlib import Path

import msgspec
import pytest

from cri_imaged.errors import Category, ConfigError, InvalidRequestError, RegistryError
from cri_imaged.limits import Limits
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
    Fault,
    FaultRegistry,
    encoded,
    redirect,
    stall,
    status,
)

USERS = {"ann": f"{MARK}-a", "bob": f"{MARK}-b"}
ANN = Credentials(username="ann", password=USERS["ann"])
BOB = Credentials(username="bob", password=USERS["bob"])
WRONG = Credentials(username="ann", password=f"{MARK}-wrong")
IDENTITY = f"{MARK}-identity"


def challenge(text: str) -> Fault:
    return status(401, headers={"WWW-Authenticate": text})


# --- Basic ----------------------------------------------------------------------------------


async def test_basic_is_offered_only_after_a_challenge_and_then_remembered() -> None:
    async with FaultRegistry(auth=BasicAuth(USERS)) as registry, client() as opened:
        data = noise(100)
        layer = registry.add_image(REPOSITORY, "latest", [data]).layers[0]
        resolved = await resolve(opened, registry, ANN)
        assert await read(resolved.fetcher, layer) == data
        assert [seen.status for seen in registry.seen] == [401, 200, 200]
        assert "authorization" not in registry.seen[0].headers


@pytest.mark.parametrize("credentials", [None, WRONG, Credentials(identitytoken=IDENTITY)])
async def test_basic_refused(credentials: Credentials | None) -> None:
    async with FaultRegistry(auth=BasicAuth(USERS)) as registry, client() as opened:
        registry.add_image(REPOSITORY, "latest")
        with pytest.raises(RegistryError) as caught:
            await resolve(opened, registry, credentials)
    assert caught.value.category is Category.UNAUTHENTICATED
    assert len(registry.seen) <= 2


async def test_a_user_with_colons_and_letters_of_the_world() -> None:
    users = {"ünï": f"pä:{MARK}:"}
    async with FaultRegistry(auth=BasicAuth(users)) as registry, client() as opened:
        image = registry.add_image(REPOSITORY, "latest")
        given = Credentials(username="ünï", password=users["ünï"])
        assert (await resolve(opened, registry, given)).descriptor == image.manifest


# --- bearer ---------------------------------------------------------------------------------


async def test_an_anonymous_token() -> None:
    async with FaultRegistry(auth=BearerAuth()) as registry, client() as opened:
        image = registry.add_image(REPOSITORY, "latest", [noise(10)])
        resolved = await resolve(opened, registry)
        await read(resolved.fetcher, image.layers[0])
        await resolve(opened, registry)
        assert [(seen.kind, seen.status) for seen in registry.seen] == [
            (MANIFEST, 401),
            (TOKEN, 200),
            (MANIFEST, 200),
            (BLOB, 200),
            (MANIFEST, 200),
        ]
        (asked,) = registry.gets(TOKEN)
        assert asked.query == {
            "service": ["registry.test"],
            "scope": [f"repository:{REPOSITORY}:pull"],
        }
        assert "authorization" not in asked.headers


@pytest.mark.parametrize("field", ["token", "access_token"])
@pytest.mark.parametrize("expires_in", [300, None])
async def test_a_token_for_a_user(field: str, expires_in: int | None) -> None:
    auth = BearerAuth(USERS, anonymous=False, answer_field=field, expires_in=expires_in)
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        image = registry.add_image(REPOSITORY, "latest")
        assert (await resolve(opened, registry, ANN)).descriptor == image.manifest
        assert [user for user, _ in auth.issued.values()] == ["ann"]


@pytest.mark.parametrize("credentials", [None, WRONG])
async def test_a_token_refused(credentials: Credentials | None) -> None:
    auth = BearerAuth(USERS, anonymous=False)
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        registry.add_image(REPOSITORY, "latest")
        with pytest.raises(RegistryError, match=r"token server .* answered 401") as caught:
            await resolve(opened, registry, credentials)
    assert caught.value.category is Category.UNAUTHENTICATED


async def test_a_token_server_that_forbids() -> None:
    async with FaultRegistry(auth=BearerAuth(USERS)) as registry, client() as opened:
        registry.faults.append(status(403, where=TOKEN))
        with pytest.raises(RegistryError) as caught:
            await resolve(opened, registry, ANN)
    assert caught.value.category is Category.PERMISSION_DENIED


async def test_several_scopes() -> None:
    scopes = ["repository:other/base:pull", f"repository:{REPOSITORY}:pull"]
    auth = BearerAuth(USERS, scopes=scopes)
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        image = registry.add_image(REPOSITORY, "latest")
        assert (await resolve(opened, registry, ANN)).descriptor == image.manifest
        (asked,) = registry.gets(TOKEN)
        assert sorted(asked.query["scope"]) == sorted(scopes)


async def test_a_realm_with_a_query_keeps_it() -> None:
    auth = BearerAuth()
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        registry.add_image(REPOSITORY, "latest")
        auth.realm = f"{registry.url}/token?tenant=a%2Fb"
        await resolve(opened, registry)
        assert registry.gets(TOKEN)[0].query["tenant"] == ["a/b"]


async def test_an_identity_token_is_shown_with_post() -> None:
    auth = BearerAuth(anonymous=False, identity_tokens=[IDENTITY], answer_field="access_token")
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        image = registry.add_image(REPOSITORY, "latest")
        given = Credentials(identitytoken=IDENTITY)
        assert (await resolve(opened, registry, given)).descriptor == image.manifest
        (posted,) = [seen for seen in registry.seen if seen.method == "POST"]
        assert posted.form == {
            "client_id": "cri-imaged",
            "service": "registry.test",
            "scope": f"repository:{REPOSITORY}:pull",
            "grant_type": "refresh_token",
            "refresh_token": IDENTITY,
        }
        assert registry.gets(TOKEN) == []


async def test_a_token_server_without_get_is_posted_to() -> None:
    auth = BearerAuth(USERS, anonymous=False, get=False)
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        image = registry.add_image(REPOSITORY, "latest")
        assert (await resolve(opened, registry, ANN)).descriptor == image.manifest
        (posted,) = [seen for seen in registry.seen if seen.method == "POST"]
        assert posted.form["grant_type"] == "password"


async def test_a_form_is_not_sent_on() -> None:
    auth = BearerAuth(anonymous=False, identity_tokens=[IDENTITY])
    async with FaultRegistry(auth=auth) as registry, FaultRegistry(auth=auth) as elsewhere:
        registry.add_image(REPOSITORY, "latest")
        registry.faults.append(redirect(f"{elsewhere.url}/token", where=TOKEN))
        async with client() as opened:
            with pytest.raises(RegistryError, match="answers a form with a redirect"):
                await resolve(opened, registry, Credentials(identitytoken=IDENTITY))
        assert elsewhere.seen == []


async def test_a_registry_token_is_shown_as_it_is() -> None:
    auth = BearerAuth(anonymous=False)
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        image = registry.add_image(REPOSITORY, "latest")
        auth.issued[f"{MARK}-registry"] = "x", frozenset({f"repository:{REPOSITORY}:pull"})
        given = Credentials(registrytoken=f"{MARK}-registry")
        assert (await resolve(opened, registry, given)).descriptor == image.manifest
        assert "authorization" not in registry.seen[0].headers
        assert not [seen for seen in registry.seen if seen.kind == TOKEN]
        with pytest.raises(RegistryError) as caught:
            await resolve(opened, registry, Credentials(registrytoken=f"{MARK}-another"))
        assert caught.value.category is Category.UNAUTHENTICATED


async def test_a_token_that_the_registry_forgot_is_replaced() -> None:
    auth = BearerAuth(USERS, anonymous=False)
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        layer = registry.add_image(REPOSITORY, "latest", [noise(10)]).layers[0]
        resolved = await resolve(opened, registry, ANN)
        auth.issued.clear()
        await read(resolved.fetcher, layer)
        assert len(registry.gets(TOKEN)) == 2


async def test_a_token_that_expires_is_fetched_anew_without_a_refusal() -> None:
    auth = BearerAuth(USERS, anonymous=False, expires_in=1)
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        registry.add_image(REPOSITORY, "latest")
        await resolve(opened, registry, ANN)
        await asyncio.sleep(1.0)
        await resolve(opened, registry, ANN)
        assert len(registry.gets(TOKEN)) == 2


async def test_authentication_ends_after_its_rounds() -> None:
    async with (
        FaultRegistry() as registry,
        client(limits=Limits(authentication_rounds=5)) as opened,
    ):
        registry.auth = BearerAuth()
        for number in range(20):
            asked = f'Bearer realm="{registry.url}/token",scope="a:{number}:b"'
            registry.faults.append(
                status(401, headers={"WWW-Authenticate": asked}, where=MANIFEST, times=1)
            )
        with pytest.raises(RegistryError, match="5 authentication rounds") as caught:
            await resolve(opened, registry)
        assert caught.value.category is Category.UNAUTHENTICATED
        assert len(registry.gets(MANIFEST)) == 5


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (Fault(where=TOKEN, status=200, body=b"<html>"), "something else than JSON"),
        (Fault(where=TOKEN, status=200, body=b"{}"), "without a token"),
        (Fault(where=TOKEN, status=200, body=b'{"token":"a\\r\\nX-Evil: 1"}'), "malformed token"),
        (Fault(where=TOKEN, status=200, body=b" " * 1_100_000), "more than 262144 bytes"),
        (status(418, where=TOKEN), "answered 418"),
        (stall(-1, where=TOKEN), "no response headers"),
    ],
    ids=["page", "empty", "injection", "big", "418", "silent"],
)
async def test_token_servers_that_answer_badly(fault: Fault, problem: str) -> None:
    async with FaultRegistry(auth=BearerAuth()) as registry:
        registry.faults.append(fault)
        async with client(response_header_timeout=0.2) as opened:
            with pytest.raises(RegistryError, match=f"token server .*{problem}") as caught:
                await resolve(opened, registry)
    assert caught.value.category is Category.REGISTRY_UNAVAILABLE
    assert len(str(caught.value)) < 2000


async def test_a_token_server_that_is_busy_is_asked_again() -> None:
    async with FaultRegistry(auth=BearerAuth()) as registry, client() as opened:
        image = registry.add_image(REPOSITORY, "latest")
        registry.faults.append(status(503, where=TOKEN, times=2))
        assert (await resolve(opened, registry)).descriptor == image.manifest


async def test_challenges_that_cannot_be_met() -> None:
    async with FaultRegistry() as registry, client() as opened:
        for text in ("Negotiate", 'Digest realm="x"', "Bearer", "", '="'):
            registry.faults[:] = [challenge(text)]
            with pytest.raises(RegistryError) as caught:
                await resolve(opened, registry, ANN)
            assert caught.value.category is Category.UNAUTHENTICATED
    assert all("authorization" not in seen.headers for seen in registry.seen)


# --- realms ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("realm", "problem"),
    [
        ("ftp://auth.example/token", "no http"),
        ("/token", "no http"),
        ("http://[", "malformed"),
        ("http://[1::2::3]/", "malformed"),
        ("http://[1.2.3.4:5]/", "malformed"),
        ("http://127.0.0.1:99999/t", "malformed"),
        ("http://127.0.0.1:-1/t", "malformed"),
        ("http://127.0.0.1:0/t", "no http"),
        ("http://xn--a/t", "malformed"),
        ("http:///t", "malformed|no http"),
        ("data:text/plain,x", "no http"),
        (f"http://{'a' * 64}.com/t", "token server"),
        (f"http://{'a.' * 130}com/t", "token server"),
        ("http://a..b/t", "token server"),
        ("http://a b/t", "token server|malformed"),
        ("http://a%00b/t", "token server|malformed"),
        ("http://[v1.x]/t", "token server|malformed"),
        ("http://127.0.0.1:1?" + "q" * 9000, "token server"),
        (f"https://user:{MARK}@auth.example/", "user information"),
    ],
)
async def test_realms_that_are_none(realm: str, problem: str) -> None:
    async with FaultRegistry() as registry, client() as opened:
        registry.faults.append(challenge(f'Bearer realm="{realm}"'))
        with pytest.raises(RegistryError, match=problem):
            await resolve(opened, registry, ANN)


async def test_an_http_realm_of_an_https_registry_is_refused(
    certificates: Certificates, tmp_path: Path
) -> None:
    async with FaultRegistry(tls=certificates.server()) as registry, FaultRegistry() as tokens:
        tokens.auth = BearerAuth(USERS)
        registry.auth = BearerAuth(realm=f"{tokens.url}/token")
        write_hosts(
            tmp_path,
            registry.authority,
            f'server = "{registry.url}"\nca = "{certificates.ca_file}"',
        )
        async with client(config_path=tmp_path) as opened:
            with pytest.raises(RegistryError, match="plain http, but the registry is https"):
                await resolve(opened, registry, ANN)
        assert tokens.seen == []


async def test_a_password_for_an_https_realm_is_not_sent_without_tls() -> None:
    """Not even where the registry itself, on loopback, is spoken to in plain http."""
    async with FaultRegistry(auth=BearerAuth(USERS)) as tokens, FaultRegistry() as registry:
        registry.auth = BearerAuth(USERS, realm=f"https://{tokens.authority}/token")
        async with client() as opened:
            with pytest.raises(RegistryError, match=r"token server .* TLS handshake"):
                await resolve(opened, registry, ANN)
        assert registry.seen != []
        assert tokens.seen == []


async def test_an_https_realm_of_a_registry_that_turns_out_to_be_plain() -> None:
    async with FaultRegistry() as registry, client() as opened:
        image = registry.add_image(REPOSITORY, "latest")
        registry.auth = BearerAuth(
            USERS, anonymous=False, realm=f"https://{registry.authority}/token"
        )
        assert (await resolve(opened, registry, ANN)).descriptor == image.manifest


async def test_a_proxy_at_a_private_address_serves_public_realms(tmp_path: Path) -> None:
    async with FaultRegistry() as proxy:
        image = proxy.add_image(REPOSITORY, "latest")
        proxy.auth = BearerAuth(USERS, anonymous=False, realm="http://auth.invalid/token")
        write_hosts(tmp_path, "registry.invalid", 'server = "http://registry.invalid"')
        environ = {"HTTP_PROXY": f"http://localhost:{proxy.port}"}
        async with client(config_path=tmp_path, environ=environ) as opened:
            found = await resolve(opened, "registry.invalid", ANN)
        assert found.descriptor == image.manifest


@pytest.mark.parametrize(
    ("realm_name", "problem"), [("127.0.0.1", "private address"), ("localhost", "private address")]
)
async def test_a_private_realm_of_a_public_registry_is_refused(
    tmp_path: Path, realm_name: str, problem: str
) -> None:
    """The registry is public as far as this node can see: it is reached through a proxy."""
    async with FaultRegistry() as registry:
        registry.auth = BearerAuth(USERS, realm=f"http://{realm_name}:{registry.port}/token")
        write_hosts(tmp_path, "registry.invalid", 'server = "http://registry.invalid"')
        environ = {"HTTP_PROXY": registry.url}
        async with client(config_path=tmp_path, environ=environ) as opened:
            with pytest.raises(RegistryError, match=problem):
                await resolve(opened, "registry.invalid", ANN)
        assert registry.gets(TOKEN) == []


async def test_a_redirect_of_the_realm_to_a_private_address_is_refused(tmp_path: Path) -> None:
    async with FaultRegistry() as proxy, FaultRegistry(auth=BearerAuth(USERS)) as inside:
        proxy.auth = BearerAuth(USERS, realm="http://auth.invalid/token")
        proxy.faults.append(redirect(f"{inside.url}/token", where=TOKEN))
        write_hosts(tmp_path, "registry.invalid", 'server = "http://registry.invalid"')
        async with client(config_path=tmp_path, environ={"HTTP_PROXY": proxy.url}) as opened:
            with pytest.raises(RegistryError, match="private address"):
                await resolve(opened, "registry.invalid", ANN)
        assert len(proxy.gets(TOKEN)) == 1
        assert inside.seen == []


async def test_the_password_does_not_follow_a_redirect_of_the_realm() -> None:
    async with FaultRegistry() as registry, FaultRegistry(auth=BearerAuth(USERS)) as elsewhere:
        registry.auth = BearerAuth(USERS, anonymous=False)
        registry.faults.append(redirect(f"{elsewhere.url}/token", where=TOKEN))
        async with client() as opened:
            with pytest.raises(RegistryError):
                await resolve(opened, registry, ANN)
        assert elsewhere.seen
        assert all("authorization" not in seen.headers for seen in elsewhere.seen)


async def test_a_login_counts_more_than_a_configured_header(tmp_path: Path) -> None:
    async with FaultRegistry(auth=BearerAuth(USERS, anonymous=False)) as registry:
        image = registry.add_image(REPOSITORY, "latest")
        header = '{ authorization = "Basic bm9ib2R5Og==", x-team = "t" }'
        text = f'server = "{registry.url}"\nheader = {header}'
        write_hosts(tmp_path, registry.authority, text)
        async with client(config_path=tmp_path) as opened:
            assert (await resolve(opened, registry, ANN)).descriptor == image.manifest
        (asked,) = registry.gets(TOKEN)
        assert base64.b64decode(asked.headers["authorization"][6:]).decode() == f"ann:{MARK}-a"
        assert asked.headers["x-team"] == "t"


async def test_configured_headers_do_not_go_to_another_hosts_realm() -> None:
    async with FaultRegistry(auth=BearerAuth()) as tokens, FaultRegistry() as registry:
        registry.auth = BearerAuth(realm=f"{tokens.url}/token")
        async with client(headers={"X-Team": [MARK]}) as opened:
            with pytest.raises(RegistryError):
                await resolve(opened, registry)
        assert all("x-team" in seen.headers for seen in registry.seen)
        assert tokens.seen
        assert all("x-team" not in seen.headers for seen in tokens.seen)


# --- whose credentials ----------------------------------------------------------------------


@pytest.mark.parametrize("form", ["{}", "http://{}", "http://{}/v1/", "https://{}/v2/"])
async def test_a_server_address_that_names_the_host(form: str) -> None:
    async with FaultRegistry(auth=BasicAuth(USERS)) as registry, client() as opened:
        image = registry.add_image(REPOSITORY, "latest")
        address = form.format(registry.authority)
        given = Credentials(username="ann", password=USERS["ann"], server_address=address)
        assert (await resolve(opened, registry, given)).descriptor == image.manifest


@pytest.mark.parametrize("address", ["other.example", "https://127.0.0.1", "docker.io"])
async def test_a_server_address_that_names_another_host(address: str) -> None:
    async with FaultRegistry(auth=BasicAuth(USERS)) as registry, client() as opened:
        registry.add_image(REPOSITORY, "latest")
        given = Credentials(username="ann", password=USERS["ann"], server_address=address)
        with pytest.raises(RegistryError, match="no credentials were given"):
            await resolve(opened, registry, given)
        assert all("authorization" not in seen.headers for seen in registry.seen)


async def test_credentials_without_a_server_address_are_for_mirrors_too(tmp_path: Path) -> None:
    auth = BasicAuth(USERS)
    async with FaultRegistry(auth=auth) as mirror, FaultRegistry(auth=auth) as upstream:
        image = upstream.add_image(REPOSITORY, "latest")
        mirror.manifests = upstream.manifests
        text = f'server = "{upstream.url}"\n[host."{mirror.url}"]'
        write_hosts(tmp_path, "registry.invalid", text)
        async with client(config_path=tmp_path) as opened:
            found = await resolve(opened, "registry.invalid", ANN)
            assert found.descriptor == image.manifest
            assert upstream.seen == []
            named = Credentials(
                username="ann", password=USERS["ann"], server_address=upstream.authority
            )
            await resolve(opened, "registry.invalid", named)
        assert [seen.status for seen in mirror.seen] == [401, 200, 401]
        assert [seen.status for seen in upstream.seen] == [401, 200]


async def test_auth_of_an_authconfig() -> None:
    async with FaultRegistry(auth=BasicAuth(USERS)) as registry, client() as opened:
        image = registry.add_image(REPOSITORY, "latest")
        given = Credentials(auth=encoded(f"ann:{USERS['ann']}\0"))
        assert (await resolve(opened, registry, given)).descriptor == image.manifest
        with pytest.raises(InvalidRequestError, match="auth is not base64"):
            await resolve(opened, registry, Credentials(auth=f"%{MARK}%"))


async def test_precedence(tmp_path: Path) -> None:
    users = {user: f"{MARK}-{user}" for user in ("request", "configured", "docker")}
    async with FaultRegistry(auth=BasicAuth(users)) as registry:
        registry.add_image(REPOSITORY, "latest")
        config = tmp_path / "config.json"
        auth = encoded(f"docker:{users['docker']}")
        config.write_text(
            json.dumps({"auths": {f"http://{registry.authority}/v1/": {"auth": auth}}})
        )
        login = {"username": "configured", "password": users["configured"]}
        configs = {registry.authority: {"auth": login}}

        async def who(credentials: Credentials | None = None, **options: object) -> str:
            async with client(**options) as opened:  # type: ignore[arg-type]
                await resolve(opened, registry, credentials)
            given = registry.seen[-1].headers["authorization"].removeprefix("Basic ")
            return base64.b64decode(given).decode().partition(":")[0]

        everything = {
            "configs": msgspec.convert(configs, dict[str, HostOptions]),
            "docker_config": str(config),
        }
        login = {"username": "request", "password": users["request"]}
        request = Credentials(**login)
        assert await who(request, **everything) == "request"
        assert await who(None, **everything) == "configured"
        assert await who(Credentials(), **everything) == "configured"
        other = Credentials(**login, server_address="other.example")
        assert await who(other, **everything) == "configured"
        assert await who(None, docker_config=str(config)) == "docker"


# --- Docker's config.json -------------------------------------------------------------------

HELPER = """#!/bin/sh
read server
test "$1" = get || exit 2
test {known} = broken && {{ echo {secret}; exit 3; }}
case "$server" in
  {known}) echo '{{"ServerURL":"'"$server"'","Username":"{user}","Secret":"{secret}"}}';;
  *) echo "credentials not found in native keychain"; exit 1;;
esac
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder / "docker-credential-test"


def install(helper: Path, known: str, user: str, secret: str) -> None:
    helper.write_text(HELPER.format(known=known, user=user, secret=secret))
    helper.chmod(0o755)


@pytest.mark.parametrize("store", [True, False])
async def test_credential_helpers(tmp_path: Path, helper: Path, store: bool) -> None:
    async with FaultRegistry(auth=BasicAuth(USERS)) as registry:
        image = registry.add_image(REPOSITORY, "latest")
        install(helper, registry.authority, "ann", USERS["ann"])
        config = tmp_path / "config.json"
        table = {"credsStore": "test"} if store else {"credHelpers": {registry.authority: "test"}}
        config.write_text(json.dumps(table))
        async with client(docker_config=str(config)) as opened:
            assert (await resolve(opened, registry)).descriptor == image.manifest


async def test_a_helper_gives_identity_tokens(tmp_path: Path, helper: Path) -> None:
    auth = BearerAuth(anonymous=False, identity_tokens=[IDENTITY])
    async with FaultRegistry(auth=auth) as registry:
        image = registry.add_image(REPOSITORY, "latest")
        install(helper, registry.authority, "<token>", IDENTITY)
        config = tmp_path / "config.json"
        config.write_text('{"credsStore": "test"}')
        async with client(docker_config=str(config)) as opened:
            assert (await resolve(opened, registry)).descriptor == image.manifest


async def test_a_helper_without_a_login_means_anonymous(tmp_path: Path, helper: Path) -> None:
    async with FaultRegistry(auth=BearerAuth()) as registry:
        image = registry.add_image(REPOSITORY, "latest")
        install(helper, "nobody", "x", MARK)
        config = tmp_path / "config.json"
        config.write_text('{"credsStore": "test"}')
        async with client(docker_config=str(config)) as opened:
            assert (await resolve(opened, registry)).descriptor == image.manifest


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ('{"auths": {"127.0.0.1:1": 3}}', "not a Docker config"),
        ("{", "not a Docker config"),
    ],
)
async def test_a_config_that_cannot_be_used(tmp_path: Path, table: str, problem: str) -> None:
    config = tmp_path / "config.json"
    config.write_text(table)
    async with (
        FaultRegistry(auth=BasicAuth(USERS)) as registry,
        client(docker_config=str(config)) as opened,
    ):
        with pytest.raises(ConfigError, match=problem):
            await resolve(opened, registry)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("test", "docker-credential-test: failed with status 3"),
        ("silent", "docker-credential-silent: did not answer with a login in JSON"),
        ("does-not-exist", "docker-credential-does-not-exist: cannot be run"),
        ("../../bin/sh", "no name of a credential helper"),
    ],
)
async def test_a_helper_that_fails_is_named_and_does_not_stop_pulls_of_public_images(
    tmp_path: Path, helper: Path, caplog: pytest.LogCaptureFixture, name: str, problem: str
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"credsStore": name}))
    install(helper, "broken", "x", MARK)
    silent = helper.with_name("docker-credential-silent")
    silent.write_text("#!/bin/sh\nexit 0\n")
    silent.chmod(0o755)
    async with FaultRegistry(auth=BearerAuth()) as public, FaultRegistry() as private:
        image = public.add_image(REPOSITORY, "latest")
        private.auth = BasicAuth(USERS)
        async with client(docker_config=str(config)) as opened:
            assert (await resolve(opened, public)).descriptor == image.manifest
            with pytest.raises(RegistryError, match=f"no credentials were given; .*{problem}"):
                await resolve(opened, private)
            assert problem in caplog.text


@pytest.mark.parametrize(
    "table",
    [
        {"auths": {"HOST": {"auth": "AUTH"}}, "credHelpers": None, "credsStore": None},
        {"auths": {"HOST": {"auth": "AUTH", "email": None, "identitytoken": None}}},
        {"auths": {"HOST": {"auth": None, "username": "ann", "password": f"{MARK}-a"}}},
        {"auths": {"HOST": {"auth": "AUTH"}, "other.example": None}},
        {"auths": {"other.example": {"auth": 7}, "HOST": {"auth": "AUTH"}}},
        {"auths": {"HOST": {"auth": "AUTH"}}, "credHelpers": {"other.example": None}},
        {"auths": {"HOST": {"auth": "AUTH"}}, "credHelpers": {"HOST": None}, "credsStore": "x"},
        {"auths": {"HOST": {"auth": "AUTH"}}, "HttpHeaders": None, "psFormat": None},
    ],
)
async def test_null_is_absence_in_a_config(tmp_path: Path, table: object) -> None:
    config = tmp_path / "config.json"
    async with FaultRegistry(auth=BasicAuth(USERS)) as registry:
        image = registry.add_image(REPOSITORY, "latest")
        text = json.dumps(table).replace("HOST", registry.authority)
        config.write_text(text.replace("AUTH", encoded(f"ann:{MARK}-a")))
        async with client(docker_config=str(config)) as opened:
            assert (await resolve(opened, registry)).descriptor == image.manifest


@pytest.mark.parametrize(
    "text", ['{"auths": null}', '{"auths": {"HOST": null}}', "{}", "null", "", "\n"]
)
async def test_null_for_a_login_is_none(tmp_path: Path, text: str) -> None:
    config = tmp_path / "config.json"
    async with FaultRegistry(auth=BasicAuth(USERS)) as registry:
        config.write_text(text.replace("HOST", registry.authority))
        async with client(docker_config=str(config)) as opened:
            with pytest.raises(RegistryError, match="no credentials were given"):
                await resolve(opened, registry)


async def test_a_config_that_changes_is_read_again(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    async with FaultRegistry(auth=BasicAuth(USERS)) as registry:
        registry.add_image(REPOSITORY, "latest")

        def log_in(user: str, password: str) -> None:
            auth = encoded(f"{user}:{password}")
            config.write_text(json.dumps({"auths": {registry.authority: {"auth": auth}}}))

        async with client(docker_config=str(config)) as opened:
            with pytest.raises(RegistryError):
                await resolve(opened, registry)
            log_in("ann", USERS["ann"])
            await resolve(opened, registry)
            log_in("ann", f"{MARK}-of-old")
            with pytest.raises(RegistryError):
                await resolve(opened, registry)


# --- identities -----------------------------------------------------------------------------


async def test_simultaneous_pulls_share_no_token_across_identities() -> None:
    auth = BearerAuth(USERS, anonymous=False, identity_tokens=[IDENTITY])
    identities = [ANN, BOB, Credentials(identitytoken=IDENTITY), WRONG]
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        layer = registry.add_image(REPOSITORY, "latest", [noise(1000)]).layers[0]

        async def pull(credentials: Credentials) -> None:
            resolved = await resolve(opened, registry, credentials)
            await read(resolved.fetcher, layer)

        outcomes = await asyncio.gather(
            *(pull(identities[number % 4]) for number in range(32)), return_exceptions=True
        )
    refused = [outcome for outcome in outcomes if outcome is not None]
    assert len(refused) == 8
    assert all(
        isinstance(outcome, RegistryError) and outcome.category is Category.UNAUTHENTICATED
        for outcome in refused
    )
    assert all(outcomes[number] is not None for number in range(3, 32, 4))
    assert sorted(user for user, _ in auth.issued.values()) == ["ann", "bob", "identity"]
    used: dict[str, int] = {}
    for seen in registry.gets(BLOB):
        user = auth.issued[seen.headers["authorization"].removeprefix("Bearer ")][0]
        used[user] = used.get(user, 0) + 1
    assert used == {"ann": 8, "bob": 8, "identity": 8}


async def test_another_repository_takes_another_token() -> None:
    auth = BearerAuth(USERS, anonymous=False)
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        registry.add_image(REPOSITORY, "latest")
        registry.add_image("other/demo", "latest")
        await resolve(opened, registry, ANN)
        await resolve(opened, registry, ANN, "other/demo:latest")
        assert [scopes for _, scopes in auth.issued.values()] == [
            frozenset({f"repository:{REPOSITORY}:pull"}),
            frozenset({"repository:other/demo:pull"}),
        ]


async def test_a_mirror_of_two_registries_takes_a_token_for_each(tmp_path: Path) -> None:
    """What it grants for one of them may be no good for the other, of the same names."""
    auth, registries = BearerAuth(), ("one.example", "two.example")
    async with FaultRegistry(auth=auth) as mirror:
        mirror.add_image(REPOSITORY, "latest")
        for registry in registries:
            write_hosts(tmp_path, registry, f'[host."{mirror.url}"]')
        async with client(config_path=tmp_path) as opened:
            for registry in registries:
                await resolve(opened, registry)
        assert len(auth.issued) == 2


async def test_a_cancelled_pull_does_not_keep_others_from_their_token() -> None:
    auth = BearerAuth(USERS, anonymous=False)
    async with FaultRegistry(auth=auth) as registry, client() as opened:
        image = registry.add_image(REPOSITORY, "latest")
        registry.faults.append(stall(-1, where=TOKEN, times=1))
        first = asyncio.create_task(resolve(opened, registry, ANN))
        await registry.until(lambda: bool(registry.gets(TOKEN)))
        second = asyncio.create_task(resolve(opened, registry, ANN))
        await registry.until(lambda: len(registry.gets(MANIFEST)) == 2)
        first.cancel()
        assert (await second).descriptor == image.manifest
        with pytest.raises(asyncio.CancelledError):
            await first


# --- why ------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [401, 403])
@pytest.mark.parametrize("name", ["error_description", "error"])
async def test_what_a_challenge_says_of_a_refusal_is_told(code: int, name: str) -> None:
    headers = {"WWW-Authenticate": f'Bearer {name}="not with {MARK}-t"'}
    async with FaultRegistry() as registry, client() as opened:
        registry.faults.append(status(code, headers=headers, body=b""))
        with pytest.raises(RegistryError, match=r"not with \[secret\]") as caught:
            await resolve(opened, registry, Credentials(registrytoken=f"{MARK}-t"))
        assert MARK not in str(caught.value)


async def test_why_a_stranger_is_refused_is_told() -> None:
    headers = {"WWW-Authenticate": 'Basic realm="x"'}
    async with FaultRegistry() as registry, client() as opened:
        registry.faults.append(status(401, headers=headers))
        with pytest.raises(
            RegistryError, match=r"scripted 401.*no credentials were given"
        ) as caught:
            await resolve(opened, registry)
        assert caught.value.attempts[0].codes == ("SCRIPTED",)
