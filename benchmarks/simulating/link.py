"""A link that divides its rate evenly among what it carries."""

from __future__ import annotations

import asyncio
import heapq
import itertools

_DONE = 1.0
"""Bytes: what is left of a transfer may be this much by rounding."""


class Link:
    """Bytes a second in all, and at most so many for one transfer."""

    def __init__(self, rate: float, each: float) -> None:
        self._rate = rate
        self._each = each
        self._loop = asyncio.get_running_loop()
        self._carried = 0.0
        """Bytes of a transfer that was there from the beginning."""
        self._seen = self._loop.time()
        self._transfers: list[tuple[float, int, asyncio.Future[None]]] = []
        """By what `_carried` is at their ends."""
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    async def carry(self, size: int) -> None:
        """Return when all has arrived."""
        self._settle()
        ended: asyncio.Future[None] = self._loop.create_future()
        heapq.heappush(self._transfers, (self._carried + size, next(self._numbers), ended))
        self._wait_for_next()
        await ended

    def _speed(self) -> float:
        return min(self._rate / len(self._transfers), self._each)

    def _settle(self) -> None:
        now = self._loop.time()
        if self._transfers:
            self._carried += (now - self._seen) * self._speed()
        self._seen = now

    def _wait_for_next(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._transfers:
            left = max(self._transfers[0][0] - self._carried, 0.0)
            self._timer = self._loop.call_later(left / self._speed(), self._arrive)

    def _arrive(self) -> None:
        self._settle()
        while self._transfers and self._transfers[0][0] <= self._carried + _DONE:
            ended = heapq.heappop(self._transfers)[2]
            if not ended.done():
                ended.set_result(None)
        self._wait_for_next()
