from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from cri_imaged.mounting import overlay_obstacle
from tests.snapshots.bench import CLASSES, Bench, scratch
from tests.support.require import require_real


def require_snapshotter(name: str) -> None:
    if name == "overlay":
        require_real(os.geteuid() == 0, "overlay needs root")


@pytest.fixture(params=sorted(CLASSES))
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """Each snapshotter in turn, on an empty root."""
    require_snapshotter(request.param)
    with scratch() as root:
        if request.param == "overlay":
            assert overlay_obstacle(root) is None
        async with Bench.open(root, request.param) as bench:
            yield bench
