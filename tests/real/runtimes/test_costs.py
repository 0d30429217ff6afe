"""What it costs that containerd runs our images."""

from __future__ import annotations

import os
import re
import statistics
from datetime import datetime

import pytest

from tests.real.conftest import Scratch
from tests.real.runtimes.conftest import Pushed
from tests.support.containerd import Containerd, Pods
from tests.support.node import Node

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        "COSTS" not in os.environ, reason="measured by `make costs`, on a quiet machine"
    ),
]

ROUNDS = 15
STARTS = 50
REGISTRATION = 0.06
"""Seconds that registering adds to a pull of three layers at the most, in the middle."""
START = 1.2
"""How many times as long as with containerd's own snapshotter a start takes at the most."""


def test_registration_adds_little_to_a_pull(scratch: Scratch, pause: str, app: Pushed) -> None:
    with Node(scratch("node"), pause) as node:
        for _ in range(ROUNDS):
            image_id = node.daemon.pull(app.reference)
            node.daemon.remove(image_id)
        seconds = [
            line["seconds"]
            for line in node.daemon.log_lines()
            if line["event"] == "containerd is in line with an image"
            and line["image"] == image_id
            and line["known"]
        ]
    assert len(seconds) == ROUNDS
    print(f"registration: p50 {statistics.median(seconds) * 1000:.1f} ms")
    assert statistics.median(seconds) <= REGISTRATION


def test_containers_start_about_as_fast_as_with_containerds_own_snapshotter(
    scratch: Scratch, pause: str, app: Pushed
) -> None:
    alone = Containerd(scratch("alone"), scratch("unused") / "s", pause, snapshotter="overlayfs")
    with Node(scratch("node"), pause) as node, alone:
        node.daemon.pull(app.reference)
        for name in (pause, app.reference):
            alone.crictl.pull(name)
        ours, own = _starts(app, node.pods, Pods(alone, scratch("pods")))
    print(f"start: p50 {ours * 1000:.1f} ms, with containerd alone {own * 1000:.1f} ms")
    assert ours <= START * own


def test_containers_start_about_as_fast_from_images_of_layers_as_from_directories(
    scratch: Scratch, pause: str, app: Pushed
) -> None:
    with (
        Node(scratch("erofs"), pause, snapshotter="erofs") as on_images,
        Node(scratch("overlay"), pause) as on_directories,
    ):
        for node in (on_images, on_directories):
            node.daemon.pull(app.reference)
            node.settled()
        erofs, overlay = _starts(app, on_images.pods, on_directories.pods)
    print(f"start: p50 {erofs * 1000:.1f} ms with erofs, with overlay {overlay * 1000:.1f} ms")
    assert erofs <= START * overlay


def _starts(app: Pushed, first: Pods, second: Pods) -> tuple[float, float]:
    """Seconds that a container's start takes by either in the middle."""
    both = (first, second)
    sandboxes = [pods.sandbox("costs") for pods in both]
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(STARTS):  # side by side: both meet the same disturbances
        for pods, sandbox, seconds in zip(both, sandboxes, took, strict=True):
            container = pods.create(sandbox, "costs", app.image.id)
            pods.containerd.crictl("start", container)
            seconds.append(_seconds_to_start(pods.containerd, container))
    return statistics.median(took[0]), statistics.median(took[1])


def _seconds_to_start(containerd: Containerd, container: str) -> float:
    """What CreateContainer and StartContainer took of one container, by containerd's log."""
    log = containerd.process.log()
    (name,) = re.findall(rf'for (name:\S+) returns container id \\"{container}', log)
    create, start = rf"for (?:container )?{re.escape(name)}", rf'StartContainer for \\"{container}'
    return sum(
        _between(*re.findall(rf'^time="(\S+)" .*{verb}', log, re.MULTILINE))
        for verb in (create, start)
    )


def _between(first: str, second: str) -> float:
    """Seconds between two times of the log, which have nanoseconds."""
    return (_time(second) - _time(first)).total_seconds()


def _time(text: str) -> datetime:
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", text))
