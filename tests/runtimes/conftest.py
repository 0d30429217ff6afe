from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.images.gated import GatedRegistry
from tests.images.workbench import Bench


@pytest.fixture
async def registry() -> AsyncIterator[GatedRegistry]:
    async with GatedRegistry() as opened:
        yield opened


@pytest.fixture
async def bench(tmp_path: Path, registry: GatedRegistry) -> AsyncIterator[Bench]:
    async with Bench.open(tmp_path / "root", registry) as opened:
        yield opened
