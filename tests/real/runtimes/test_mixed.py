"""Images that share a part with what containerd has already, or that have lost one of ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.real.conftest import Scratch
from tests.real.runtimes.conftest import Pushed
from tests.support.containerd import PLUGIN
from tests.support.docker_registry import DockerRegistry
from tests.support.images import file, image, layer, sha256
from tests.support.node import Node
from tests.support.process import wait_until
from tests.support.store import named

pytestmark = pytest.mark.real

OTHER = '[image.runtime_platforms.other]\nplatform = "linux/s390x"\n'


@pytest.fixture(scope="module")
def node(scratch: Scratch, pause: str) -> Iterator[Node]:
    with Node(scratch("node"), pause, image_options=OTHER) as running:
        yield running


def test_an_image_runs_on_a_layer_that_containerd_pulled_itself(
    node: Node, app: Pushed, registry: DockerRegistry
) -> None:
    shared = (*app.image.layers, layer({"srv/shared": file("its own\n")}))
    base = registry.push(image(*shared, Cmd=["x"]), "mixed/base:1")
    more = (*shared, layer({"srv/more": file("ours\n")}), layer({"srv/most": file("top\n")}))
    made = image(*more, Cmd=["/bin/cat", "/srv/text", "/srv/shared", "/srv/more", "/srv/most"])
    name = registry.push(made, "mixed/top:1")
    pull = ("images", "pull", "--local", "--plain-http", "--snapshotter", PLUGIN)
    node.containerd.ctr(*pull, base)
    image_id = node.daemon.pull(name)
    assert node.status()["owed"] == 0
    assert image_id in node.containerd.image_names()
    container = node.pods.run("mixed", image_id)
    assert node.pods.output(container) == "hello\nits own\nours\ntop\n"
    node.daemon.remove(image_id)
    node.containerd.crictl("rmi", base)
    node.end(container)
    wait_until(lambda: not named(node.daemon.root, "more"), "our layers go", seconds=180)
    assert not named(node.daemon.root, "most")
    node.containerd.collect()
    wait_until(lambda: not named(node.daemon.root, "shared"), "and what was containerd's own")


def test_two_platforms_of_one_index_are_both_kept(
    node: Node, app: Pushed, registry: DockerRegistry
) -> None:
    other = replace(image(layer({"s390x": file("x")}), Cmd=["x"]), architecture="s390x")
    name = registry.push(replace(app.image, process={"Cmd": ["/bin/true"]}), "mixed/two:1", other)
    ours = node.daemon.pull(name)
    node.daemon.cli("pull", "--runtime-handler", "other", name)
    node.containerd.collect()
    kept = node.containerd.ctr("content", "list", "--quiet")
    assert ours in kept
    assert other.id in kept


def test_an_image_that_was_damaged_here_is_shown_by_neither(
    node: Node, app: Pushed, registry: DockerRegistry
) -> None:
    """The kubelet pulls what we do not show; what containerd alone lacked could never start."""
    made = replace(app.image, process={"Cmd": ["/bin/cat", "/srv/text"], "Labels": {"a": "b"}})
    name = registry.push(made, "mixed/damaged:1")
    image_id = node.daemon.pull(name)
    blobs = node.daemon.root / "content" / "blobs" / "sha256"
    (blobs / image_id.removeprefix("sha256:")).write_bytes(b"{")
    node.containerd.ctr("images", "remove", name)
    wait_until(lambda: node.daemon.image(name) is None, "we show it no more", node.daemon.process)
    wait_until(lambda: image_id not in node.containerd.image_names(), "nor does containerd")
    assert node.daemon.pull(name) == image_id
    assert sha256((blobs / image_id.removeprefix("sha256:")).read_bytes()) == image_id
    assert node.pods.output(node.pods.run("again", image_id)) == "hello\n"


def test_an_image_that_containerd_cannot_read_is_not_taken_for_a_containerd_that_is_gone(
    node: Node, app: Pushed, registry: DockerRegistry
) -> None:
    """While it is, no image is made known to it before its pull is answered."""
    node.daemon.process.log_path.write_text("")
    node.daemon.pull(registry.push(replace(app.image, created="yesterday"), "mixed/odd:1"))
    told = [line for line in node.daemon.log_lines() if "error" in line]
    assert any("does not show" in line["error"] for line in told), told
    assert "containerd is not reachable" not in {line["event"] for line in node.daemon.log_lines()}
    made = replace(app.image, process={"Cmd": ["/bin/cat", "/srv/text"], "Labels": {"c": "d"}})
    image_id = node.daemon.pull(registry.push(made, "mixed/after:1"))
    assert image_id in node.containerd.image_names()
