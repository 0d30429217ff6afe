"""The specs of critest that pass with containerd alone pass with our images, too."""

from __future__ import annotations

import os

import pytest

from tests.real.conftest import Scratch
from tests.support.containerd import Containerd
from tests.support.critest import critest_image, passed
from tests.support.docker_registry import DockerRegistry
from tests.support.node import Node

pytestmark = pytest.mark.real

EVERY = "Container|PodSandbox|Security Context|Idempotence|Runtime info"
QUICK = (
    "basic operations on container runtime should (support (creating|removing|exec)|support "
    "preserving|support listing container stats)|adding volume and device|RunAsUser |MaskedPaths"
    "|NamespaceMode_POD|readonly mounts should support|Idempotence"
)
"""One of each kind: what makes, changes and removes the root of a container."""
FEWEST = 15
"""That pass with containerd alone, of the quick ones."""


def test_what_passes_with_containerd_alone_passes_with_us(
    scratch: Scratch, registry: DockerRegistry, pause: str
) -> None:
    focus = EVERY if os.environ.get("CRITEST") == "all" else QUICK
    name = registry.push(critest_image(), "critest/busybox:1")
    alone = Containerd(
        scratch("alone"), scratch("unused") / "s", pause, snapshotter="overlayfs", networked=True
    )
    with alone:
        alone.crictl.pull(pause)
        expected = passed(scratch("report"), alone.socket, alone.socket, name, focus)
    with Node(scratch("node"), pause, networked=True) as node:
        seen = passed(scratch("report"), node.containerd.socket, node.daemon.socket, name, focus)
        node.containerd.end_pods()
        assert node.agrees()
    assert len(expected) >= FEWEST
    assert expected - seen == set()
