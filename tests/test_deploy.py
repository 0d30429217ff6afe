"""What deploy/ ships: each file is accepted by the thing that it is for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cri_imaged.config.load import load_config
from cri_imaged.layers.worker import namespaces
from cri_imaged.registry.hosts.toml import parse_hosts
from tests.support.deploy import CHECKOUT, DEPLOY, UNIT
from tests.support.require import require_real


def test_the_hosts_example_puts_the_mirror_first() -> None:
    file = DEPLOY / "certs.d" / "docker.io" / "hosts.toml"
    mirror, hub = parse_hosts(file.read_text(), file, "docker.io")
    assert "mirror.internal:5000" in str(mirror)
    assert "registry-1.docker.io" in str(hub)


def test_the_daemonsets_configuration_is_valid(tmp_path: Path) -> None:
    manifest = (DEPLOY / "kubernetes" / "daemonset.yaml").read_text()
    literal = re.search(r"^  config\.toml: \|\n((?:    .*\n|\n)+)", manifest, re.MULTILINE)
    assert literal is not None
    file = tmp_path / "config.toml"
    file.write_text(textwrap.dedent(literal[1]))
    assert load_config(file, privileged=True).metrics.address is None


def test_nothing_is_served_on_all_addresses() -> None:
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            assert "0.0.0.0" not in path.read_text(), path


def test_the_installer_costs_the_node_little() -> None:
    manifest = (DEPLOY / "kubernetes" / "daemonset.yaml").read_text()
    assert "exec:" not in manifest, "a probe that runs a command"
    assert re.search(r"limits:\n +memory: ", manifest)


class Node:
    """A node's root file system, with a systemctl that only remembers what it is told."""

    def __init__(self, root: Path) -> None:
        self.host, self.files, self.build = root / "host", root / "files", root / "build"
        self._bin, self._told = root / "bin", root / "told"
        for folder in (self.host, self.files, self.build, self._bin):
            folder.mkdir()
        (self.build / "VERSION").write_text("1.2.3\n")
        shutil.copy(UNIT, self.files)
        (self.files / "config.toml").write_text("")
        chroot = self._bin / "chroot"
        chroot.write_text(f'#!/bin/sh\nshift\necho "$@" >>{self._told}\n')
        chroot.chmod(0o755)

    def install(self, address: str = "10.0.0.1") -> list[str]:
        """Run the installer; returns what systemctl was told."""
        done = self.try_to_install(address)
        assert done.returncode == 0, done.stderr
        return self._told.read_text().splitlines()

    def try_to_install(self, address: str = "10.0.0.1") -> subprocess.CompletedProcess[str]:
        """Run the installer."""
        self._told.write_text("")
        return subprocess.run(
            [DEPLOY / "kubernetes" / "install.sh"],
            env={
                "PATH": f"{self._bin}:{os.environ['PATH']}",
                "HOST": str(self.host),
                "FROM": str(self.build),
                "FILES": str(self.files),
                "NODE_IP": address,
            },
            check=False,
            capture_output=True,
            text=True,
        )


def test_the_installer_makes_a_service_of_the_node(tmp_path: Path) -> None:
    node = Node(tmp_path)
    assert "systemctl restart cri-imaged.service" in node.install()
    assert (node.host / "opt" / "cri-imaged" / "VERSION").read_text() == "1.2.3\n"
    unit = node.host / "etc" / "systemd" / "system" / "cri-imaged.service"
    assert unit.read_text() == UNIT.read_text()
    config = node.host / "etc" / "cri-imaged" / "config.toml"
    assert str(load_config(config, privileged=True).metrics.address) == "10.0.0.1:1338"


def test_installing_again_leaves_the_service_alone(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.install()
    assert node.install() == ["systemctl is-active --quiet cri-imaged.service"]


def test_a_new_configuration_or_version_restarts_the_service(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.install()
    (node.files / "config.toml").write_text('[debug]\nlevel = "debug"\n')
    assert "systemctl restart cri-imaged.service" in node.install()
    (node.build / "VERSION").write_text("1.3.0\n")
    assert "systemctl restart cri-imaged.service" in node.install()
    assert (node.host / "opt" / "cri-imaged").readlink() == Path("cri-imaged-1.3.0")
    builds = {path.name for path in (node.host / "opt").iterdir()}
    assert builds == {"cri-imaged", "cri-imaged-1.3.0"}, "the version before takes no space"
    assert "systemctl restart cri-imaged.service" in node.install("fd00::1")
    config = node.host / "etc" / "cri-imaged" / "config.toml"
    assert str(load_config(config, privileged=True).metrics.address) == "[fd00::1]:1338"


def test_what_a_package_has_installed_is_not_mixed_with_the_installers(tmp_path: Path) -> None:
    node = Node(tmp_path)
    program = node.host / "opt" / "cri-imaged" / "bin" / "cri-imaged"
    program.parent.mkdir(parents=True)
    program.touch()
    done = node.try_to_install()
    assert done.returncode == 1
    assert "remove that first" in done.stderr
    assert [path for path in node.host.rglob("*") if path.is_file()] == [program]


def installed_unit(folder: Path) -> Path:
    """The unit with a program that exists."""
    unit = folder / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/cri-imaged/bin/cri-imaged", "/bin/true"))
    return unit


def test_the_unit_is_accepted_by_systemd(tmp_path: Path) -> None:
    require_real(shutil.which("systemd-analyze") is not None, "systemd-analyze is not installed")
    run = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(installed_unit(tmp_path))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line for line in run.stderr.splitlines() if UNIT.name in line] == []


def test_systemd_finds_the_unit_well_confined(tmp_path: Path) -> None:
    require_real(shutil.which("systemd-analyze") is not None, "systemd-analyze is not installed")
    run = subprocess.run(
        [
            *("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=45"),
            str(installed_unit(tmp_path)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-300:] + run.stderr


@pytest.mark.parametrize(
    ("directive", "because"),
    [
        ("Restart=always", "a node without it starts no pod"),
        ("StartLimitIntervalSec=0", "and no number of failures makes that better"),
        ("WatchdogSec=", "a loop that stands still is begun anew"),
        ("RuntimeDirectoryPreserve=restart", "mounts of the socket's folder stay good"),
        ("Before=containerd.service crio.service kubelet.service", "they ask for images at once"),
        ("OOMPolicy=continue", "a worker that the kernel kills is not the daemon"),
        ("MemoryHigh=", "strangers' layers do not push pods out"),
        ("DevicePolicy=closed", "a layer's device nodes are made, never opened"),
        ("StateDirectoryMode=0700", "no other user reads images"),
        ("UMask=0077", "nor what is made besides"),
        ("ProtectProc=invisible", "no process of a pod is looked at"),
        ("ExecReload=", "systemctl reload"),
    ],
)
def test_the_unit_keeps_what_a_node_needs(directive: str, because: str) -> None:
    assert f"\n{directive}" in UNIT.read_text(), because


def test_the_unit_allows_the_namespaces_that_workers_are_put_into() -> None:
    allowed = re.search(r"^RestrictNamespaces=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert allowed is not None
    short = {"mount": "mnt", "network": "net"}
    assert set(allowed[1].split()) == {short.get(name, name) for name in namespaces.APART} | {"pid"}


def test_promtool_accepts_the_scrape_configuration() -> None:
    require_real(shutil.which("promtool") is not None, "promtool is not installed")
    run = subprocess.run(
        ["promtool", "check", "config", str(DEPLOY / "prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project built as a wheel and unpacked, as the Dockerfile's installation does it."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, folder / name)
    shutil.copytree(
        CHECKOUT / "server", folder / "server", ignore=shutil.ignore_patterns("__pycache__")
    )
    target = folder / "site"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run = subprocess.run(
        [*pip, "install", "--no-deps", f"--target={target}", str(folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    require_real(run.returncode == 0, f"pip could not build the project: {run.stderr[-2000:]}")
    return target


def test_a_wheel_holds_the_whole_package(installed: Path) -> None:
    source = CHECKOUT / "server" / "cri_imaged"
    expected = {
        path.relative_to(source)
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    package = installed / "cri_imaged"
    found = {
        path.relative_to(package)
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert found == expected
    assert (installed / "bin" / "cri-imaged").exists()


def test_the_dockerfile_copies_what_the_build_needs() -> None:
    dockerfile = (CHECKOUT / "Dockerfile").read_text()
    copied = " ".join(re.findall(r"^COPY (?!--)(.*) \S+$", dockerfile, re.MULTILINE)).split()
    needed = {"pyproject.toml", "README.md", "LICENSE", "deploy/requirements.lock", "server"}
    assert needed <= set(copied)
