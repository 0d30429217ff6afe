"""Containers that containerd's CRI starts from images that we pulled, and what may happen to it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from contextlib import closing
from typing import Any

import pytest

from cri_imaged.rpc.runtime.v1 import api_pb2, api_pb2_grpc
from tests.real.runtimes.conftest import Pushed
from tests.support.containerd import PLUGIN
from tests.support.docker_registry import DockerRegistry
from tests.support.images import file, image, layer
from tests.support.node import Node
from tests.support.process import wait_until
from tests.support.store import named

pytestmark = pytest.mark.real

PATIENCE = 2.0
"""Seconds that a pull waits for containerd."""


@pytest.fixture(autouse=True)
def _nothing_runs(node: Node) -> None:
    """Each test begins with the pause image alone."""
    node.clear()


def test_removal_under_a_running_container_takes_its_space_when_it_ends(
    node: Node, registry: DockerRegistry, app: Pushed
) -> None:
    megabyte = image(*app.image.layers, layer({"big": file(bytes(1 << 20))}), Cmd=["x"])
    name = registry.push(megabyte, "node/big:1")
    image_id = node.daemon.pull(name)
    container = node.pods.run("removed", image_id, "/bin/sleep", "9999")
    assert container in node.daemon.cli("inspect", name).stdout
    removed = node.daemon.cli("rm", name)
    assert "its layers stay until this ends: containerd k8s.io/" in removed.stderr
    assert container in removed.stderr
    node.daemon.cli("gc", "--resumable")
    assert image_id not in node.containerd.image_names()
    inside = node.containerd.crictl("exec", container, "/bin/ls", "-l", "/big")
    assert inside.split()[4] == str(1 << 20), "the root file system is whole"
    assert named(node.daemon.root, "big")
    node.end(container)
    wait_until(
        lambda: not named(node.daemon.root, "big"),
        "the space of the layer comes back",
        node.daemon.process,
        seconds=180,  # containerd is asked once a minute to collect
    )
    _only_pause_is_held(node)


def test_what_a_container_wrote_goes_where_it_was_removed_while_our_daemon_was_dead(
    node: Node, app: Pushed
) -> None:
    """containerd asks once, and for all of a snapshotter only when something of it goes."""
    image_id = node.daemon.pull(app.reference)
    script = "echo x > /written; sleep 9999"
    container = node.pods.run("dies", image_id, "/bin/busybox", "sh", "-c", script)
    wait_until(lambda: named(node.daemon.root, "written"), "it writes")
    node.daemon.remove(image_id)
    node.daemon.kill()
    node.end(container)
    node.containerd.collect()
    node.daemon.start()
    wait_until(
        lambda: not named(node.daemon.root, "written"), "its space comes back", node.daemon.process
    )
    _only_pause_is_held(node)


def _only_pause_is_held(node: Node) -> None:
    pause = node.chain(node.pause)
    held: set[str] = set()

    def is_alone() -> bool:
        held.clear()
        held.update(each["name"] for each in node.held())
        return held == {pause}

    try:
        # What containerd forgot while it was collecting is found after a minute.
        wait_until(is_alone, "nothing else is held", seconds=180)
    except AssertionError as error:
        known = node.containerd.ctr("snapshots", "--snapshotter", PLUGIN, "list")
        logged = node.containerd.process.log()[-4000:]
        raise AssertionError(f"{error}: {held}; containerd knows\n{known}\n{logged}") from None


def test_the_nodes_policy_takes_what_is_old_and_not_what_a_container_runs_from(
    node: Node, registry: DockerRegistry, app: Pushed
) -> None:
    kept = node.daemon.pull(app.reference)
    spare = registry.push(image(layer({"spare": file("x")})), "node/spare:1")
    gone = node.daemon.pull(spare)
    container = node.pods.run("kept", kept, "/bin/sleep", "9999")
    before = node.daemon.config.read_text()
    node.daemon.stop()
    node.daemon.config.write_text(f'{before}\n[image.gc]\nmax_age = "1h"\n')
    with closing(sqlite3.connect(node.daemon.root / "metadata.db")) as database, database:
        database.executescript(
            "UPDATE images SET created = 1, used = 1; UPDATE names SET updated = 1"
        )
    node.daemon.start()
    try:
        removed = json.loads(node.daemon.cli("gc", "--images", "-o", "json").stdout)["removals"]
        assert [each["image_id"] for each in removed] == [gone]
        # The daemon has just started: it may tell containerd when it has caught up with it.
        wait_until(
            lambda: not node.containerd.image_names() & {gone, spare}, "containerd hears of it"
        )
        assert kept in node.containerd.image_names()
        assert node.containerd.crictl("exec", container, "/bin/cat", "/srv/text") == "hello\n"
    finally:
        node.daemon.config.write_text(before)
        node.daemon.cli("config", "reload")


def test_containerd_hears_of_a_pin_and_that_it_was_taken_back(node: Node, app: Pushed) -> None:
    node.daemon.pull(app.reference)

    def pinned() -> bool:
        """As containerd's CRI shows it."""
        status = node.containerd.crictl.json("inspecti", app.reference)["status"]
        return bool(status.get("pinned"))

    assert not pinned()
    for command, wanted in (("pin", True), ("unpin", False), ("pin", True)):
        node.daemon.cli(command, app.reference)
        records = node.containerd.ctr("images", "ls", f"name=={app.reference}")
        assert ("io.cri-containerd.pinned=pinned" in records) is wanted
        wait_until(lambda: pinned() is wanted, f"containerd's CRI knows: {command}")  # noqa: B023


def test_it_is_told_what_each_container_has_written(node: Node, app: Pushed) -> None:
    image_id = node.daemon.pull(app.reference)
    script = "dd if=/dev/zero of=/written bs=1M count=2; sleep 9999"
    writer = node.pods.run("writer", image_id, "/bin/busybox", "sh", "-c", script)
    node.pods.run("idle", image_id, "/bin/sleep", "9999")

    def largest() -> dict[str, Any]:
        shown = json.loads(node.daemon.cli("fs", "-o", "json").stdout)
        return dict(shown["containers"][0])

    wait_until(lambda: int(largest().get("bytes", 0)) >= 2 << 20, "it is measured", seconds=60)
    assert writer in largest()["name"]
    assert f"{writer} (2.0 MiB written)" in node.daemon.cli("inspect", image_id).stdout

    def kubelets() -> int:
        with node.daemon.channel() as channel:
            stub = api_pb2_grpc.ImageServiceStub(channel)
            answer = stub.ImageFsInfo(api_pb2.ImageFsInfoRequest())
        (entry,) = answer.container_filesystems
        assert entry.fs_id == answer.image_filesystems[0].fs_id, "one disk"
        return int(entry.used_bytes.value)

    wait_until(lambda: kubelets() >= 2 << 20, "the kubelet is told", seconds=60)


def test_a_container_starts_after_containerd_was_killed(node: Node, app: Pushed) -> None:
    image_id = node.daemon.pull(app.reference)
    running = node.pods.run("lives", image_id, "/bin/sleep", "9999")
    node.containerd.kill()
    pulled = node.daemon.pull(app.reference)
    assert pulled == image_id, "a pull succeeds without containerd"
    node.containerd.start()
    node.settled()
    assert node.pods.state(running) == "CONTAINER_RUNNING"
    assert node.pods.output(node.pods.run("after", image_id)) == "hello\n"


def test_a_container_lives_on_while_our_daemon_is_dead(node: Node, app: Pushed) -> None:
    image_id = node.daemon.pull(app.reference)
    running = node.pods.run("lives", image_id, "/bin/sleep", "9999")
    pod = node.pods.sandbox("waits")
    node.daemon.kill()
    assert node.pods.state(running) == "CONTAINER_RUNNING"
    assert "hello" in node.containerd.crictl("exec", running, "/bin/cat", "/srv/text")
    with pytest.raises(AssertionError, match=r"(?i)unavailable|snapshots\.sock"):
        node.pods.create(pod, "waits", image_id)
    node.daemon.start()
    node.settled()
    container = wait_until(lambda: node.pods.tries(pod, "waits", image_id), "it is created")
    node.containerd.crictl("start", container)
    assert node.pods.output(container) == "hello\n"


def test_what_a_killed_daemon_held_in_containerd_is_let_go(node: Node) -> None:
    node.daemon.kill()
    for lease in ("cri-imaged-0123456789abcdef", "another"):
        node.containerd.ctr("leases", "create", "--id", lease)
    node.daemon.start()
    node.settled()
    left = node.containerd.ctr("leases", "list", "--quiet").split()
    node.containerd.ctr("leases", "delete", "another")
    assert left == ["another"]


def test_containers_start_after_both_were_killed(node: Node, app: Pushed) -> None:
    image_id = node.daemon.pull(app.reference)
    node.containerd.kill()
    node.daemon.kill()
    node.daemon.start()
    node.containerd.start()
    node.settled()
    assert node.agrees()
    assert node.pods.output(node.pods.run("after", image_id)) == "hello\n"


def test_everything_is_registered_again_with_a_containerd_that_lost_its_root(
    node: Node, app: Pushed
) -> None:
    image_id = node.daemon.pull(app.reference)
    node.containerd.stop()
    node.containerd.wipe()
    node.containerd.start()
    wait_until(node.agrees, "containerd knows every image again")
    node.settled()
    assert node.pods.output(node.pods.run("after", image_id)) == "hello\n"
    assert node.daemon.cli("check").returncode == 0


def test_what_was_pulled_and_removed_without_containerd_is_told_when_it_is_back(
    node: Node, app: Pushed, registry: DockerRegistry
) -> None:
    other = registry.push(image(*app.image.layers, layer({"y": file("y")})), "node/other:1")
    gone = node.daemon.pull(other)
    assert gone in node.containerd.image_names()
    node.containerd.stop()
    wait_until(lambda: not node.status()["up"], "the loss is noticed")
    node.daemon.remove(gone)
    image_id = node.daemon.pull(app.reference)
    node.daemon.stop()
    node.daemon.start()
    node.containerd.start()
    wait_until(node.agrees, "containerd knows what is here, and not what is gone")
    assert image_id in node.containerd.image_names()
    assert gone not in node.containerd.image_names()


def test_a_containerd_that_hangs_holds_a_pull_up_for_two_seconds(
    node: Node, app: Pushed, registry: DockerRegistry
) -> None:
    others = [
        registry.push(image(layer({f"{n}": file(f"{n}")}), Cmd=["x"]), f"node/{n}:1")
        for n in range(2)
    ]
    os.kill(node.containerd.process.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        node.daemon.pull(others[0])
        assert time.monotonic() - began >= PATIENCE
        began = time.monotonic()
        node.daemon.pull(others[1])
        assert time.monotonic() - began < PATIENCE, "it is known to hang by now"
        status = node.status()
        assert not status["up"]
        assert status["owed"] == len(others)
        assert "did not answer" in status["problem"]
        assert node.daemon.metric('cri_imaged_runtime_owed_images{runtime="containerd"}') == 2
    finally:
        os.kill(node.containerd.process.pid, signal.SIGCONT)
    wait_until(node.agrees, "containerd is told when it is back", node.daemon.process)


def test_a_runtime_is_forgotten_when_it_is_gone_for_good(node: Node, app: Pushed) -> None:
    image_id = node.daemon.pull(app.reference)
    refused = node.daemon.cli("runtime", "forget", "containerd", check=False)
    assert "containerd is connected" in refused.stderr
    node.containerd.stop()
    wait_until(lambda: not node.status()["up"], "the loss is noticed")
    node.daemon.remove(image_id)
    assert node.held()
    node.daemon.cli("runtime", "forget", "containerd")
    assert node.held() == []
    wait_until(lambda: not named(node.daemon.root, "srv"), "the space comes back")
    node.containerd.start()
    node.settled()
    image_id = node.daemon.pull(app.reference)
    assert node.pods.output(node.pods.run("after", image_id)) == "hello\n", "and should it return"


@pytest.mark.parametrize("what", ["image", "all images", "snapshot", "content"])
def test_what_somebody_else_removes_in_containerd_comes_back(
    node: Node, app: Pushed, what: str
) -> None:
    image_id = node.daemon.pull(app.reference)
    containerd = node.containerd
    match what:
        case "image":
            containerd.ctr("images", "remove", app.reference)
        case "all images":
            containerd.crictl("rmi", image_id)
        case "snapshot":
            top = node.chain(image_id)
            containerd.ctr("snapshots", "--snapshotter", "cri-imaged", "remove", top)
        case "content":
            containerd.ctr("content", "remove", image_id)
    wait_until(node.agrees, "containerd knows the image again")
    node.settled()
    assert node.pods.output(node.pods.run(what.split()[-1], image_id)) == "hello\n"
    wait_until(lambda: _mends(node, image_id) == 1, "one line says that it was mended")


def _mends(node: Node, image_id: str) -> int:
    return sum(
        line["event"] == "containerd is in line with an image"
        and line["image"] == image_id
        and "somebody else" in line["because"]
        for line in node.daemon.log_lines()
    )
