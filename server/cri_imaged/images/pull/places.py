"""Places among the running pulls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cri_imaged.errors import QueueFullError
from cri_imaged.images.pull.admission import Admission
from cri_imaged.images.pull.shares import Share, Shares
from cri_imaged.limits import KIB, Limits
from cri_imaged.ports import Activity

_LOOK_SECONDS = 1.0
_SLOW_SECONDS = 5.0
"""Over so long a pull is watched before it counts as slow."""
_SLOW_RATE = 64 * KIB
"""Bytes a second; who brings less gives up its place to who waits."""


@dataclass(slots=True, eq=False)
class _Place:
    share: Share
    activity: Activity
    brought: Callable[[], int | None]
    since: float
    bytes: int = 0
    given_up: bool = False

    def is_slow(self, now: float) -> bool:
        if now - self.since < _SLOW_SECONDS:
            return False
        brought = self.brought()
        slow = brought is not None and brought - self.bytes < _SLOW_RATE * (now - self.since)
        self.since, self.bytes = now, brought or 0
        return slow


class Places:
    """`running_pulls` pulls run at a time, by priority and in fair shares. One that waits for a
    slow registry gives up its place where others wait, one of a lower priority where those of a
    higher one do, and goes on without: as many such as there are places, in fair shares too."""

    def __init__(self, limits: Limits) -> None:
        self._running = Admission(limits.running_pulls)
        self._slow = Shares(limits.running_pulls)
        self._queued = Shares(limits.waiting_pulls)
        self._held: set[_Place] = set()
        self._looked = 0.0

    @asynccontextmanager
    async def place(
        self, share: Share, brought: Callable[[], int | None], activity: Activity
    ) -> AsyncIterator[None]:
        """Run while the context lasts. `brought` tells how many bytes have come over the network;
        None while the pull waits for none. `activity` is the pull's.

        Raises:
            QueueFullError: as many pulls of the share wait as may.
        """
        await self._turn(share, activity)
        place = _Place(share, activity, brought, asyncio.get_running_loop().time())
        self._held.add(place)
        try:
            yield
        finally:
            self._held.remove(place)
            if place.given_up:
                self._slow.give_back(share)
            else:
                self._running.leave(share)

    async def _turn(self, share: Share, activity: Activity) -> None:
        turn = self._running.ask(share, activity)
        if turn.done():
            return
        if not self._queued.admits(share):
            self._running.give_up(turn, share)
            raise QueueFullError(
                f"{self._queued.held(share)} pulls from {share} wait already, its share of "
                "image.limits.waiting_pulls; try again later"
            )
        self._queued.take(share)
        try:
            while not turn.done():
                await asyncio.wait([turn], timeout=_LOOK_SECONDS)
                self._take_slow_ones()
        except asyncio.CancelledError:
            self._running.give_up(turn, share)
            raise
        finally:
            self._queued.give_back(share)

    def _take_slow_ones(self) -> None:
        """Of those that run, as long as others wait."""
        now = asyncio.get_running_loop().time()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        for place in self._held:
            wanted = self._running.wanted
            if wanted is None or place.given_up or not self._slow.admits(place.share):
                continue
            if place.activity.priority > wanted or place.is_slow(now):
                place.given_up = True
                self._slow.take(place.share)
                self._running.leave(place.share)
