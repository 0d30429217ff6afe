"""A daemon for the program to talk to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli.peer import Peer, serving


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    async with serving(tmp_path / "cri.sock") as started:
        yield started
