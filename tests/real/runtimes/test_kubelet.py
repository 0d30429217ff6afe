"""A real kubelet: static pods run what we pulled."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.conftest import Scratch
from tests.real.runtimes.conftest import Pushed
from tests.support.containerd import Containerd
from tests.support.docker_registry import DockerRegistry
from tests.support.images import file, image, layer
from tests.support.kubelet import Kubelet
from tests.support.loopfs import LoopFileSystem
from tests.support.node import Node
from tests.support.process import wait_until
from tests.support.store import named

pytestmark = pytest.mark.real

DOCUMENTS = 64 << 10
"""More than indexes, manifests and configs of these tests have; less than a layer."""
FOREVER = "while true; do sleep 1; done"


@pytest.fixture
def cluster(scratch: Scratch, pause: str) -> Iterator[tuple[Node, Path]]:
    with Node(scratch("node"), pause) as node:
        yield node, scratch("kubelet")


def output(kubelet: Kubelet, pod: str, container: str = "main") -> str:
    """What a container of a pod printed last, without the runtime's marks."""
    pattern = f"default_{pod}-node_*/{container}/*.log"
    logs = sorted((kubelet.directory / "pods").glob(pattern))
    lines = logs[-1].read_text().splitlines() if logs else []
    return "".join(re.sub(r"^\S+ std(out|err) F ", "", line) + "\n" for line in lines)


def run_pods(kubelet: Kubelet, app: Pushed) -> None:
    """Two pods of one image, with an init container and an image volume, until both printed."""
    kubelet.run(
        "first",
        app.reference,
        *("/bin/sh", "-c", f"cat /srv/text; cat /volume/etc/motd; {FOREVER}"),
        container={"volumeMounts": [{"name": "image", "mountPath": "/volume"}]},
        volumes=[{"name": "image", "image": {"reference": app.reference}}],
        initContainers=[
            {
                "name": "init",
                "image": app.reference,
                "imagePullPolicy": "Always",
                "command": ["/bin/sh", "-c", "echo first of all"],
            }
        ],
    )
    kubelet.run("second", app.reference, "/bin/sh", "-c", f"cat /srv/text; {FOREVER}")
    wait_until(
        lambda: output(kubelet, "first") == "hello\nhello from the image\n",
        "the first pod prints",
        kubelet.process,
    )
    assert output(kubelet, "first", "init") == "first of all\n"
    wait_until(lambda: output(kubelet, "second") == "hello\n", "the second pod prints")


def test_static_pods_run_what_we_pulled(cluster: tuple[Node, Path], app: Pushed) -> None:
    node, directory = cluster
    with Kubelet(directory, node.containerd.socket, node.daemon.socket) as kubelet:
        run_pods(kubelet, app)
        assert node.agrees()
        assert node.containerd.content_bytes() < DOCUMENTS
        ours = kubelet.errors()
    node.containerd.end_pods()
    alone = Containerd(directory / "alone", directory / "s", node.pause, snapshotter="overlayfs")
    with alone, Kubelet(directory / "again", alone.socket, alone.socket) as kubelet:
        alone.crictl.pull(node.pause)
        run_pods(kubelet, app)
        alone_too = kubelet.errors()
    more = [line for kind, line in ours.items() if kind not in alone_too]
    assert more == [], "the kubelet has these not with containerd alone"


def test_a_pod_comes_back_after_a_reboot(cluster: tuple[Node, Path], app: Pushed) -> None:
    node, directory = cluster
    with Kubelet(directory, node.containerd.socket, node.daemon.socket) as kubelet:
        kubelet.run("pod", app.reference, "/bin/sh", "-c", f"cat /srv/text; {FOREVER}")
        wait_until(lambda: output(kubelet, "pod") == "hello\n", "the pod prints", kubelet.process)
        kubelet.process.stop()
        node.containerd.end_pods()
        node.containerd.kill()
        node.daemon.kill()
        node.daemon.start()
        node.containerd.start()
        (before,) = node.containerd.crictl("ps", "-a", "-q").split() or [""]
        kubelet.process.start()
        wait_until(
            lambda: node.containerd.crictl("ps", "-q").split() not in ([], [before]),
            "the pod runs again",
            kubelet.process,
        )


def test_the_kubelets_collector_removes_what_no_container_uses(
    scratch: Scratch, pause: str, app: Pushed, registry: DockerRegistry
) -> None:
    unused = image(layer({"of-nobody": file(bytes(1 << 20))}), Cmd=["x"])
    name = registry.push(unused, "node/unused:1")
    # Always under pressure: it collects every few seconds. Static pods are never evicted.
    options = {
        "evictionHard": {"imagefs.available": "99%"},
        "imageMinimumGCAge": "1s",
        "evictionPressureTransitionPeriod": "1s",
    }
    directory = scratch("disk")
    with (
        LoopFileSystem(directory / "image", directory / "fs", 400) as disk,
        Node(disk.mount_point / "n", pause) as node,
        Kubelet(
            disk.mount_point / "k", node.containerd.socket, node.daemon.socket, options
        ) as kubelet,
    ):
        kubelet.run("user", app.reference, "/bin/sh", "-c", f"cat /srv/text; {FOREVER}")
        wait_until(lambda: output(kubelet, "user") == "hello\n", "the pod prints", kubelet.process)
        removed = node.daemon.pull(name)
        wait_until(lambda: node.daemon.image(removed) is None, "the image goes", kubelet.process)
        wait_until(lambda: not named(node.daemon.root, "of-nobody"), "its space comes back")
        assert removed not in node.containerd.image_names()
        assert node.daemon.image(app.reference) is not None
        assert node.daemon.image(node.pause) is not None, "pinned"
        assert node.agrees()
