"""What `doctor` finds."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from cri_imaged.cli import diagnosis
from cri_imaged.cli.diagnosis import Finding
from cri_imaged.config import load_config
from cri_imaged.rpc.node.v1 import runtimes_pb2

UNSEEN = "x" * 300
"""Longer than the kernel looks anything up by, whoever asks."""
LOGINS_FAIL = "pulls that need a login fail"


def findings_of_hosts(folders: str) -> list[Finding]:
    overrides = {"image": {"registry": {"config_path": folders}}}
    return list(diagnosis.of_hosts(load_config(None, privileged=True, overrides=overrides)))


def write(folder: Path, registry: str, text: str) -> None:
    (folder / registry).mkdir(parents=True)
    (folder / registry / "hosts.toml").write_text(text)


def test_a_hosts_file_that_cannot_be_read_is_named_with_its_line(tmp_path: Path) -> None:
    write(tmp_path, "good.example", '[host."http://127.0.0.1:1"]')
    write(tmp_path, "bad.example_5000_", '\n[host."http://127.0.0.1:1"]\nskip_verify = 3')
    (found,) = findings_of_hosts(f"{tmp_path}/absent:{tmp_path}")
    assert found.what.startswith(f"{tmp_path}/bad.example_5000_/hosts.toml:3: ")
    assert found.what.endswith("pulls from bad.example:5000 fail")


def test_a_mirror_whose_name_nobody_knows_is_found(tmp_path: Path) -> None:
    write(tmp_path, "docker.io", '[host."https://mirror.invalid"]')
    (found,) = findings_of_hosts(str(tmp_path))
    assert found.what.startswith(
        f"the name mirror.invalid, which {tmp_path}/docker.io has, cannot be resolved"
    )


def test_the_hosts_of_all_other_registries_are_looked_at_too(tmp_path: Path) -> None:
    write(tmp_path, "_default", '[host."https://mirror.invalid"]')
    (found,) = findings_of_hosts(str(tmp_path))
    assert found.what.startswith(
        f"the name mirror.invalid, which {tmp_path}/_default has, cannot be resolved"
    )
    (tmp_path / "_default" / "hosts.toml").write_text("[host")
    (found,) = findings_of_hosts(str(tmp_path))
    assert found.what.startswith(f"{tmp_path}/_default/hosts.toml:1: ")


@pytest.mark.parametrize("folder", ["registry.invalid", "_default"])
def test_a_registry_that_nobody_knows_is_found_until_it_has_the_mirror_that_is_told(
    tmp_path: Path, folder: str
) -> None:
    def findings() -> list[Finding]:
        image = {
            "pinned_images": {"sandbox": "registry.invalid/pause:1", "more": "[::1]:5000/more:1"},
            "registry": {"config_path": str(tmp_path)},
        }
        config = load_config(None, privileged=True, overrides={"image": image})
        return list(diagnosis.of_names(config))

    (found,) = findings()
    assert found.what.startswith("the name registry.invalid, which the configuration has, cannot")
    assert "mirror in hosts.toml" in found.remedy
    write(tmp_path, folder, '[host."http://127.0.0.1:1"]')
    assert findings() == []


def test_a_registry_that_is_blocked_is_no_finding(tmp_path: Path) -> None:
    write(tmp_path, "blocked.example", "blocked = true")
    assert findings_of_hosts(str(tmp_path)) == []


def test_a_credential_provider_that_is_not_there_is_named(tmp_path: Path) -> None:
    file = tmp_path / "providers.yaml"
    registry = {"credential_provider_config": str(file), "credential_provider_bin_dir": "/bin"}
    overrides = {"image": {"registry": registry}}
    config = load_config(None, privileged=True, overrides=overrides)

    def found() -> list[str]:
        return [each.what for each in diagnosis.of_credential_providers(config)]

    assert found() == [f"{file}: cannot be read: No such file or directory: {LOGINS_FAIL}"]
    file.write_text("kind: CredentialProviderConfig")
    (malformed,) = found()
    assert malformed.startswith(f"{file}: is no CredentialProviderConfig")
    version = "credentialprovider.kubelet.k8s.io/v1"
    entries = [
        f"{{name: {name}, apiVersion: {version}, matchImages: [a], defaultCacheDuration: 0s}}"
        for name in ("sh", "no-such-program")
    ]
    file.write_text(
        "kind: CredentialProviderConfig\napiVersion: kubelet.config.k8s.io/v1\n"
        f"providers: [{', '.join(entries)}]"
    )
    assert found() == [f"/bin/no-such-program, a credential provider of {file}, is no program"]


@pytest.mark.parametrize("names", [[], ["docker.io/library/a:1", "sha256:00"]])
def test_images_that_no_collector_sees_come_with_the_command_that_removes_them(
    tmp_path: Path, names: Iterable[str]
) -> None:
    socket = tmp_path / "snapshots.sock"
    socket.touch(mode=0o600)
    runtime = {"snapshots_address": str(socket), "containerd": {"address": "/run/c.sock"}}
    config = load_config(None, privileged=True, overrides={"runtime": runtime})
    answer = runtimes_pb2.ListRuntimesResponse(
        runtimes=[runtimes_pb2.Runtime(name="containerd", up=True, foreign_images=names)]
    )
    remedies = [each.remedy for each in diagnosis.of_runtimes(config, answer)]
    command = "ctr --address /run/c.sock --namespace k8s.io images remove"
    assert remedies == ([f"{command} {' '.join(names)}"] if names else [])


def test_a_kubelets_configuration_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    config = load_config(None, privileged=True)
    file = tmp_path / diagnosis.KUBELET_CONFIG
    assert list(diagnosis.of_kubelet(config, tmp_path)) == []
    file.mkdir(parents=True)
    (found,) = diagnosis.of_kubelet(config, tmp_path)
    assert found.what == f"{file}: cannot be read: Is a directory"
    file.rmdir()
    file.write_bytes(b"# caf\xe9\nimageServiceEndpoint: unix:///run/cri-imaged/cri-imaged.sock\n")
    assert list(diagnosis.of_kubelet(config, tmp_path)) == []


def test_an_order_of_units_that_nobody_tells_is_no_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list(diagnosis.of_units(tmp_path)) == []


def test_a_root_that_cannot_be_looked_at_is_not_there() -> None:
    config = load_config(None, privileged=True, overrides={"root": f"/{UNSEEN}"})
    (found,) = diagnosis.of_disk(config)
    assert found.what == f"/{UNSEEN} is not there"


@pytest.mark.parametrize(("free", "found"), [(500, True), (501, False)])
def test_inodes_are_too_few_where_pulls_are_refused_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, found: bool
) -> None:
    many = 1 << 30
    disk = os.statvfs_result((4096, 4096, many, many, many, 10_000, free, free, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    config = load_config(None, privileged=True, overrides={"root": str(tmp_path)})
    findings = [each.what for each in diagnosis.of_disk(config)]
    few = f"{tmp_path} has 500 of 10000 inodes free: pulls leave 5 % of them free"
    assert findings == ([few] if found else [])
