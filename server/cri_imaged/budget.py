"""One budget of memory for what strangers make the daemon hold."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cri_imaged.errors import LimitExceededError

_SMALL_PART = 16
"""One part of so many is for small claims alone."""
_SMALL_CLAIMS = 4
"""That find room there at the same time, at the least."""


class MemoryBudget:
    """`limit` bytes, drawn from before the memory is taken; who finds too little left waits, first
    come, first served. Small claims draw from a part of their own, and wait for no large one.
    Nobody may draw twice at a time: two who did could wait for each other."""

    def __init__(self, limit: int) -> None:
        small = limit // _SMALL_PART
        self._largest_small = small // _SMALL_CLAIMS
        self._small = _Part(small)
        self._large = _Part(limit - small)

    @asynccontextmanager
    async def holding(self, size: int, what: str) -> AsyncIterator[None]:
        """Have `size` bytes while the context lasts. `what` is named where that is too much.

        Raises:
            LimitExceededError: it is more than there is.
        """
        part = self._small if size <= self._largest_small else self._large
        if size > part.whole:
            raise LimitExceededError(
                f"{what} needs {size} bytes of memory, limit {part.whole} "
                "(of image.limits.memory_bytes)"
            )
        await part.draw(size)
        try:
            yield
        finally:
            part.give_back(size)


class _Part:
    def __init__(self, whole: int) -> None:
        self.whole = whole
        self._left = whole
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def draw(self, size: int) -> None:
        if self._waiting or size > self._left:
            await self._turn(size)
        else:
            self._left -= size

    def give_back(self, size: int) -> None:
        self._left += size
        self._wake()

    async def _turn(self, size: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._left += size
            self._wake()
            raise

    def _wake(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if not turn.cancelled():
                if size > self._left:
                    return
                self._left -= size
                turn.set_result(None)
            self._waiting.popleft()
