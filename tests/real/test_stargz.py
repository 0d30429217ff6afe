"""A real stargz-snapshotter: an eStargz layer is mounted lazily, and never fetched by us."""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cri_imaged.mounting import MountInfo, mounts, unmount
from tests.real.conftest import Scratch
from tests.real.test_proxy_snapshotters import daemon_with
from tests.support.containerd import CACHE
from tests.support.docker_registry import DockerRegistry
from tests.support.images import WHITEOUT, Layer, archive, directory, file, image, layer, sha256
from tests.support.oracle import mounted, reference_tree
from tests.support.process import Process, wait_until
from tests.support.require import require_real
from tests.support.trees import describe, difference

pytestmark = pytest.mark.real

PROGRAM = CACHE / "bin" / "stargz"
TOC = "containerd.io/snapshot/stargz/toc.digest"


@pytest.fixture
def stargz(scratch: Scratch) -> Iterator[Path]:
    """The directory of a running one: `socket` and `root` are in it."""
    require_real(PROGRAM.exists(), "stargz-snapshotter is not built (`make stargz`)")
    require_real(Path("/dev/fuse").exists(), "this machine has no FUSE")
    folder = scratch("stargz")
    command = [str(PROGRAM), str(folder / "socket"), str(folder / "root")]
    process = Process(command, folder / "log")
    process.start()
    wait_until((folder / "socket").exists, "stargz-snapshotter serves", process)
    yield folder
    for info in reversed(mounts_of(folder)):
        unmount(Path(info.mount_point), lazy=True)
    process.stop()


def mounts_of(folder: Path) -> list[MountInfo]:
    return [info for info in mounts() if info.mount_point.startswith(str(folder))]


def estargz(plain: bytes) -> Layer:
    """An archive as an eStargz layer."""
    run = subprocess.run([PROGRAM, "-convert"], input=plain, capture_output=True, check=True)
    toc = run.stderr.decode().split()[-1]
    made = Layer(run.stdout, layer(b"").media_type, sha256(gzip.decompress(run.stdout)))
    return replace(made, annotations={TOC: toc})


def test_an_estargz_layer_is_mounted_and_not_fetched(
    scratch: Scratch, stargz: Path, registry: DockerRegistry
) -> None:
    root = {".": directory(), "srv": directory(0o750)}
    lower = {**root, "srv/gone": file("x"), "srv/text": file("lazy\n"), "srv/big": file("b" * 9999)}
    upper = {**root, "srv/.wh.gone": WHITEOUT, "srv/new": file("new")}
    lazy = estargz(archive(lower))
    made = image(lazy, layer(upper))
    reference = registry.push(made, "stargz/app:1")
    with daemon_with(scratch("daemon"), "stargz", stargz / "socket", stargz / "root") as daemon:
        daemon.pull(reference)
        assert any(info.type.startswith("fuse") for info in mounts_of(stargz))
        with mounted(daemon, reference) as tree:
            assert difference(describe(tree), reference_tree([lower, upper])) == []
        blobs = daemon.root / "content" / "blobs"
        assert not list(blobs.rglob(sha256(lazy.blob).partition(":")[2]))
        daemon.remove(reference)
        wait_until(lambda: not mounts_of(stargz), "the layer is unmounted")
