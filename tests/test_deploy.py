"""What deploy/ ships: each file is accepted by the thing that it is for."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cri_imaged.config.load import load_config
from cri_imaged.registry.hosts_toml import parse_hosts
from tests.support.deploy import CHECKOUT, DEPLOY, UNIT, unit_capabilities
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
    config = load_config(file, privileged=True)
    port = re.search(r"containerPort: (\d+)", manifest)
    assert port is not None
    assert str(config.metrics.address).endswith(f":{port[1]}")
    # The paths that the manifest mounts are the ones that the daemon uses.
    assert f"mountPath: {config.root}\n" in manifest
    assert f"mountPath: {config.grpc.address.parent}\n" in manifest


def test_the_unit_is_accepted_by_systemd() -> None:
    require_real(shutil.which("systemd-analyze") is not None, "systemd-analyze is not installed")
    run = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(UNIT)],
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = [
        line
        for line in run.stderr.splitlines()
        if UNIT.name in line and "is not executable" not in line
    ]
    assert complaints == []


def test_unit_and_daemonset_leave_the_same_capabilities() -> None:
    manifest = (DEPLOY / "kubernetes" / "daemonset.yaml").read_text()
    added = re.search(r" add:\n((?: +- [A-Z_]+\n)+)", manifest)
    assert added is not None
    assert {f"CAP_{name.strip(' -')}" for name in added[1].splitlines()} == unit_capabilities()


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
    assert "COPY pyproject.toml README.md LICENSE ./\nCOPY server server\n" in dockerfile
