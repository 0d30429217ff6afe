"""The daemon's background tasks."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from cri_imaged.process import background


async def test_a_task_that_fails_is_told_at_once_and_harms_no_other() -> None:
    ended = asyncio.Event()

    async def fails() -> None:
        raise RuntimeError("a defect")

    async def goes_on() -> None:
        await asyncio.sleep(0.01)
        ended.set()

    with capture_logs() as logs:
        async with background(fails(), goes_on()):
            await ended.wait()
            (line,) = logs
            assert line["event"] == "background task failed"
            assert str(line["exc_info"]) == "a defect"
        assert len(logs) == 1
