"""`cri-imaged setup`: other programs' files are changed where they must be, and else stay."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from cri_imaged.cli.setup.toml_edit import with_key
from cri_imaged.config import load_config
from cri_imaged.errors import ConfigError
from tests.support.containerd import CACHE, VERSIONS
from tests.support.daemon import PROGRAM
from tests.support.deploy import DEPLOY
from tests.support.require import require_real


def setup(root: Path, runtime: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, "setup", runtime, "--root", root, "--config", root / "ours.toml", *options],
        capture_output=True,
        text=True,
        check=False,
    )


def test_containerd_imports_a_file_of_ours(tmp_path: Path) -> None:
    main = tmp_path / "etc/containerd/config.toml"
    main.parent.mkdir(parents=True)
    main.write_text("# kept\nversion = 3  # not 2\n[debug]\nlevel = 'info'\nversion = 1\n")
    done = setup(tmp_path, "containerd")
    assert done.returncode == 0, done.stderr
    assert "systemctl restart" in done.stdout
    assert tomllib.loads(main.read_text()) == {
        "version": 3,
        "imports": ["/etc/containerd/conf.d/*.toml"],
        "debug": {"level": "info", "version": 1},
    }
    assert "# kept" in main.read_text()
    assert main.with_name("config.toml.before-cri-imaged").read_text().startswith("# kept\nversion")
    ours = tomllib.loads((main.parent / "conf.d/cri-imaged.toml").read_text())
    assert ours["proxy_plugins"]["cri-imaged"]["address"] == "/run/cri-imaged/snapshots.sock"
    config = load_config(tmp_path / "ours.toml", privileged=True)
    assert config.runtime.containerd is not None
    assert "everything is set up already" in setup(tmp_path, "containerd").stdout


def test_a_dry_run_shows_and_changes_nothing(tmp_path: Path) -> None:
    done = setup(tmp_path, "containerd", "--dry-run")
    assert '+snapshotter = "cri-imaged"' in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_old_configuration_of_containerd_is_refused(tmp_path: Path) -> None:
    main = tmp_path / "etc/containerd/config.toml"
    main.parent.mkdir(parents=True)
    main.write_text("version = 2\n")
    done = setup(tmp_path, "containerd")
    assert done.returncode == 2
    assert "containerd config migrate" in done.stderr


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda file: file.write_bytes(b"# caf\xe9\nversion = 3\n"), "is not UTF-8"),
        (lambda file: file.mkdir(), "Is a directory"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_named_and_nothing_changed(
    tmp_path: Path, make: Callable[[Path], object], why: str
) -> None:
    main = tmp_path / "etc/containerd/config.toml"
    main.parent.mkdir(parents=True)
    make(main)
    done = setup(tmp_path, "containerd")
    assert done.returncode == 1
    assert f"{main}: {why}" in done.stderr
    assert list(main.parent.iterdir()) == [main]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("no folder")
    done = setup(tmp_path, "containerd")
    assert done.returncode == 1
    assert f"{tmp_path}/etc/containerd" in done.stderr
    assert "report it" not in done.stderr


def test_crio_and_podman_share_the_store(tmp_path: Path) -> None:
    storage = tmp_path / "etc/containers/storage.conf"
    storage.parent.mkdir(parents=True)
    storage.write_text('[storage.options]\nadditionalimagestores = [\n  "/other",\n]\n')
    assert setup(tmp_path, "podman").returncode == 0
    done = setup(tmp_path, "crio")
    assert done.returncode == 0, done.stderr
    stores = tomllib.loads(storage.read_text())["storage"]["options"]["additionalimagestores"]
    assert set(stores) == {"/other", "/var/lib/cri-imaged/containers-storage"}
    config = load_config(tmp_path / "ours.toml", privileged=True)
    assert config.runtime.containers_storage is not None
    assert config.runtime.image_id_format == "hex"


@pytest.mark.real
@pytest.mark.parametrize("vendors", ["", '[storage]\nrunroot = "/run/x"\ngraphroot = "/lib/x"\n'])
def test_podman_reads_a_storage_conf_that_was_not_there(tmp_path: Path, vendors: str) -> None:
    """Once there is one in /etc, it alone is read, and has to be whole."""
    require_real(shutil.which("podman") is not None, "podman is not installed")
    if vendors:
        (tmp_path / "usr/share/containers").mkdir(parents=True)
        (tmp_path / "usr/share/containers/storage.conf").write_text(vendors)
    assert setup(tmp_path, "podman").returncode == 0
    storage = tmp_path / "etc/containers/storage.conf"
    written = storage.read_text()
    assert written.startswith(vendors)
    storage.write_text(re.sub(r'"(/(run|lib|var)/)', rf'"{tmp_path}\1', written))
    said = subprocess.run(
        ["podman", "images", "--quiet"],
        env={**os.environ, "CONTAINERS_STORAGE_CONF": str(storage)},
        capture_output=True,
        text=True,
        check=False,
    )
    for mount in tmp_path.glob("*/**/overlay"):
        subprocess.run(["umount", mount], capture_output=True, check=False)
    assert (said.returncode, said.stdout) == (0, ""), said.stderr


def test_a_file_that_is_kept_elsewhere_is_changed_there(tmp_path: Path) -> None:
    kept, main = tmp_path / "managed.toml", tmp_path / "etc/containerd/config.toml"
    main.parent.mkdir(parents=True)
    kept.write_text("version = 3\n")
    main.symlink_to(kept)
    assert setup(tmp_path, "containerd").returncode == 0
    assert main.is_symlink()
    assert "imports" in kept.read_text()
    assert main.with_name("config.toml.before-cri-imaged").read_text() == "version = 3\n"


def test_another_driver_of_storage_is_refused(tmp_path: Path) -> None:
    storage = tmp_path / "etc/containers/storage.conf"
    storage.parent.mkdir(parents=True)
    storage.write_text('[storage]\ndriver = "vfs"\n')
    done = setup(tmp_path, "podman")
    assert done.returncode == 2
    assert 'storage.conf: says driver = "vfs": only overlay reads' in done.stderr
    assert list(storage.parent.iterdir()) == [storage]


def test_what_deploy_ships_is_what_is_written(tmp_path: Path) -> None:
    assert setup(tmp_path, "containerd").returncode == 0
    written = tmp_path / "etc/containerd/conf.d/cri-imaged.toml"
    assert (DEPLOY / "node" / "containerd.toml").read_text() == written.read_text()


@pytest.mark.real
def test_containerd_reads_what_is_written_over_its_own(tmp_path: Path) -> None:
    program = CACHE / f"containerd-{VERSIONS[0]}" / "containerd"
    require_real(program.exists(), "containerd is not built (`make containerd`)")
    main = tmp_path / "etc/containerd/config.toml"
    main.parent.mkdir(parents=True)
    main.write_text(
        "version = 3\n[plugins.'io.containerd.cri.v1.images']\nmax_concurrent_downloads = 7\n"
    )
    assert setup(tmp_path, "containerd").returncode == 0
    imported = str(main.parent / "conf.d" / "*.toml")
    main.write_text(main.read_text().replace("/etc/containerd/conf.d/*.toml", imported))
    said = subprocess.run(
        [program, "--config", main, "config", "dump"], capture_output=True, text=True, check=True
    )
    dumped = tomllib.loads(said.stdout)
    images = dumped["plugins"]["io.containerd.cri.v1.images"]
    assert images["snapshotter"] == "cri-imaged"
    assert images["max_concurrent_downloads"] == 7, "what stood there stays"
    assert images["pinned_images"] == {"sandbox": "registry.k8s.io/pause:3.10.2"}
    assert dumped["proxy_plugins"]["cri-imaged"]["type"] == "snapshot"


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("", '[a.b]\nk = "v"\n'),
        ("[a.b] # why\nx = 1\n", '[a.b] # why\nk = "v"\nx = 1\n'),
        ("[a]\nx = 1\n", '[a]\nx = 1\n\n[a.b]\nk = "v"\n'),
        ("[a.b]\nk = 'v'\n", "[a.b]\nk = 'v'\n"),
    ],
)
def test_a_key_is_set_where_it_belongs(text: str, after: str) -> None:
    assert with_key(text, "a.b", "k", "v") == after


@pytest.mark.parametrize("text", ['[a.b]\nk = "w"\n', "a.b = {}\n", "[a\n"])
def test_what_cannot_be_set_safely_is_left_to_people(text: str) -> None:
    with pytest.raises(ConfigError):
        with_key(text, "a.b", "k", "v")
