"""A configuration file is read to typed options, or refused with the key's whole path."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cri_imaged.config import (
    Config,
    ListenAddress,
    default_config,
    default_config_file,
    load_config,
)
from cri_imaged.config.load import known_keys
from cri_imaged.config.render import default_toml, keys, reference_page
from cri_imaged.errors import ConfigError
from cri_imaged.oci.pattern import NamePattern
from cri_imaged.oci.platform import Platform
from cri_imaged.oci.reference import Reference
from tests.support.leaks import MARK

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def load(tmp_path: Path, text: str, **overrides: Any) -> Config:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return load_config(file, privileged=True, overrides=overrides)


def problems(tmp_path: Path, text: str) -> list[str]:
    """What is wrong with `text`, each without the file's name."""
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, text)
    lines = str(raised.value).splitlines()
    prefix = f"{tmp_path / 'config.toml'}: "
    assert all(line.startswith(prefix) for line in lines)
    return [line.removeprefix(prefix) for line in lines]


def test_defaults_are_containerds() -> None:
    image = default_config(privileged=True).image
    assert image.max_concurrent_downloads == 3
    assert image.image_pull_progress_timeout == 300
    assert image.discard_unpacked_layers is False
    assert image.stats_collect_period == 10
    assert str(image.pinned_images["sandbox"]) == "registry.k8s.io/pause:3.10.2"


def test_roots_folders_are_the_systems() -> None:
    config = default_config(privileged=True)
    assert str(config.root) == "/var/lib/cri-imaged"
    assert str(config.grpc.address) == "/run/cri-imaged/cri-imaged.sock"
    assert default_config_file(privileged=True) == Path("/etc/cri-imaged/config.toml")


def test_a_users_folders_are_the_xdg_base_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/runtime")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/conf")
    config = default_config(privileged=False)
    assert str(config.root) == "/data/cri-imaged"
    assert str(config.state) == "/runtime/cri-imaged"
    assert str(config.grpc.address) == "/runtime/cri-imaged/cri-imaged.sock"
    assert (config.grpc.uid, config.grpc.gid) == (os.getuid(), os.getgid())
    assert default_config_file(privileged=False) == Path("/conf/cri-imaged/config.toml")


def test_xdg_folders_that_are_unset_or_relative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    config = default_config(privileged=False)
    assert str(config.root) == "/home/me/.local/share/cri-imaged"
    assert str(config.grpc.address) == "/home/me/.local/state/cri-imaged/cri-imaged.sock"


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    # As in a container that runs under a number which its passwd file does not know.
    for variable in ("HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(ConfigError, match="no home directory: set HOME or XDG_"):
        default_config(privileged=False)


def test_every_kind_of_value(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
        root = "/data"
        [grpc]
        address = "unix:///run/x.sock"
        gid = 27
        [metrics]
        address = "[::1]:9090"
        [debug]
        level = "warn"
        format = "console"
        [image]
        snapshotter = "native"
        max_concurrent_downloads = 8
        image_pull_progress_timeout = "1m30s"
        discard_unpacked_layers = true
        disk_reserve = "2GiB"
        [image.pinned_images]
        mine = "busybox"
        team = "r.example/team/*"
        [image.registry.headers]
        X-Node = ["a", "b"]
        [image.registry.configs."r.example:5000".auth]
        username = "u"
        [image.runtime_platforms.kata]
        platform = "linux/x86_64"
        snapshotter = "overlay"
        [image.bandwidth]
        bytes_per_second = "20MiB"
        [[image.bandwidth.times]]
        begin = "22:00"
        end = "06:00"
        [image.limits]
        layers = 20
        retry_seconds = 5
        """,
    )
    assert str(config.root) == "/data"
    assert str(config.grpc.address) == "/run/x.sock"
    assert (config.grpc.uid, config.grpc.gid) == (0, 27)
    assert config.metrics.address == ListenAddress("::1", 9090)
    assert config.debug.level == "warn"
    assert config.image.snapshotter == "native"
    assert config.image.image_pull_progress_timeout == 90
    assert config.image.disk_reserve == 2 << 30
    assert config.image.pinned_images == {
        "mine": Reference("docker.io", "library/busybox", "latest"),
        "team": NamePattern("r.example/team/*"),
    }
    assert list(config.image.required_images) == ["mine"]
    assert config.image.registry.headers == {"X-Node": ["a", "b"]}
    auth = config.image.registry.configs["r.example:5000"].auth
    assert auth is not None
    assert auth.username == "u"
    kata = config.image.runtime_platforms["kata"]
    assert kata.platform == Platform("linux", "amd64")
    caps = [config.image.bandwidth.at(hour * 60) for hour in (5, 6, 21, 22)]
    assert caps == [0, 20 << 20, 20 << 20, 0]
    assert config.image.limits.layers == 20
    assert config.image.limits.retry_seconds == 5.0


WRONG = {
    "image.max_concurrent_downloads": ('[image]\nmax_concurrent_downloads = "3"', "got str"),
    "image.discard_unpacked_layers": ("[image]\ndiscard_unpacked_layers = 1", "got int"),
    "image.stats_collect_period": ("[image]\nstats_collect_period = 0", ">= 1"),
    "image.image_pull_progress_timeout": ("[image]\nimage_pull_progress_timeout = 5", "got int"),
    "image.disk_reserve": ('[image]\ndisk_reserve = "5%"', "malformed"),
    "image.snapshotter": ('[image]\nsnapshotter = "zfs"', '"overlay", "native", "erofs"'),
    "image.runtime_platforms.vm.snapshotter": (
        '[image.runtime_platforms.vm]\nsnapshotter = "lazi"\n[proxy_snapshotters.lazy]',
        '"overlay", "native", "erofs", "lazy"',
    ),
    "proxy_snapshotters.native": ("[proxy_snapshotters.native]", "a snapshotter of ours"),
    'image.bandwidth.registries."https://a.b"': (
        '[image.bandwidth.registries]\n"https://a.b" = 1',
        "no host",
    ),
    'image.bandwidth.registries."ghcr.io:443"': (
        '[image.bandwidth.registries]\n"ghcr.io" = 1\n"a.b" = 2\n"ghcr.io:443" = 2',
        'the same as "ghcr.io", which says something else',
    ),
    'image.registry.configs."index.docker.io"': (
        '[image.registry.configs]\n"docker.io" = {auth = {username = "a"}}\n'
        '"docker.io/b" = {auth = {username = "b"}}\n'
        '"index.docker.io" = {auth = {username = "b"}}',
        'the same as "docker.io", which says something else',
    ),
    "image.bandwidth.times[0].begin": (
        '[[image.bandwidth.times]]\nbegin = "8:00"',
        "malformed, want for example 08:30",
    ),
    "image.verification.policy[0].match": (
        '[[image.verification.policy]]\nmatch = "R.Example:443/team"',
        "want for example 'r.example/team'",
    ),
    "image.gc.max_age": ('[image.gc]\nmax_age = "5m"', "below 10m"),
    "image.preload.directory": ('[image.preload]\ndirectory = "x"', "not absolute"),
    "image.preload.images[0]": ('[image.preload]\nimages = ["UPPER"]', "lower case"),
    "image.preload.runtime_handlers": (
        '[image.preload]\nruntime_handlers = ["kata"]',
        "'kata' has no table [image.runtime_platforms.NAME]",
    ),
    "image.preload.refresh[0]": ('[image.preload]\nrefresh = ["25:00"]', "malformed"),
    "image.limits.layers": ("[image.limits]\nlayers = -1", "out of range"),
    "image.limits.retry_seconds": ("[image.limits]\nretry_seconds = nan", "out of range"),
    "image.limits": ("[image]\nlimits = 3", "expected a table, got int"),
    "image.pinned_images.a": ('[image.pinned_images]\na = "UPPER"', "lower case"),
    "image.pinned_images.b": ('[image.pinned_images]\nb = "busy*"', "whole"),
    "image.registry.headers.X": ("[image.registry.headers]\nX = [1]", "at [0]"),
    'image.registry.configs."a:1".auth.user': (
        '[image.registry.configs."a:1".auth]\nuser = "u"',
        'did you mean image.registry.configs."a:1".auth.username?',
    ),
    "image.runtime_platforms.k.platform": (
        '[image.runtime_platforms.k]\nplatform = "linux"',
        "os/architecture",
    ),
    "grpc.uid": ("[grpc]\nuid = true", "got bool"),
    "grpc.adress": ('[grpc]\nadress = "/x"', "did you mean grpc.address?"),
    "root": ('root = "relative"', "not absolute"),
    "config_path": ('config_path = "/x"', "did you mean image.registry.config_path?"),
    "plugins": ("[plugins]\n", "unknown key"),
}


@pytest.mark.parametrize("key", WRONG)
def test_what_is_wrong_is_named_with_its_whole_path(key: str, tmp_path: Path) -> None:
    text, said = WRONG[key]
    [problem] = problems(tmp_path, text)
    assert problem.startswith(f"{key}: ")
    assert said in problem


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    text = '[grpc]\nuid = "x"\nnope = 1\n[debug]\nlevel = "loud"'
    assert [problem.partition(":")[0] for problem in problems(tmp_path, text)] == [
        "grpc.uid",
        "grpc.nope",
        "debug.level",
    ]


def test_a_secret_is_not_repeated(tmp_path: Path) -> None:
    text = f'[image.registry.configs."r".auth]\npassword = ["{MARK}"]\nx = "{MARK}"'
    assert MARK not in "".join(problems(tmp_path, text))


def test_what_is_no_toml_is_named_with_its_line(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, "[grpc]\naddress = x\n")
    assert "line 2" in problem


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        load_config(tmp_path / "none.toml", privileged=True)
    (tmp_path / "latin").write_bytes(b"root = '\xff'")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 8"):
        load_config(tmp_path / "latin", privileged=True)


def test_options_of_the_command_line_go_above_the_file(tmp_path: Path) -> None:
    text = 'root = "/a"\n[grpc]\naddress = "/a.sock"\ngid = 5'
    config = load(tmp_path, text, grpc={"address": "/b.sock"})
    assert str(config.grpc.address) == "/b.sock"
    assert (str(config.root), config.grpc.gid) == ("/a", 5)
    with pytest.raises(ConfigError, match=r"^command line: grpc\.address: path 'x' is not"):
        load(tmp_path, text, grpc={"address": "x"})


# --- any input at all -------------------------------------------------------------------------

toml_values = st.recursive(
    st.one_of(st.text(max_size=5), st.integers(), st.booleans(), st.floats(), st.dates()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["auth", "a", "username", "platform"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.sampled_from(known_keys(Config)), toml_values)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_value_under_any_key_gives_a_config_or_names_the_key(key: str, value: Any) -> None:
    document: dict[str, Any] = {}
    *tables, name = key.split(".")
    inner = document
    for table in tables:
        inner = inner.setdefault(table, {})
    inner[name] = value
    named: list[str] = []
    try:
        load_config(None, privileged=True, overrides=document)
    except ConfigError as error:
        named = str(error).splitlines()
    assert all(line.startswith(f"command line: {key}") for line in named)


@given(st.dictionaries(st.text(max_size=6), toml_values, max_size=3))
def test_unknown_tables_are_always_refused(document: Mapping[str, Any]) -> None:
    unknown = {key: value for key, value in document.items() if key not in Config.__struct_fields__}
    if unknown:
        with pytest.raises(ConfigError, match="unknown key"):
            load_config(None, privileged=True, overrides=unknown)


# --- what is written --------------------------------------------------------------------------


@pytest.mark.parametrize("privileged", [True, False])
def test_the_rendered_default_is_the_default(privileged: bool, tmp_path: Path) -> None:
    text = default_toml(default_config(privileged))
    tomllib.loads(text)
    file = tmp_path / "config.toml"
    file.write_text(text)
    assert load_config(file, privileged=privileged) == default_config(privileged)


def test_a_rendered_example_is_valid_once_its_comment_signs_are_gone(tmp_path: Path) -> None:
    lines = default_toml(default_config(privileged=True)).splitlines()
    used = [
        line.removeprefix("# ")
        for line in lines
        if line.startswith("# [") or (line.startswith("# ") and " = " in line)
    ]
    config = load(tmp_path, "\n".join(used))
    assert list(config.image.runtime_platforms) == ["NAME"]
    assert list(config.image.registry.configs) == ["HOST"]


def test_every_known_key_is_rendered() -> None:
    rendered = {
        f"{key.table}.{key.name}".lstrip(".") for key in keys(default_config(privileged=True))
    }
    user_tables = {
        "image.bandwidth.times",
        "image.registry.configs",
        "image.runtime_platforms",
        "image.verification.policy",
        "proxy_snapshotters",
    }
    assert set(known_keys(Config)) - rendered == user_tables


def test_every_key_is_described() -> None:
    assert [key.name for key in keys(default_config(privileged=True)) if not key.description] == []


def test_the_readmes_table_is_the_code() -> None:
    assert reference_page() == PAGE.read_text(), (
        "`make docs`: docs/configuration.md is generated from the options' docstrings"
    )


def test_options_cannot_be_changed() -> None:
    config = default_config(privileged=True)
    with pytest.raises(AttributeError):
        config.image.snapshotter = "native"  # type: ignore[misc]
    assert msgspec.structs.replace(config, root=Path("/x")).root == Path("/x")


@pytest.mark.parametrize("address", ["", "0.0.0.0:9091", ":9091", "node.example:9091"])
def test_the_page_is_for_this_machine_alone(tmp_path: Path, address: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f'[metrics]\naddress = "{address}"\npage = true\n')
    with pytest.raises(ConfigError, match=r"metrics\.page: shows .* loopback address alone"):
        load_config(file, privileged=True)
    file.write_text(f'[metrics]\naddress = "{address}"\npage = true\npage_socket = "/run/p.sock"\n')
    assert load_config(file, privileged=True).metrics.page
    file.write_text('[metrics]\npage_socket = "/run/p.sock"\n')
    with pytest.raises(ConfigError, match=r"metrics\.page_socket: .* want page = true"):
        load_config(file, privileged=True)
    file.write_text('[metrics]\naddress = "[::1]:9091"\npage = true\n')
    assert load_config(file, privileged=True).metrics.page


def test_a_host_may_be_named_twice_where_both_say_the_same(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[image.bandwidth.registries]\n"ghcr.io" = 1024\n"GHCR.io:443" = "1KiB"\n')
    assert len(load_config(file, privileged=True).image.bandwidth.registries) == 2
