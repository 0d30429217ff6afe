"""Archives of images between this daemon, skopeo and podman: each reads what the others write."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import Scratch
from tests.support.crictl import Crictl
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.images import Image, image, layer, sha256, write_layout, zstd
from tests.support.podman import Podman
from tests.support.require import require_real

pytestmark = pytest.mark.real

NAME = "registry.example/team/app:v1"


@pytest.fixture(autouse=True)
def _empty_store(empty_daemon: Daemon) -> None:
    """Every test here begins with no image."""


@pytest.fixture
def podman(scratch: Scratch) -> Iterator[Podman]:
    directory = scratch("podman")
    (directory / "none").mkdir()
    made = Podman(directory, directory / "none")
    yield made
    made.close()


def skopeo(*arguments: str) -> str:
    require_real(shutil.which("skopeo") is not None, "skopeo is not installed")
    run = subprocess.run(
        ["skopeo", "--insecure-policy", *arguments], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def inspected(daemon: Daemon, name: str) -> dict[str, Any]:
    return dict(json.loads(daemon.cli("inspect", "-o", "json", name).stdout))


@pytest.mark.parametrize(
    ("kind", "packed"), [("oci-archive", ""), ("oci-archive", "zstd"), ("docker-archive", "gzip")]
)
def test_what_skopeo_writes_is_imported(
    daemon: Daemon, crictl: Crictl, busybox: Image, tmp_path: Path, kind: str, packed: str
) -> None:
    layout = write_layout(tmp_path / "layout", "x", busybox)
    archive = tmp_path / "a.tar"
    skopeo("copy", f"oci:{layout}:x", f"{kind}:{archive}:{NAME}")
    if packed:
        compress = {"gzip": gzip.compress, "zstd": zstd.compress}[packed]
        archive.write_bytes(compress(archive.read_bytes()))
    assert f"imported {NAME}" in daemon.cli("import", str(archive)).stdout
    (shown,) = crictl.json("images")["images"]
    assert shown["repoTags"] == [NAME]
    if kind == "oci-archive":
        assert shown["id"] == busybox.id
        assert shown["repoDigests"] == [f"{NAME.removesuffix(':v1')}@{sha256(busybox.manifest)}"]
    platform = inspected(daemon, NAME)["info"]["info"]["imageSpec"]
    assert platform["rootfs"]["diff_ids"] == [each.diff_id for each in busybox.layers]


def test_a_layouts_directory_and_standard_input(
    daemon: Daemon, busybox: Image, tmp_path: Path
) -> None:
    layout = write_layout(tmp_path / "layout", "v1", busybox)
    out = daemon.cli("import", "-o", "json", "--name", "registry.example/app", str(layout)).stdout
    [imported] = json.loads(out)["images"]
    assert imported["image_id"] == busybox.id
    assert imported["names"][0] == "registry.example/app:v1"
    archive = tmp_path / "a.tar"
    address = ("--address", str(daemon.socket))
    with archive.open("wb") as file:
        subprocess.run([daemon.program, "save", busybox.id, *address], stdout=file, check=True)
    for arguments in (["load", "-"], ["load"], ["load", "-i", str(archive)]):
        daemon.cli("rm", busybox.id)
        with archive.open("rb") as file:
            run = subprocess.run(
                [daemon.program, *arguments, *address],
                stdin=file,
                capture_output=True,
                text=True,
                check=False,
            )
        assert run.returncode == 0, run.stderr
        assert daemon.image("registry.example/app:v1") is not None


@pytest.mark.parametrize("linked", ["blobs", "blobs/sha256"])
def test_a_layout_whose_blobs_lie_elsewhere(
    daemon: Daemon, busybox: Image, tmp_path: Path, linked: str
) -> None:
    layout = write_layout(tmp_path / "layout", NAME, busybox)
    (layout / linked).rename(tmp_path / "shared")
    (layout / linked).symlink_to("../" * (linked.count("/") + 1) + "shared")
    (layout / "round").symlink_to(".")
    daemon.cli("import", str(layout))
    assert daemon.image(NAME) is not None


@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_what_is_exported_is_read_by_skopeo_and_podman(
    daemon: Daemon,
    registry: DockerRegistry,
    busybox: Image,
    podman: Podman,
    tmp_path: Path,
    kind: str,
) -> None:
    reference = registry.push(busybox, "archives/app:v1")
    daemon.pull(reference)
    archive = tmp_path / "a.tar"
    daemon.cli("export", reference, "--format", kind, "-o", str(archive))
    assert archive.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [archive]

    seen = json.loads(skopeo("inspect", f"oci-archive:{archive}"))
    assert seen["Digest"] == sha256(busybox.manifest)
    if kind == "docker":
        skopeo("copy", f"docker-archive:{archive}:{reference}", f"dir:{tmp_path / 'out'}")

    podman("load", "-i", str(archive))
    (loaded,) = podman.images()
    assert (f"sha256:{loaded['Id']}", loaded["Names"]) == (busybox.id, [reference])
    saved = tmp_path / "saved.tar"
    form = "oci-archive" if kind == "oci" else "docker-archive"
    podman("save", "--format", form, "-o", str(saved), reference)
    daemon.cli("rm", reference)
    daemon.cli("import", str(saved))
    shown = daemon.image(reference)
    assert shown is not None
    assert shown.id == busybox.id


def test_an_index_for_several_platforms_comes_back(
    daemon: Daemon, registry: DockerRegistry, busybox: Image, tmp_path: Path
) -> None:
    other = Image((layer({}),), architecture="s390x")
    reference = registry.push(busybox, "archives/many:v1", other)
    daemon.pull(reference)
    archive = tmp_path / "a.tar"
    daemon.cli("export", reference, "-o", str(archive))
    daemon.cli("rm", reference)
    daemon.cli("import", str(archive))
    shown = daemon.image(reference)
    assert shown is not None
    digest = registry.digest(reference)
    assert shown.repo_digests == [f"{reference.removesuffix(':v1')}@{digest}"]


def test_a_file_of_a_hundred_images_and_one_that_is_cut_off(daemon: Daemon, tmp_path: Path) -> None:
    base = layer({})
    for number in range(100):
        name = f"registry.example/many:{number}"
        write_layout(tmp_path / "layout", name, image(base, Cmd=[str(number)]))
    archive = tmp_path / "many.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(tmp_path / "layout", arcname=".")
    whole = archive.read_bytes()
    packed = gzip.compress(whole)
    for name, data in (("a.tar", whole[: len(whole) // 2]), ("a.tar.gz", packed[:-100])):
        (tmp_path / name).write_bytes(data)
        run = daemon.cli("import", str(tmp_path / name), check=False)
        assert (run.returncode, run.stdout) == (1, ""), run.stderr
        assert daemon.images() == []
    out = daemon.cli("import", str(archive)).stdout
    assert len([line for line in out.splitlines() if ":" in line and "@" not in line]) == 100
    assert len(daemon.images()) == 100


def test_why_an_import_is_refused_is_told_though_most_of_it_is_still_to_be_sent(
    daemon: Daemon, tmp_path: Path
) -> None:
    layout = write_layout(tmp_path / "layout", NAME, image(layer({})))
    blobs = layout / "blobs" / "sha256"
    (blobs / ("0" * 64)).write_bytes(b"other")
    with (blobs / ("f" * 64)).open("wb") as large:
        large.truncate(16 << 20)
    for _ in range(8):  # by chance the answer came before a write failed
        run = daemon.cli("import", str(layout), check=False)
        assert (run.returncode, run.stdout) == (1, "")
        assert f"{'0' * 64} has other bytes" in run.stderr
    assert daemon.images() == []
