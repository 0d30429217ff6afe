"""Bundles that `cri-imaged bundle` writes, run by the real runc and the real crun."""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri_imaged.mounting import mounts
from tests.real.conftest import Scratch
from tests.support.crun import run_bundle
from tests.support.daemon import Daemon
from tests.support.debian import busybox_tree
from tests.support.docker_registry import DockerRegistry
from tests.support.images import directory, file, image, layer, symlink
from tests.support.require import require_real

pytestmark = pytest.mark.real

PASSWD = "root:x:0:0::/:/bin/sh\nalice:x:1234:99::/:/bin/sh\n"
GROUP = "root:x:0:\nusers:x:99:\nbakers:x:77:alice,bob\n"


@pytest.fixture
def bundle(daemon: Daemon, scratch: Scratch) -> Iterator[Path]:
    for program in ("runc", "crun"):
        require_real(shutil.which(program) is not None, f"{program} is not installed")
    path = scratch("bundle") / "of"
    yield path
    if is_mounted(path):
        daemon.cli("umount", str(path / "rootfs"))


def is_mounted(bundle: Path) -> bool:
    # Path.is_mount() does not see a bind mount within one file system.
    return any(info.mount_point == str(bundle / "rootfs") for info in mounts())


def runc(bundle: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["runc", "run", "--bundle", str(bundle), f"cri-imaged-{uuid.uuid4().hex[:12]}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def output(bundle: Path) -> str:
    """What the container prints, by either runtime."""
    printed = []
    for run in (runc, run_bundle):
        done = run(bundle)
        assert done.returncode == 0, f"{run.__name__}: {done.stderr}"
        printed.append(done.stdout)
    assert printed[0] == printed[1], "crun does as runc"
    return printed[0]


def test_a_shell(daemon: Daemon, registry: DockerRegistry, bundle: Path) -> None:
    made = image(layer(busybox_tree()), Cmd=["/bin/sh"], Env=["GREETING=hello", "PATH=/bin"])
    name = registry.push(made, "bundle/shell:1")
    daemon.pull(name)
    script = "echo $GREETING; echo written > /file && cat /file; id -u"
    daemon.cli("bundle", name, str(bundle), "/bin/sh", "--", "-c", script)
    assert output(bundle) == "hello\nwritten\n0\n"
    daemon.remove(name)
    assert output(bundle) == "hello\nwritten\n0\n", "the view holds the image"
    daemon.cli("umount", str(bundle / "rootfs"))
    assert not any((bundle / "rootfs").iterdir())


def test_an_entrypoint_with_arguments_in_a_working_directory(
    daemon: Daemon, registry: DockerRegistry, bundle: Path
) -> None:
    made = image(
        layer(busybox_tree()),
        layer({"srv": directory(), "srv/text": file("from the image\n")}),
        Entrypoint=["/bin/cat"],
        Cmd=["text"],
        WorkingDir="/srv",
    )
    name = registry.push(made, "bundle/entrypoint:1")
    daemon.pull(name)
    answer = json.loads(daemon.cli("bundle", "-o", "json", name, str(bundle)).stdout)
    assert answer == {"image_id": made.id, "bundle": str(bundle)}
    assert output(bundle) == "from the image\n"


def test_a_user_that_is_not_root(daemon: Daemon, registry: DockerRegistry, bundle: Path) -> None:
    made = image(
        layer(busybox_tree()),
        layer({"etc/passwd": file(PASSWD), "etc/group": file(GROUP)}),
        Cmd=["/bin/sh", "-c", "id -u; id -g; id -G; touch /etc/no || echo refused"],
        User="alice",
    )
    name = registry.push(made, "bundle/user:1")
    daemon.pull(name)
    daemon.cli("bundle", name, str(bundle))
    assert output(bundle) == "1234\n99\n99 77\nrefused\n"


def test_an_images_user_files_lead_nowhere_else(
    daemon: Daemon, registry: DockerRegistry, bundle: Path
) -> None:
    made = image(layer({"etc/passwd": symlink("/etc/passwd")}), Cmd=["x"], User="root")
    name = registry.push(made, "bundle/link:1")
    daemon.pull(name)
    refused = daemon.cli("bundle", name, str(bundle), check=False)
    assert refused.returncode == 1
    assert "/etc/passwd has no user 'root'" in refused.stderr
    assert not is_mounted(bundle), "nothing is left mounted"


def test_a_place_that_cannot_be_one_is_named(
    daemon: Daemon, registry: DockerRegistry, bundle: Path
) -> None:
    name = registry.push(image(layer(busybox_tree()), Cmd=["/bin/sh"]), "bundle/place:1")
    daemon.pull(name)
    bundle.touch()
    refused = daemon.cli("bundle", name, str(bundle), check=False)
    assert f"{bundle}/rootfs: Not a directory" in refused.stderr
    bundle.unlink()
    (bundle / "config.json").mkdir(parents=True)
    refused = daemon.cli("bundle", name, str(bundle), check=False)
    assert f"{bundle}/config.json: Is a directory" in refused.stderr
    assert not is_mounted(bundle), "nothing is left mounted"
