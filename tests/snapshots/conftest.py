from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cri_imaged.mounting import overlay_obstacle
from tests.snapshots.bench import CLASSES, Bench, memory, scratch
from tests.support.require import require_real


def require_snapshotter(name: str) -> None:
    if name == "overlay":
        require_real(os.geteuid() == 0, "overlay needs root")


@pytest.fixture(params=sorted(CLASSES))
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """Each snapshotter in turn, on an empty root."""
    async with opened(request.param, None) as bench:
        yield bench


@pytest.fixture(params=sorted(CLASSES))
async def bench_in_memory(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """The same for what would take a disk long to remove."""
    async with opened(request.param, memory()) as bench:
        yield bench


@contextlib.asynccontextmanager
async def opened(name: str, folder: Path | None) -> AsyncIterator[Bench]:
    require_snapshotter(name)
    with scratch(folder) as root:
        if name == "overlay":
            assert overlay_obstacle(root) is None
        async with Bench.open(root, name) as bench:
            yield bench
