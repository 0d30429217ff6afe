"""Decompression bombs from a real registry: each stops at a default limit, the daemon with all its
processes stays small, and the disk is as it was before."""

from __future__ import annotations

import os
from collections.abc import Iterator

import grpc
import pytest

from cri_imaged.limits import MIB
from tests.real.conftest import Scratch
from tests.support.bombs import BOMBS
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.images import Layer, image, sha256
from tests.support.memory import PeakMemory
from tests.support.process import wait_until
from tests.support.require import require_real
from tests.support.store import contents

pytestmark = pytest.mark.real

MEMORY = 300 * MIB


@pytest.fixture(scope="module")
def daemon(scratch: Scratch) -> Iterator[Daemon]:
    """One is enough: layers are applied the same way for every snapshotter."""
    require_real(os.geteuid() == 0, "only root can chroot")
    with Daemon(scratch("bombs")) as running:
        yield running


@pytest.mark.parametrize("name", BOMBS)
def test_bomb(empty_daemon: Daemon, registry: DockerRegistry, name: str) -> None:
    media_type, pieces, limit = BOMBS[name]
    bomb = image(Layer(b"".join(pieces()), media_type, sha256(name.encode())))
    reference = registry.push(bomb, "bomb:1")
    before = contents(empty_daemon.root)
    with PeakMemory(empty_daemon.process.pid) as peak, pytest.raises(grpc.RpcError) as refused:
        empty_daemon.pull(reference, timeout=600)  # far more than it takes: coverage is slow
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
    assert any(word in refused.value.details() for word in limit.split("|"))  # type: ignore[attr-defined]
    assert 0 < peak.bytes < MEMORY
    empty_daemon.cli("gc", "--resumable")
    wait_until(lambda: contents(empty_daemon.root) == before, "the space is back")
    assert empty_daemon.images() == []
