"""Beginnings of pulls. Many small ones at once would be in front of everybody else in each queue
that there is: of the event loop, of threads, of the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from cri_imaged.images.pull.admission import Admission
from cri_imaged.images.pull.shares import Share
from cri_imaged.limits import MIB
from cri_imaged.ports import Activity, Priority

_AT_ONCE = 32
"""In fair shares: 8 of one namespace, if no others begin. They keep some processors busy."""
_LOOK_SECONDS = 0.25
_LONGEST_SECONDS = 30.0
_SMALL = 8 * MIB


class Starts:
    """Lets pulls begin, a few of each priority and registry at a time. The next one begins when one
    has ended, has waited for a registry, has got more than a small image, or is at work for
    long."""

    def __init__(self) -> None:
        self._admissions = {priority: Admission(_AT_ONCE) for priority in Priority}

    @asynccontextmanager
    async def start(
        self, share: Share, activity: Activity, is_fetching: Callable[[], bool]
    ) -> AsyncIterator[None]:
        """Begin, and be at work while the context lasts. `activity`: the pull's. `is_fetching`:
        whether blobs of it are still to come, by its own requests or another pull's."""
        admission = self._admissions[activity.priority]
        turn = admission.ask(share, activity)
        try:
            await turn
        except asyncio.CancelledError:
            admission.give_up(turn, share)
            raise
        beginning = asyncio.create_task(_until_begun(activity, is_fetching))
        beginning.add_done_callback(lambda _: admission.leave(share))
        try:
            yield
        finally:
            beginning.cancel()


async def _until_begun(activity: Activity, is_fetching: Callable[[], bool]) -> None:
    loop = asyncio.get_running_loop()
    latest = loop.time() + _LONGEST_SECONDS
    received, waited = 0, False
    while loop.time() < latest and activity.received < _SMALL:
        await asyncio.sleep(_LOOK_SECONDS)
        waits = bool(activity.hosts) or is_fetching()
        if waits and waited and activity.received == received:
            return
        received, waited = activity.received, waits
