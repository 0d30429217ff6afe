"""Real parts, started once for each test process: registries with images in them, crictl."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.crictl import Crictl, find_crictl
from tests.support.daemon import Daemon
from tests.support.debian import busybox_tree, debian_archive
from tests.support.docker_registry import DockerRegistry, Login
from tests.support.images import WHITEOUT, Image, directory, file, image, layer
from tests.support.require import require_real

Scratch = Callable[[str], Path]

DEBIAN_UPPER = {"usr/share/.wh.doc": WHITEOUT, "etc/cri-imaged": file("here\n")}


@pytest.fixture(scope="session")
def scratch() -> Iterator[Scratch]:
    """Makes empty directories with short paths (a socket's has 107 bytes at most) that other
    users may pass; all are removed at the end."""
    with ExitStack() as stack:

        def make(name: str) -> Path:
            path = Path(tempfile.mkdtemp(prefix=f"cri-{name}-"))
            path.chmod(0o755)
            stack.callback(shutil.rmtree, path)
            return path

        yield make


@pytest.fixture(scope="session")
def registry(scratch: Scratch) -> Iterator[DockerRegistry]:
    with DockerRegistry(scratch("registry")) as running:
        yield running


@pytest.fixture(scope="session")
def private_registry(scratch: Scratch) -> Iterator[DockerRegistry]:
    """A registry that asks for a login."""
    with DockerRegistry(scratch("private"), login=Login()) as running:
        yield running


@pytest.fixture(scope="session")
def busybox() -> Image:
    """Two layers, the upper of which hides and changes files of the lower."""
    upper = {"etc/.wh.passwd": WHITEOUT, "etc/motd": file("changed by a layer\n")}
    return image(
        layer(busybox_tree()),
        layer({"etc": directory(), **upper}),
        Cmd=["/bin/cat", "/etc/motd"],
        User="1000:1000",
    )


@pytest.fixture(scope="session")
def busybox_reference(registry: DockerRegistry, busybox: Image) -> str:
    return registry.push(busybox, "library/busybox:1.35")


@pytest.fixture(scope="session")
def debian() -> Image:
    """A real Debian root and a layer with a whiteout and a new file in it."""
    base = layer(debian_archive().read_bytes())
    return image(base, layer(DEBIAN_UPPER, "zstd"), Cmd=["bash"])


@pytest.fixture(scope="session")
def debian_reference(registry: DockerRegistry, debian: Image) -> str:
    return registry.push(debian, "debian:minbase")


@pytest.fixture(scope="module", params=["overlay", "native", "erofs"])
def daemon(request: pytest.FixtureRequest, scratch: Scratch) -> Iterator[Daemon]:
    """A running daemon, privileged, once with each snapshotter; shared by a module's tests."""
    require_real(os.geteuid() == 0, "only root can mount and chroot")
    snapshotter: str = request.param
    with Daemon(scratch(snapshotter), snapshotter=snapshotter) as running:
        yield running


@pytest.fixture
def empty_daemon(daemon: Daemon) -> Daemon:
    """The module's daemon with no image and nothing else in its store."""
    for present in daemon.images():
        daemon.remove(present.id)
    daemon.cli("gc", "--resumable")
    return daemon


@pytest.fixture(scope="session")
def crictl_program() -> Path:
    return find_crictl()


@pytest.fixture
def crictl(crictl_program: Path, daemon: Daemon) -> Crictl:
    return Crictl(crictl_program, daemon.endpoint)
