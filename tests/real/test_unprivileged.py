"""The daemon as an ordinary user: no capability, native snapshots, everything but mounting."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.conftest import Scratch
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.images import Image, directory, file, image, layer
from tests.support.require import require_real

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def nobodys(scratch: Scratch) -> Iterator[Daemon]:
    require_real(os.geteuid() == 0, "only root can become nobody")
    with Daemon(scratch("nobody"), snapshotter="native", privileged=False) as running:
        yield running


def test_it_has_no_privilege(nobodys: Daemon) -> None:
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{nobodys.process.pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert set(status["Uid"].split()) == {"65534"}
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0


def test_pull_list_inspect_remove(nobodys: Daemon, busybox_reference: str, busybox: Image) -> None:
    assert nobodys.pull(busybox_reference) == busybox.id
    assert busybox.id in {shown.id for shown in nobodys.images()}
    found = nobodys.image(busybox.id)
    assert found is not None
    assert list(found.repo_tags) == [busybox_reference]
    assert nobodys.cli("inspect", busybox_reference).returncode == 0
    nobodys.remove(busybox_reference)
    assert nobodys.image(busybox_reference) is None


def test_a_debian_root(nobodys: Daemon, debian_reference: str, debian: Image) -> None:
    assert nobodys.pull(debian_reference, timeout=300) == debian.id


def test_the_root_file_system_is_there_to_read(nobodys: Daemon, registry: DockerRegistry) -> None:
    tree = {
        "etc": directory(),
        "etc/owned-by-root": file("root's", uid=0, gid=0),
        "etc/owned-by-web": file("web's", mode=0o600, uid=1000, gid=1000),
    }
    reference = registry.push(image(layer(tree)), "unprivileged/tree:1")
    nobodys.pull(reference)
    view = json.loads(nobodys.cli("mount", "--no-mount", "-o", "json", reference, "/mnt").stdout)
    (mount,) = view["mounts"]
    root = Path(mount["source"])
    assert (root / "etc/owned-by-web").read_text() == "web's"
    assert (root / "etc/owned-by-root").stat().st_uid == 65534
    nobodys.cli("umount", "/mnt")
