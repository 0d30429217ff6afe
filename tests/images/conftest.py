from __future__ import annotations

import asyncio
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
    """A daemon on an empty root. Nothing goes wrong unheard, and nothing runs on."""
    heard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
    before = asyncio.all_tasks()
    async with Bench.open(tmp_path / "root", registry) as opened:
        yield opened
    assert heard == []
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert {task for task in left if "aiohttp" not in repr(task)} == set()
