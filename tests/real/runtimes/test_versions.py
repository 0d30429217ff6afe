"""Containers from images that we pulled, with each containerd that is supported."""

from __future__ import annotations

import pytest

from tests.real.runtimes.conftest import Pushed
from tests.support.node import Node
from tests.support.process import wait_until

pytestmark = pytest.mark.real

DOCUMENTS = 64 << 10
"""More than indexes, manifests and configs of these tests have; less than a layer."""


@pytest.fixture(autouse=True)
def _nothing_runs(any_node: Node) -> None:
    """Each test begins with the pause image alone."""
    any_node.clear()


def test_a_container_runs_from_layers_that_containerd_never_had(
    any_node: Node, app: Pushed
) -> None:
    image_id = any_node.daemon.pull(app.reference)
    assert any_node.agrees(), "at once when the pull is answered"
    container = any_node.pods.run("first", image_id)
    assert any_node.pods.output(container) == "hello\n"
    listed = any_node.pods.run("second", image_id, "/bin/ls", "-ld", "/srv", "/srv/gone")
    assert "drwxr-x---" in any_node.pods.output(listed)
    assert any_node.containerd.content_bytes() < DOCUMENTS
    status = any_node.containerd.crictl.json("inspect", container)["status"]
    assert status["imageId"] == image_id, "the kubelet compares the two"


def test_an_image_volume_is_mounted(any_node: Node, app: Pushed) -> None:
    image_id = any_node.daemon.pull(app.reference)
    container = any_node.pods.run(
        "volume",
        image_id,
        *("/bin/sh", "-c", "cat /volume/srv/text; touch /volume/x || echo read-only"),
        mounts=[{"container_path": "/volume", "image": {"image": image_id}, "readonly": True}],
    )
    assert any_node.pods.output(container) == "hello\nread-only\n"


def test_what_is_pulled_and_removed_without_it_is_told_when_it_is_back(
    any_node: Node, app: Pushed
) -> None:
    any_node.containerd.kill()
    image_id = any_node.daemon.pull(app.reference)
    any_node.containerd.start()
    wait_until(any_node.agrees, "containerd knows what was pulled")
    assert any_node.pods.output(any_node.pods.run("after", image_id)) == "hello\n"
    any_node.containerd.end_pods()
    any_node.daemon.remove(image_id)
    assert any_node.agrees()
