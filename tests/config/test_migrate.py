"""Other programs' configuration becomes ours, and what cannot is listed."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from cri_imaged.config import load_config
from cri_imaged.config.migrate import Migration, migrate
from cri_imaged.errors import ConfigError
from cri_imaged.registry.hosts.host import Capability, Host
from cri_imaged.registry.hosts.toml import parse_hosts
from tests.support.containerd import CACHE, VERSIONS
from tests.support.daemon import PROGRAM
from tests.support.require import require_real


def hosts_of(migration: Migration, registry: str) -> list[Host]:
    """The registry's hosts, as its migrated hosts.toml is read."""
    text = tomli_w.dumps(migration.hosts[registry].document())
    return list(parse_hosts(text, Path("hosts.toml"), registry))


def left(migration: Migration) -> list[str]:
    return [each.key for each in migration.left]


K3S = """
mirrors:
  docker.io:
    endpoint: ["https://mirror.example:5000", "https://harbor.example/v2/proxy"]
    rewrite: {"^library/(.*)": "proxy/$1"}
  "*":
    endpoint: ["any.example", "127.0.0.1:5000"]
  quay.io:
configs:
  mirror.example:5000:
    auth: {username: me, password: secret}
    tls: {ca_file: /ca.pem, cert_file: /cert.pem, key_file: /key.pem}
  registry.example:
    tls: {insecure_skip_verify: true}
  "*":
    auth: {username: anyone}
    tls: {ca_file: /all.pem}
"""


def test_k3s() -> None:
    migration = migrate({"registries.yaml": K3S})
    login = {"username": "me", "password": "secret"}
    configs = {"mirror.example:5000": {"auth": login}}
    assert migration.settings == {"image": {"registry": {"configs": configs}}}
    first, second, hub = hosts_of(migration, "docker.io")
    assert (first.authority, first.path) == ("mirror.example:5000", "/v2")
    assert (second.authority, second.path) == ("harbor.example", "/v2/proxy")
    assert first.tls.authorities
    assert first.tls.clients
    assert not second.tls.configured
    assert first.rewrites[0].apply("library/busybox") == "proxy/busybox"
    assert hub.authority == "registry-1.docker.io"
    any_host, local, _ = hosts_of(migration, "_default")
    assert (any_host.scheme, local.scheme) == ("https", "http")
    assert hosts_of(migration, "registry.example")[-1].tls.skip_verify
    assert left(migration) == [
        'configs."*".auth.username',
        'configs."*".tls',
        'mirrors."quay.io"',
    ]
    assert "anyone" not in str(migration.left)


CONTAINERD_2 = """
version = 2
root = "/var/lib/containerd"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "registry.example/pause:1"
max_concurrent_downloads = 7
enable_selinux = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
discard_unpacked_layers = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nydus]
snapshotter = "nydus"
[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]
endpoint = ["https://mirror.example"]
[plugins."io.containerd.grpc.v1.cri".registry.configs."mirror.example".tls]
insecure_skip_verify = true
[plugins."io.containerd.grpc.v1.cri".registry.configs."mirror.example".auth]
identitytoken = "refresh"
"""


def test_containerd_before_2() -> None:
    migration = migrate({"config.toml": CONTAINERD_2})
    login = {"identitytoken": "refresh"}
    assert migration.settings["image"] == {
        "pinned_images": {"sandbox": "registry.example/pause:1"},
        "max_concurrent_downloads": 7,
        "discard_unpacked_layers": True,
        "snapshotter": "overlay",
        "runtime_platforms": {"kata": {"snapshotter": "native"}, "nydus": {"snapshotter": ""}},
        "registry": {"configs": {"mirror.example": {"auth": login}}},
    }
    assert hosts_of(migration, "docker.io")[0].tls.skip_verify
    assert [key.rpartition("runtimes.")[2] for key in left(migration)] == ["nydus.snapshotter"]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_containerd_itself_prints(version: str) -> None:
    program = CACHE / f"containerd-{version}" / "containerd"
    require_real(program.exists(), f"containerd {version} is not built (`make real`)")
    text = subprocess.run(
        [program, "config", "default"], capture_output=True, text=True, check=True
    ).stdout
    migration = migrate({"-": text})
    theirs = tomllib.loads(text)["plugins"]["io.containerd.cri.v1.images"]
    ours = migration.settings["image"]
    assert ours["pinned_images"] == theirs["pinned_images"]
    assert ours["image_pull_progress_timeout"] == theirs["image_pull_progress_timeout"]
    assert ours["snapshotter"] == "overlay"
    assert ours["runtime_platforms"] == {"runc": {"snapshotter": ""}}, "no handler is refused"


def test_crio_and_its_registries() -> None:
    migration = migrate(
        {
            "crio.conf": """
                [crio]
                root = "/var/lib/containers/storage"
                [crio.image]
                pause_image = "registry.example/pause:2"
                pinned_images = ["registry.example/a:1"]
                global_auth_file = "/etc/auth.json"
                insecure_registries = ["plain.example:5000", "10.0.0.0/8"]
                signature_policy = "/etc/policy.json"
                [crio.runtime.runtimes.crun]
                runtime_path = "/usr/bin/crun"
            """,
            "registries.conf": """
                unqualified-search-registries = ["quay.io", "docker.io"]
                [aliases]
                "fedora" = "registry.fedoraproject.org/fedora"
                "off" = ""
                "app" = "app"
                "registry.example/app" = "other.example/app"
                [[registry]]
                location = "docker.io"
                mirror-by-digest-only = true
                [[registry.mirror]]
                location = "mirror.example/hub"
                [[registry]]
                location = "evil.example"
                blocked = true
                [[registry]]
                prefix = "registry.example/team"
                location = "other.example/team"
            """,
        }
    )
    image = migration.settings["image"]
    assert image["pinned_images"] == {
        "sandbox": "registry.example/pause:2",
        "crio-1": "registry.example/a:1",
    }
    assert image["registry"]["docker_config"] == "/etc/auth.json"
    assert image["registry"]["aliases"] == {"fedora": "registry.fedoraproject.org/fedora"}
    assert image["runtime_platforms"] == {"crun": {"snapshotter": ""}}
    mirror = hosts_of(migration, "docker.io")[0]
    assert (mirror.authority, mirror.path) == ("mirror.example", "/v2/hub")
    assert mirror.capabilities == Capability.PULL
    assert [host.scheme for host in hosts_of(migration, "plain.example:5000")] == ["https", "http"]
    assert migration.hosts["evil.example"].blocked
    assert left(migration) == [
        "crio.image.insecure_registries",
        "crio.image.signature_policy",
        "unqualified-search-registries",
        "aliases.app",
        'aliases."registry.example/app"',
        "registry.prefix",
    ]


def test_the_first_version_of_registries_conf() -> None:
    migration = migrate(
        {
            "registries.conf": """
                [registries.search]
                registries = ["docker.io", "quay.io"]
                [registries.insecure]
                registries = ["plain.example:5000", "both.example", "10.0.0.0/8"]
                [registries.block]
                registries = ["both.example", "evil.example", "docker.io/library"]
            """
        }
    )
    assert [host.scheme for host in hosts_of(migration, "plain.example:5000")] == ["https", "http"]
    blocked = {name: hosts.blocked for name, hosts in migration.hosts.items()}
    assert blocked == {"plain.example:5000": False, "both.example": True, "evil.example": True}
    assert left(migration) == [
        "registries.search.registries",
        "registries.insecure.registries",
        "registries.block.registries",
    ]
    assert not left(migrate({"a.conf": "[registries.search]\nregistries = ['docker.io']"}))


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.toml", "version = 1", "version 1"),
        ("a.toml", "[other]", "neither"),
        ("config.toml", 'disabled_plugins = ["cri"]', "version 1: `containerd config migrate`"),
        ("hosts.toml", '[host."https://a.example"]', "a hosts.toml is read as it is"),
        ("hosts.toml", 'server = "https://a.example"\nca = ["a", "b"]', "read as it is"),
        ("a.toml", "= 1", "cannot be read"),
        ("a.yaml", "[", "cannot be read"),
        ("a.yaml", "- 1", "holds no table"),
        ("a.yaml", "mirrors: {a: {endpoint: x}}", "mirrors.a.endpoint is no list of strings"),
        ("a.toml", '[crio.image]\npause_image = "A B"', "pinned_images"),
    ],
)
def test_what_cannot_be_read_is_refused(name: str, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        migrate({name: text})


def run(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, "config", "migrate", *arguments],
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_writes_a_configuration_that_is_read(tmp_path: Path) -> None:
    file, folder = tmp_path / "registries.yaml", tmp_path / "into"
    file.write_text(K3S)
    done = run("--into", str(folder), str(file))
    assert done.returncode == 0, done.stderr
    config = load_config(folder / "config.toml", privileged=True)
    assert config.image.registry.config_path == str(folder / "certs.d")
    assert (folder / "certs.d/docker.io/hosts.toml").exists()
    assert (folder / "config.toml").stat().st_mode & 0o777 == 0o600
    assert "not carried over" in done.stderr
    again = run("--into", str(folder), str(file))
    assert again.returncode == 1
    assert "exists already" in again.stderr


def test_what_containerds_file_imports_goes_over_it(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    images = "[plugins.'io.containerd.cri.v1.images']"
    (tmp_path / "conf.d/b.toml").write_text(f"version = 3\n{images}\nsnapshotter = 'native'\n")
    (tmp_path / "conf.d/a.toml").write_text(
        "version = 2\n[plugins.'io.containerd.grpc.v1.cri']\nmax_concurrent_downloads = 9\n"
    )
    main = tmp_path / "config.toml"
    main.write_text(
        "version = 3\nimports = ['conf.d/*.toml', 'config.toml', '/nowhere/*.toml']\n"
        f"{images}\nmax_concurrent_downloads = 5\nsnapshotter = 'overlayfs'\n"
        f"{images[:-1]}.registry]\nconfig_path = '/certs'\n"
        f"{images[:-1]}.registry.configs.'a.example'.tls]\nca_file = '/ca.pem'\n"
    )
    done = run(str(main), "-o", "json")
    printed = json.loads(done.stdout)
    image = tomllib.loads(printed["files"]["config.toml"])["image"]
    assert (image["max_concurrent_downloads"], image["snapshotter"]) == (9, "native")
    assert [each["key"].rpartition("configs.")[2] for each in printed["left"]] == [
        '"a.example".tls'
    ]
    given = run("-", given=main.read_text())
    assert "imports: name those files too" in given.stderr


def test_what_cannot_be_migrated_is_told_without_a_word_of_our_keys() -> None:
    done = run("-", given='server = "https://a.example"')
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "cri-imaged: -: a hosts.toml is read as it is: name the folder that has its registry's "
        "folder in image.registry.config_path"
    ]


def test_the_command_prints() -> None:
    done = run("-", "-o", "json", given=CONTAINERD_2)
    printed: dict[str, Any] = json.loads(done.stdout)
    assert tomllib.loads(printed["files"]["config.toml"])["image"]["max_concurrent_downloads"] == 7
    assert len(printed["left"]) == 1
