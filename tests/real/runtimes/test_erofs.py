"""Containers of containerd and runc on layers that are images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri_imaged import mounting
from tests.real.conftest import Scratch
from tests.real.runtimes.conftest import Pushed
from tests.real.runtimes.test_user_namespaces import HOST_ROOT, MAPPED, SCRIPT
from tests.support.node import Node
from tests.support.process import wait_until

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def node(scratch: Scratch, pause: str) -> Iterator[Node]:
    with Node(scratch("node"), pause, networked=True, snapshotter="erofs") as running:
        yield running


def layers(node: Node) -> set[str]:
    """Numbers of those that the daemon has mounted."""
    folder = node.daemon.state / "layers"
    points = (Path(info.mount_point) for info in mounting.mounts())
    return {point.name for point in points if point.parent == folder}


def images(node: Node) -> dict[str, str]:
    """Digests of the layers' images, by number."""
    found = [path for path in node.daemon.root.glob("snapshots/erofs/*") if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_layers_are_mounted_while_containers_stand_on_them(node: Node, app: Pushed) -> None:
    node.clear()
    image_id = node.daemon.pull(app.reference)
    before = layers(node)
    pod = node.pods.sandbox("long")
    long, short = (
        node.pods.create(pod, "long", image_id, "/bin/sh", "-c", script)
        for script in ("sleep 9999", "cat /srv/text; ls /srv; echo x >/srv/own; cat /srv/own")
    )
    for container in (long, short):
        node.containerd.crictl("start", container)
    assert node.pods.output(short).split() == ["hello", "text", "x"]
    mounted = layers(node)
    assert len(mounted - before) == len(app.image.layers), "each once"
    node.daemon.stop()
    node.daemon.start()
    node.settled()
    assert layers(node) == mounted, "a daemon that starts finds what it left"
    node.containerd.crictl("exec", long, "/bin/cat", "/srv/text")
    node.end(long)
    node.daemon.remove(image_id)
    wait_until(lambda: layers(node) == before, "the layers are let go", node.daemon.process)


def test_a_mapped_container_sees_roots_files_as_its_own(node: Node, app: Pushed) -> None:
    """By mounts of the mounted layers that map IDs."""
    image_id = node.daemon.pull(app.reference)
    held = images(node)
    pod = node.pods.sandbox("mapped", linux=MAPPED)
    container = node.pods.create(pod, "mapped", image_id, "/bin/sh", "-c", SCRIPT, linux=MAPPED)
    node.containerd.crictl("start", container)
    *seen, ids = node.pods.output(container).splitlines()
    assert seen == ["0:0 755", "0:0 750", "0:0 644", "0:0", "hello"]
    assert ids.split() == ["0", str(HOST_ROOT), "65536"]
    (new,) = node.daemon.root.glob("snapshots/erofs/r*/fs/srv/new")
    assert new.stat().st_uid == HOST_ROOT, "on disk it is the mapped user's"
    assert images(node) == held, "no layer was copied or changed"
