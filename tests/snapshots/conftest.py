from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cri_imaged.mounting import overlay_obstacle
from tests.snapshots.workbench import CLASSES, Bench, memory, scratch
from tests.support.require import require_real


def require_snapshotter(name: str) -> None:
    if name != "native":
        require_real(os.geteuid() == 0, f"{name} needs root")


@pytest.fixture(params=sorted(CLASSES))
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """Each snapshotter in turn, on an empty root."""
    async with opened(request.param, None) as bench:
        yield bench


@pytest.fixture(params=["native", "overlay"])
async def bench_in_memory(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """The same for what would take a disk long to remove: directories."""
    async with opened(request.param, memory()) as bench:
        yield bench


@contextlib.asynccontextmanager
async def opened(name: str, folder: Path | None) -> AsyncIterator[Bench]:
    require_snapshotter(name)
    with scratch(folder) as root:
        if name != "native":
            assert overlay_obstacle(root) is None
        async with Bench.open(root, name) as bench:
            yield bench
