"""Mounted root file systems: programs run in them, and they hold what other tools unpack."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.conftest import DEBIAN_UPPER, Scratch
from tests.real.test_kinds_of_images import mounted
from tests.support.crun import run_in_container
from tests.support.daemon import Daemon
from tests.support.images import Image, image, layer, write_layout
from tests.support.require import require_real
from tests.support.trees import describe, difference

pytestmark = pytest.mark.real


@pytest.fixture
def debian_root(daemon: Daemon, debian_reference: str, tmp_path: Path) -> Iterator[Path]:
    daemon.pull(debian_reference, timeout=300)
    with mounted(daemon, debian_reference, tmp_path / "root") as root:
        yield root


def test_a_container_runs_a_program_of_the_image(
    daemon: Daemon, busybox_reference: str, tmp_path: Path
) -> None:
    daemon.pull(busybox_reference)
    with mounted(daemon, busybox_reference, tmp_path / "root") as root:
        said = run_in_container(tmp_path / "bundle", root, "/bin/cat", "/etc/motd")
    assert said == "changed by a layer\n"


def test_a_container_runs_debian(debian_root: Path, tmp_path: Path) -> None:
    script = "dpkg-query -W -f '${Status}' bash; cat /etc/cri-imaged; ls /usr/share/doc 2>&1; true"
    said = run_in_container(tmp_path / "bundle", debian_root, "/bin/sh", "-c", script)
    assert said.startswith("install ok installed")
    assert "here\n" in said
    assert "No such file or directory" in said


def test_debian_is_what_umoci_unpacks(debian_root: Path, debian: Image, scratch: Scratch) -> None:
    require_real(shutil.which("umoci") is not None, "umoci is not installed")
    folder = scratch("umoci")
    # The same layers in gzip: Debian's umoci does not know zstd.
    write_layout(folder / "layout", "debian", image(debian.layers[0], layer(DEBIAN_UPPER)))
    bundle = folder / "bundle"
    command = ["umoci", "raw", "unpack", "--image", f"{folder / 'layout'}:debian", str(bundle)]
    subprocess.run(command, check=True, capture_output=True)
    expected = describe(bundle)
    assert len(expected) > 3000
    assert difference(describe(debian_root), expected) == []


def test_a_view_is_read_only_unless_asked(
    daemon: Daemon, busybox_reference: str, tmp_path: Path
) -> None:
    daemon.pull(busybox_reference)
    with (
        mounted(daemon, busybox_reference, tmp_path / "ro") as root,
        pytest.raises(OSError, match="Read-only"),
    ):
        (root / "new").write_text("x")
    writable = tmp_path / "rw"
    writable.mkdir()
    daemon.cli("mount", "--rw", busybox_reference, str(writable))
    (writable / "etc/motd").write_text("mine")
    daemon.cli("umount", str(writable))
    with mounted(daemon, busybox_reference, tmp_path / "again") as root:
        assert (root / "etc/motd").read_text() == "changed by a layer\n"


def test_a_mounted_image_can_be_removed(
    daemon: Daemon, busybox_reference: str, tmp_path: Path
) -> None:
    image_id = daemon.pull(busybox_reference)
    with mounted(daemon, busybox_reference, tmp_path / "root") as root:
        daemon.remove(busybox_reference)
        assert image_id not in {shown.id for shown in daemon.images()}
        assert (root / "etc/motd").read_text() == "changed by a layer\n"
    assert daemon.pull(busybox_reference) == image_id
