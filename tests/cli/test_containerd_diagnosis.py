"""What `doctor` finds in containerd's configuration, as the real containerd reads it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cri_imaged.cli.containerd_diagnosis import CONFIG, of_containerd
from cri_imaged.cli.setup.plans import containerd_toml
from cri_imaged.config import Config, load_config
from cri_imaged.config.options import ContainerdOptions
from tests.support.containerd import CACHE, VERSIONS
from tests.support.require import require_real

pytestmark = pytest.mark.real


@pytest.fixture(params=VERSIONS, autouse=True)
def _program(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = CACHE / f"containerd-{request.param}"
    require_real(programs.is_dir(), "containerd is not built (`make containerd`)")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")


@pytest.fixture
def config() -> Config:
    return load_config(None, privileged=True, overrides={"runtime": {"containerd": {}}})


def findings(config: Config, root: Path, text: str) -> list[str]:
    file = root / CONFIG
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return [each.what for each in of_containerd(config, root)]


def test_what_setup_writes_is_well(config: Config, tmp_path: Path) -> None:
    assert list(of_containerd(config, tmp_path)) == []
    assert list(of_containerd(config, tmp_path / ("x" * 300))) == [], "it cannot be looked up"
    assert findings(config, tmp_path, containerd_toml(config, ContainerdOptions())) == []


def test_a_plugin_that_no_pod_is_given_is_found(config: Config, tmp_path: Path) -> None:
    text = containerd_toml(config, ContainerdOptions())
    text = text.replace('snapshotter = "cri-imaged"', 'snapshotter = "overlayfs"')
    (found,) = findings(config, tmp_path, text)
    assert found.startswith("containerd's pods are given snapshotter 'overlayfs'")


def test_a_plugin_that_is_missing_or_elsewhere_is_found(config: Config, tmp_path: Path) -> None:
    plugin, pods = findings(config, tmp_path, "version = 3\n")
    assert plugin == "containerd has no proxy plugin 'cri-imaged'"
    assert "given snapshotter 'overlayfs'" in pods
    text = containerd_toml(config, ContainerdOptions())
    (found,) = findings(config, tmp_path, text.replace("snapshots.sock", "other.sock"))
    assert "is at /run/cri-imaged/other.sock, and we serve at" in found


def test_another_pause_image_is_found(config: Config, tmp_path: Path) -> None:
    text = containerd_toml(config, ContainerdOptions())
    kept = str(config.image.required_images["sandbox"])
    (found,) = findings(config, tmp_path, text.replace(kept, "registry.example/pause:3.1"))
    assert found.startswith("containerd's pods need the pause image registry.example/pause:3.1")


def test_a_file_that_containerd_does_not_take_is_found(config: Config, tmp_path: Path) -> None:
    (found,) = findings(config, tmp_path, "version = [\n")
    assert found.startswith(f"containerd does not take {tmp_path / CONFIG}: ")


def test_the_file_of_another_containerd_is_left_alone(config: Config, tmp_path: Path) -> None:
    assert findings(config, tmp_path, 'version = 3\n[grpc]\naddress = "/run/other.sock"\n') == []
