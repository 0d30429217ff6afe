from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.content.workbench import Bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with Bench.open(tmp_path) as opened:
        yield opened
