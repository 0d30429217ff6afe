"""Nodes with real runtimes, and images for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.real.conftest import Scratch
from tests.support.containerd import VERSIONS
from tests.support.debian import busybox_tree
from tests.support.docker_registry import DockerRegistry
from tests.support.images import WHITEOUT, Image, directory, file, image, layer
from tests.support.node import Node


@dataclass(frozen=True)
class Pushed:
    """An image in the registry."""

    image: Image
    reference: str


@pytest.fixture(scope="session")
def pause(registry: DockerRegistry) -> str:
    """What a pod's sandbox runs."""
    return registry.push(image(layer(busybox_tree()), Cmd=["/bin/sleep", "99999"]), "pause:3.10")


@pytest.fixture(scope="session")
def app(registry: DockerRegistry) -> Pushed:
    """Three layers, with a whiteout and a changed directory."""
    made = image(
        layer(busybox_tree()),
        layer({"srv": directory(0o750), "srv/gone": file("x"), "srv/text": file("lower\n")}),
        layer({"srv/.wh.gone": WHITEOUT, "srv/text": file("hello\n")}),
        Cmd=["/bin/cat", "/srv/text"],
    )
    return Pushed(made, registry.push(made, "node/app:1"))


@pytest.fixture(scope="module")
def node(scratch: Scratch, pause: str) -> Iterator[Node]:
    """One node for the tests of a module."""
    with Node(scratch("node"), pause) as running:
        yield running


@pytest.fixture(scope="module", params=VERSIONS)
def any_node(request: pytest.FixtureRequest, scratch: Scratch, pause: str) -> Iterator[Node]:
    """One node for the tests of a module, with each containerd."""
    with Node(scratch("node"), pause, version=request.param) as running:
        yield running
