"""The kubelet's credential providers: who is asked for what, for how long answers count, and what
becomes of those that fail."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri_imaged.errors import ConfigError, RegistryError
from cri_imaged.ports import Credentials
from cri_imaged.registry.auth.login import ANONYMOUS
from cri_imaged.registry.auth.provider import CredentialProvider, ProviderError, parse_answer
from cri_imaged.registry.auth.provider_config import Provider, matches, read_providers
from cri_imaged.registry.auth.providers import ProvidersFile
from cri_imaged.registry.options import RegistryOptions
from tests.registry.helpers import REPOSITORY, client, read, resolve, write_hosts
from tests.support.credential_provider import API, entry, write_config
from tests.support.credential_provider import Provider as Plugin
from tests.support.daemon import Daemon
from tests.support.leaks import MARK
from tests.support.registry import BLOB, BasicAuth, FaultRegistry, redirect

SECRET = f"{MARK}-provided"
USERS = {"ann": f"{MARK}-a", "node": SECRET}


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    return Plugin(tmp_path / "bin", password=SECRET)


def options(config: Path, plugin: Plugin) -> dict[str, str]:
    return {
        "credential_provider_config": str(config),
        "credential_provider_bin_dir": str(plugin.folder),
    }


# --- whole pulls ------------------------------------------------------------------------------


async def test_it_is_asked_for_what_no_other_login_covers(tmp_path: Path, plugin: Plugin) -> None:
    async with FaultRegistry(auth=BasicAuth(USERS)) as registry:
        image = registry.add_image(REPOSITORY, "latest")
        plugin.gives(registry.authority)
        config = write_config(tmp_path / "c.yaml", entry("plugin", [registry.authority]))
        async with client(**options(config, plugin)) as opened:
            ann = Credentials(username="ann", password=USERS["ann"])
            await resolve(opened, registry, ann)
            assert plugin.asked == []
            assert (await resolve(opened, registry)).descriptor == image.manifest
        # Named as the kubelet names it: without tag.
        assert plugin.asked == [f"{registry.authority}/{REPOSITORY}"]


async def test_a_public_image_is_pulled_though_it_fails(tmp_path: Path, plugin: Plugin) -> None:
    plugin.answers(f"echo {SECRET}; echo {SECRET} >&2; exit 3")
    async with FaultRegistry() as public, FaultRegistry(auth=BasicAuth(USERS)) as private:
        image = public.add_image(REPOSITORY, "latest")
        config = write_config(tmp_path / "c.yaml", entry("plugin", ["127.0.0.1"], args=["x"]))
        text = config.read_text().replace("- 127.0.0.1", f"- {private.authority}")
        config.write_text(text)
        async with client(**options(config, plugin)) as opened:
            assert (await resolve(opened, public)).descriptor == image.manifest
            with pytest.raises(RegistryError, match=r"plugin: failed with status 3") as caught:
                await resolve(opened, private)
    assert MARK not in str(caught.value)


async def test_one_that_fails_is_asked_once_for_a_pull_and_again_for_the_next(
    tmp_path: Path, plugin: Plugin
) -> None:
    """A registry that denies what it has wants a login for each request, as far as can be seen."""
    plugin.answers("exit 3")
    async with FaultRegistry() as registry:
        known = registry.add_image("elsewhere", "latest").manifest
        config = write_config(tmp_path / "c.yaml", entry("plugin", [registry.authority]))
        async with client(**options(config, plugin)) as opened:
            for pulls in (1, 2):
                with pytest.raises(RegistryError, match="plugin: failed with status 3"):
                    await resolve(opened, registry, known=known)  # by HEAD, then by GET
                assert len(plugin.asked) == pulls


async def test_the_daemon_that_asks_it_logs_json_alone(tmp_path: Path, plugin: Plugin) -> None:
    async with FaultRegistry(auth=BasicAuth(USERS)) as registry:
        image = registry.add_image(REPOSITORY, "latest")
        plugin.gives(registry.authority)
        config = write_config(tmp_path / "c.yaml", entry("plugin", [registry.authority]))
        keys = [f"{key} = {json.dumps(value)}" for key, value in options(config, plugin).items()]
        more = "\n".join(["[image.registry]", *keys])
        daemon = Daemon(tmp_path / "d", snapshotter="native", image_options=more)
        try:
            await asyncio.to_thread(daemon.start)
            name = f"{registry.authority}/{REPOSITORY}"
            pulled = await daemon.pull_meanwhile(name, within=30)
        finally:
            await asyncio.to_thread(daemon.stop)
        assert pulled == image.config.digest
        assert plugin.asked == [name]
    assert [line for line in daemon.log().splitlines() if not line.startswith("{")] == []


async def test_a_mirror_is_asked_for_by_its_own_name(tmp_path: Path, plugin: Plugin) -> None:
    async with FaultRegistry(auth=BasicAuth(USERS)) as mirror:
        mirror.add_image(REPOSITORY, "latest")
        plugin.gives(mirror.authority)
        config = write_config(tmp_path / "c.yaml", entry("plugin", [mirror.authority]))
        hosts = f'server = "http://127.0.0.1:1"\n[host."{mirror.url}"]\n'
        write_hosts(tmp_path, "registry.example", hosts)
        async with client(config_path=tmp_path, **options(config, plugin)) as opened:
            await resolve(opened, "registry.example")
        assert plugin.asked == [f"{mirror.authority}/{REPOSITORY}"]


async def test_it_is_not_asked_for_where_a_registry_redirects(
    tmp_path: Path, plugin: Plugin
) -> None:
    async with FaultRegistry() as registry, FaultRegistry(auth=BasicAuth(USERS)) as storage:
        layer = registry.add_image(REPOSITORY, "latest", [b"layer"]).layers[0]
        storage.share(registry)
        target = f"{storage.url}/v2/{REPOSITORY}/blobs/{layer.digest}"
        registry.faults.append(redirect(target, where=BLOB))
        plugin.gives(storage.authority)
        config = write_config(tmp_path / "c.yaml", entry("plugin", [storage.authority]))
        async with client(**options(config, plugin)) as opened:
            resolved = await resolve(opened, registry)
            with pytest.raises(RegistryError, match="no credentials were given"):
                await read(resolved.fetcher, layer)
    assert plugin.asked == []


async def test_a_malformed_configuration_is_named(tmp_path: Path, plugin: Plugin) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"providers: [env: {SECRET}\n")
    async with FaultRegistry(auth=BasicAuth(USERS)) as registry:
        registry.add_image(REPOSITORY, "latest")
        async with client(**options(config, plugin)) as opened:
            with pytest.raises(ConfigError, match=r"c\.yaml: .*malformed YAML, line") as caught:
                await resolve(opened, registry)
            assert MARK not in str(caught.value)
            # Read again once it is mended.
            plugin.gives(registry.authority)
            write_config(config, entry("plugin", [registry.authority]))
            await resolve(opened, registry)


def test_the_folder_of_programs_is_needed() -> None:
    with pytest.raises(ValueError, match="credential_provider_bin_dir"):
        RegistryOptions(credential_provider_config="/c.yaml")


# --- one program ------------------------------------------------------------------------------


def provider(plugin: Plugin, clock: list[float], **more: object) -> CredentialProvider:
    table = entry("plugin", ["*.example"], **more)
    return CredentialProvider(
        plugin.folder, msgspec.convert(table, Provider), clock=lambda: clock[0]
    )


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("Image", ["a.example/x", "a.example/y", "b.example/x"]),
        ("Registry", ["a.example/x", "b.example/x"]),
        ("Global", ["a.example/x"]),
    ],
)
async def test_for_which_images_an_answer_counts(
    plugin: Plugin, kind: str, asked: list[str]
) -> None:
    plugin.gives("*.example", kind=kind)
    one = provider(plugin, [0.0])
    for image in ("a.example/x", "a.example/y", "b.example/x", "a.example/x"):
        assert not (await one.login(image)).anonymous
    assert plugin.asked == asked


@pytest.mark.parametrize(
    ("said", "default", "seconds"),
    [("1m", "10m", 60), (None, "5s", 5), ("0s", "10m", 0), (None, "0s", 0)],
)
async def test_how_long_an_answer_counts(
    plugin: Plugin, said: str | None, default: str, seconds: float
) -> None:
    plugin.gives("*.example", duration=said)
    clock = [100.0]
    one = provider(plugin, clock, defaultCacheDuration=default)
    await one.login("a.example/x")
    clock[0] += seconds - 0.5 if seconds else 0
    await one.login("a.example/x")
    assert len(plugin.asked) == (1 if seconds else 2)
    clock[0] += 1
    await one.login("a.example/x")
    assert len(plugin.asked) == (2 if seconds else 3)


async def test_pulls_at_the_same_time_ask_once(plugin: Plugin) -> None:
    plugin.gives("*.example")
    one = provider(plugin, [0.0])
    logins = await asyncio.gather(*(one.login("a.example/x") for _ in range(5)))
    assert {login.username for login in logins} == {"node"}
    assert plugin.asked == ["a.example/x"]


async def test_its_arguments_and_environment(
    plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OURS", "ours")
    answer = '{"kind":"CredentialProviderResponse","apiVersion":"%s","cacheKeyType":"Image",'
    auth = '"auth":{"a.example":{"username":"%s-%s-%s","password":"p"}}}'
    plugin.answers(f"""printf '{answer}{auth}' {API} "$1" "$THEIRS" "$OURS" """)
    one = provider(plugin, [0.0], args=["first"], env=[{"name": "THEIRS", "value": "theirs"}])
    assert (await one.login("a.example/x")).username == "first-theirs-ours"


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("exit 1", "failed with status 1"),
        ("exit 0", "did not answer with"),
        (f'echo \'{{"password": "{SECRET}"}}\'', "did not answer with"),
        ("head -c 3000000 /dev/zero", "did not answer with"),
        (
            'echo \'{"kind":"CredentialProviderResponse","apiVersion":"v9",'
            '"cacheKeyType":"Image"}\'',
            "answered in another API version",
        ),
    ],
)
async def test_programs_that_fail(plugin: Plugin, script: str, problem: str) -> None:
    plugin.answers(script)
    with pytest.raises(ProviderError, match=f"bin/plugin: {problem}") as caught:
        await provider(plugin, [0.0]).login("a.example/x")
    assert MARK not in str(caught.value)


async def test_a_program_that_is_not_there(plugin: Plugin) -> None:
    with pytest.raises(ProviderError, match="bin/plugin: cannot be run: No such file"):
        await provider(plugin, [0.0]).login("a.example/x")


async def test_who_wants_a_pods_token_is_left_to_the_kubelet(plugin: Plugin) -> None:
    plugin.gives("*.example")
    attributes = {"serviceAccountTokenAudience": "a", "requireServiceAccount": True}
    one = provider(plugin, [0.0], tokenAttributes=attributes)
    assert await one.login("a.example/x") == ANONYMOUS
    assert plugin.asked == []


async def test_the_first_of_several_that_has_a_login(tmp_path: Path, plugin: Plugin) -> None:
    first, second = (Plugin(plugin.folder, name, name, SECRET) for name in ("first", "second"))
    third = Plugin(plugin.folder, "third", "third", SECRET)
    first.answers("exit 1")
    second.gives("other.example")
    third.gives("a.example")
    names = ("first", "second", "third")
    config = write_config(tmp_path / "c.yaml", *(entry(name, ["*.example"]) for name in names))
    found = ProvidersFile(config, plugin.folder).read()
    assert (await found.login("a.example/x")).username == "third"
    assert "first: failed" in (await found.login("b.example/x")).problem


# --- the rules --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("glob", "image", "fits"),
    [
        ("registry.example", "registry.example/a/b", True),
        ("registry.example/a", "registry.example/a/b", True),
        ("registry.example/a", "registry.example/ab", True),
        ("registry.example/b", "registry.example/a/b", False),
        ("*.example", "registry.example/a", True),
        ("*.example", "a.b.example/a", False),
        ("*.*.example", "a.b.example/a", True),
        ("app*.example", "app7.example/a", True),
        ("registry.*", "registry.example/a", True),
        ("*.dkr.ecr.*.amazonaws.com", "12.dkr.ecr.eu-west-1.amazonaws.com/a", True),
        ("registry.example", "registry.example:5000/a", False),
        ("registry.example:5000", "registry.example:5000/a", True),
        ("registry.example:*", "registry.example:5000/a", False),
        ("docker.io", "docker.io/library/busybox", True),
        ("registry.example/*", "registry.example/a", False),
    ],
)
def test_which_images_an_entry_stands_for(glob: str, image: str, fits: bool) -> None:
    assert matches(glob, image) is fits


@given(st.lists(st.from_regex(r"[a-z0-9-]{1,5}", fullmatch=True), min_size=1, max_size=4))
def test_as_many_stars_as_labels_stand_for_any_host(labels: list[str]) -> None:
    image = f"{'.'.join(labels)}/x"
    assert matches(".".join("*" * len(labels)), image)
    assert not matches(".".join("*" * (len(labels) + 1)), image)


@pytest.mark.parametrize(
    ("keys", "chosen"),
    [
        (["a.example", "a.example/team"], "a.example/team"),
        (["*.example", "b.example"], "*.example"),
        (["b.example"], None),
        (["https://a.example/v2/"], "https://a.example/v2/"),
    ],
)
def test_the_nearest_key_of_an_answer(keys: list[str], chosen: str | None) -> None:
    auth = {key: {"username": key, "password": "p"} for key in keys}
    text = {"kind": "CredentialProviderResponse", "apiVersion": API, "cacheKeyType": "Image"}
    answer = parse_answer(json.dumps({**text, "auth": auth}).encode(), API)
    assert answer.login("a.example/team/app").username == (chosen or "")


def test_docker_hub_by_its_old_name() -> None:
    text = {"kind": "CredentialProviderResponse", "apiVersion": API, "cacheKeyType": "Image"}
    auth = {"https://index.docker.io/v1/": {"username": "hub", "password": "p"}}
    answer = parse_answer(json.dumps({**text, "auth": auth}).encode(), API)
    assert answer.login("docker.io/library/busybox").username == "hub"


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: json.dumps(text).encode()))
def test_any_output_is_an_answer_or_refused(output: bytes) -> None:
    with pytest.raises(ProviderError):
        parse_answer(output, API)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": "../sh"}, "name"),
        ({"name": "a\0"}, "name"),
        ({"args": ["a\0"]}, "args"),
        ({"env": [{"name": "A", "value": "a\0"}]}, "value"),
        ({"matchImages": []}, "matchImages"),
        ({"apiVersion": "v9"}, "apiVersion"),
        ({"defaultCacheDuration": "soon"}, "duration 'soon' is malformed"),
        ({"defaultCacheDuration": None}, "defaultCacheDuration"),
    ],
)
def test_a_configuration_that_the_kubelet_would_refuse(
    tmp_path: Path, change: dict[str, object], problem: str
) -> None:
    file = write_config(tmp_path / "c.yaml", {**entry("a", ["b"]), **change})
    with pytest.raises(ConfigError, match=rf"c\.yaml: .*{problem}"):
        read_providers([file])


@given(text=st.binary(max_size=100))
def test_any_file_is_a_configuration_or_refused(
    tmp_path_factory: pytest.TempPathFactory, text: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(text)
    with pytest.raises(ConfigError, match=r"any\.yaml: is no CredentialProviderConfig"):
        read_providers([file])


def test_a_folder_of_configurations(tmp_path: Path, plugin: Plugin) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    write_config(folder / "b.yml", entry("b", ["b.example"]))
    (folder / "README").write_text("no configuration")
    file = ProvidersFile(folder, plugin.folder)
    first = file.read()
    assert file.read() is first
    write_config(folder / "a.json", entry("a", ["a.example"]))
    assert file.read() is not first
    write_config(folder / "c.yaml", entry("a", ["c.example"]))
    with pytest.raises(ConfigError, match="two providers 'a'"):
        read_providers(sorted(folder.glob("*.*")))
