"""Trees as people ship them, mounted, beside what GNU tar and umoci make of the same archives."""

from __future__ import annotations

import io
import random
import shutil
import site
import subprocess
import tarfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.real.conftest import Scratch
from tests.real.test_kinds_of_images import mounted
from tests.support.daemon import Daemon
from tests.support.debian import debian_archive
from tests.support.docker_registry import DockerRegistry
from tests.support.images import WHITEOUT, Layer, directory, file, image, layer, write_layout
from tests.support.require import require_real
from tests.support.trees import Entry, describe, difference

pytestmark = pytest.mark.real

LAYERS = 40
PACKAGES = Path(site.getsitepackages()[0])
PIP_NAMES = ["pip", "rich", "grpc"]
"""Packages that pip installed here."""


def node_modules() -> Path:
    """The node_modules that npm itself ships in."""
    require_real(shutil.which("npm") is not None, "npm is not installed")
    run = subprocess.run(["npm", "root", "--global"], check=True, capture_output=True, text=True)
    tree = Path(run.stdout.strip()) / "npm"
    require_real(tree.is_dir(), f"npm is not in {tree}")
    return tree


@pytest.fixture(scope="session", params=["pip", "npm"])
def installed(
    request: pytest.FixtureRequest, registry: DockerRegistry, scratch: Scratch
) -> tuple[str, Path]:
    """A reference, and the tree that GNU tar extracts from its layer."""
    source, names = (PACKAGES, PIP_NAMES) if request.param == "pip" else (node_modules(), ["."])
    folder = scratch(request.param)
    archive = folder / "tree.tar"
    subprocess.run(
        ["tar", "--create", "--format=pax", f"--file={archive}", "--directory", source, *names],
        check=True,
    )
    expected = folder / "expected"
    expected.mkdir()
    subprocess.run(
        ["tar", "--extract", "--same-permissions", f"--file={archive}", "--directory", expected],
        check=True,
    )
    made = image(layer(archive.read_bytes(), "zstd"))
    return registry.push(made, f"tree/{request.param}:1"), expected


def test_an_installed_tree_is_what_tar_extracts(
    daemon: Daemon, installed: tuple[str, Path], tmp_path: Path
) -> None:
    reference, expected = installed
    daemon.pull(reference, timeout=300)
    with mounted(daemon, reference, tmp_path / "root") as root:
        found, wanted = describe(root), describe(expected)
    assert len(found) > 500
    # The root itself is in no archive of names.
    assert difference(found | {".": wanted["."]}, wanted) == []


def _writer(piece: io.BytesIO) -> tarfile.TarFile:
    return tarfile.open(fileobj=piece, mode="w", format=tarfile.PAX_FORMAT)


def forty_layers() -> list[Layer]:
    """A Debian root in pieces, and over them layers that hide, replace and retype parts of it."""
    choice = random.Random(40)
    pieces: list[io.BytesIO] = [io.BytesIO() for _ in range(LAYERS // 2)]
    files: list[str] = []
    with tarfile.open(debian_archive()) as whole, ExitStack() as stack:
        archives = [stack.enter_context(_writer(piece)) for piece in pieces]
        for member in whole:
            name = member.name.removeprefix("./")
            if member.isdir():
                for archive in archives:
                    archive.addfile(member)
            elif member.islnk():
                # Hard links stay with their targets.
                archives[0].addfile(member)
            else:
                links = member.isfile() and not name.startswith("usr/share/")
                where = archives[0] if links else choice.choice(archives)
                where.addfile(member, whole.extractfile(member) if member.isfile() else None)
                if name.startswith("usr/share/"):
                    files.append(name)
    layers = [layer(piece.getvalue()) for piece in pieces]
    for number in range(LAYERS - len(layers)):
        tree = {}
        for name in choice.sample(files, 30):
            parent, _, base = name.rpartition("/")
            action = choice.randrange(3)
            if action == 0:
                tree[f"{parent}/.wh.{base}"] = WHITEOUT
            elif action == 1:
                tree[name] = file(f"layer {number}\n", 0o640)
            else:
                tree[name] = directory(0o750)
                tree[f"{name}/inside"] = file(f"layer {number}\n")
            files.remove(name)
        layers.append(layer(dict(sorted(tree.items()))))
    return layers


@pytest.fixture(scope="session")
def forty(registry: DockerRegistry, scratch: Scratch) -> tuple[str, Path]:
    """A reference, and the tree that umoci unpacks from the image."""
    require_real(shutil.which("umoci") is not None, "umoci is not installed")
    made = image(*forty_layers())
    folder = scratch("forty")
    write_layout(folder / "layout", "forty", made)
    bundle = folder / "bundle"
    command = ["umoci", "raw", "unpack", "--image", f"{folder / 'layout'}:forty", str(bundle)]
    subprocess.run(command, check=True, capture_output=True)
    return registry.push(made, "tree/forty:1"), bundle


def test_forty_layers_are_what_umoci_unpacks(
    daemon: Daemon, forty: tuple[str, Path], tmp_path: Path
) -> None:
    reference, bundle = forty
    daemon.pull(reference, timeout=300)
    with mounted(daemon, reference, tmp_path / "root") as root:
        found = describe(root)
    expected = describe(bundle)
    assert len(expected) > 3000
    assert difference(_without_directory_times(found), _without_directory_times(expected)) == []


def _without_directory_times(tree: dict[str, Entry]) -> dict[str, Entry]:
    """umoci gives a parent that a layer does not list the time of the unpacking; we keep its
    own."""
    return {
        name: entry._replace(mtime_ns=0) if entry.kind == "d" else entry
        for name, entry in tree.items()
    }
