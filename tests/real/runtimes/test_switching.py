"""A live node is switched over to us and back; layers' blobs are dropped after unpacking."""

from __future__ import annotations

import json
import stat

import pytest

from tests.real.conftest import Scratch
from tests.real.runtimes.conftest import Pushed
from tests.support.containerd import PLUGIN
from tests.support.node import Node
from tests.support.process import wait_until
from tests.support.store import walk

pytestmark = pytest.mark.real

ITS_OWN = "overlayfs"


def test_what_containerd_had_before_goes_on_over_and_back(
    scratch: Scratch, pause: str, app: Pushed
) -> None:
    node = Node(scratch("node"), pause)
    containerd, pods = node.containerd, node.pods

    def switch(snapshotter: str) -> None:
        containerd.stop()
        containerd.snapshotter = snapshotter
        containerd.write_config()
        containerd.start()

    containerd.snapshotter = ITS_OWN
    containerd.write_config()
    with containerd:
        for name in (pause, app.reference):
            containerd.crictl.pull(name)
        before = pods.run("before", app.image.id, "/bin/sleep", "9999")
        switch(PLUGIN)
        with node.daemon:
            node.settled()
            image_id = node.daemon.pull(app.reference)
            assert image_id == app.image.id
            assert pods.state(before) == "CONTAINER_RUNNING"
            assert pods.output(pods.run("over", image_id)) == "hello\n"
            assert "hello" in containerd.crictl("exec", before, "/bin/cat", "/srv/text")
            assert app.reference not in left_over(node), "it is ours by now"
            containerd.ctr("images", "tag", app.reference, "node/left-over:1")
            (name,) = left_over(node)
            assert name == "node/left-over:1"
            containerd.ctr("images", "remove", name)
            assert left_over(node) == []
            switch(ITS_OWN)
            assert pods.state(before) == "CONTAINER_RUNNING"
            assert pods.output(pods.run("back", image_id)) == "hello\n"
            node.settled()
            containerd.end_pods()


def test_another_snapshotter_waits_until_no_container_stands_on_the_one_before(
    scratch: Scratch, pause: str, app: Pushed
) -> None:
    """containerd would have the files of running containers removed."""
    with Node(scratch("node"), pause) as node:
        image_id = node.daemon.pull(app.reference)
        container = node.pods.run("stays", image_id, "/bin/sleep", "9999")
        before = node.daemon.config.read_text()
        node.daemon.stop()
        node.daemon.config.write_text(before.replace('= "overlay"', '= "native"'))
        with pytest.raises(AssertionError, match="containers stand in overlay: set it to overlay"):
            node.daemon.start()
        node.daemon.config.write_text(before)
        node.daemon.start()
        node.settled()
        assert node.pods.state(container) == "CONTAINER_RUNNING"
        node.containerd.end_pods()
        node.containerd.stop()
        wait_until(lambda: not node.status()["up"], "the loss is noticed")
        node.daemon.cli("runtime", "forget", "containerd")
        node.daemon.stop()
        node.daemon.config.write_text(before.replace('= "overlay"', '= "native"'))
        node.daemon.start()
        node.containerd.start()


def left_over(node: Node) -> list[str]:
    """The images that `doctor` would have removed."""
    config = ("--config", str(node.daemon.config))
    answer = json.loads(node.daemon.cli("doctor", *config, "-o", "json", check=False).stdout)
    remedies = [
        each["remedy"] for each in answer["findings"] if " images remove " in each["remedy"]
    ]
    return [name for each in remedies for name in each.partition(" remove ")[2].split()]


def test_containers_run_from_layers_whose_blobs_were_dropped(
    scratch: Scratch, pause: str, app: Pushed
) -> None:
    with Node(scratch("node"), pause, image_options="discard_unpacked_layers = true") as node:
        image_id = node.daemon.pull(app.reference)
        blobs = node.daemon.root / "content" / "blobs"
        size = len(app.image.layers[0].blob)
        wait_until(
            lambda: all(
                info.st_size < size for _, info in walk(blobs) if stat.S_ISREG(info.st_mode)
            ),
            "the layers' blobs are dropped",
            node.daemon.process,
        )
        assert node.pods.output(node.pods.run("first", image_id)) == "hello\n"
        node.containerd.kill()
        node.daemon.kill()
        node.daemon.start()
        node.containerd.start()
        node.settled()
        assert node.agrees()
        assert node.pods.output(node.pods.run("second", image_id)) == "hello\n"
