"""Places for workers, given in turn to those who ask for many."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cri_imaged.ports import Activity, Sharers
from cri_imaged.shielding import to_the_end

_Group: TypeAlias = tuple[Hashable, ...]
"""Those of a pull, and the pull itself behind them."""


@dataclass(slots=True)
class _Use:
    """Of the places, by one pull or a group of them."""

    seconds: float
    """For which it had places, beyond what others of its group had when it came."""
    at_work: int = 0
    first: int = 0
    """Of these, in the first places."""
    users: int = 0
    """Those at work and those that wait."""


@dataclass(slots=True)
class _Request:
    pull: Activity
    path: list[_Use]
    """Of the groups, widest first, and the pull itself."""
    turn: asyncio.Future[bool] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    """Of a place that is given: whether it is one of the first ones."""

    @property
    def rank(self) -> tuple[int, list[tuple[int, float]]]:
        """Whose is lowest has the next turn."""
        return self.pull.priority, [(use.at_work, use.seconds) for use in self.path]


class Turns:
    """So many places, and first ones beside them, each for a pull that has nobody at work; the
    widest group may hold as many of these as it leaves free.

    Those that get free go by priority; then to the group with the fewest at work, of these to the
    one that used the least, and within a group likewise: what is short need not wait for all that
    is long. Within a pull, first come, first served.
    """

    def __init__(self, places: int, first: int = 0) -> None:
        self._free = places
        self._first = first
        self._uses: dict[_Group, _Use] = {}
        self._waiting: deque[_Request] = deque()

    @asynccontextmanager
    async def place(self, pull: Activity) -> AsyncIterator[None]:
        """Have a place while the context lasts."""
        request = _Request(pull, self._joined(pull))
        try:
            first = await self._turn(request)
            began = asyncio.get_running_loop().time()
            try:
                yield
            finally:
                seconds = asyncio.get_running_loop().time() - began
                self._give_back(request.path, seconds, first=first)
        finally:
            self._left(pull)

    @asynccontextmanager
    async def place_of_any(self, sharers: Sharers) -> AsyncIterator[None]:
        """Have the place of whichever of the pulls has its turn first: one that has none at work
        need not wait behind another's layers, because that one began this layer."""
        if self._free:
            async with self.place(sharers.pulls[0]):
                yield
            return
        given: asyncio.Future[Activity] = asyncio.get_running_loop().create_future()
        asked: dict[Activity, asyncio.Task[None]] = {}
        joined = asyncio.Event()
        try:
            with sharers.telling(joined.set):
                while not given.done():
                    joined.clear()
                    for pull in sharers.pulls[len(asked) :]:
                        asked[pull] = asyncio.create_task(self._hold(pull, given))
                    await _first_of(given, joined.wait())
            for pull, task in asked.items():
                if pull is not given.result():
                    task.cancel()
            yield
        finally:
            for task in asked.values():
                task.cancel()
            await to_the_end(asyncio.gather(*asked.values(), return_exceptions=True))

    async def _hold(self, pull: Activity, given: asyncio.Future[Activity]) -> None:
        """Hold a pull's place until cancelled, unless another one was given."""
        async with self.place(pull):
            if not given.done():
                given.set_result(pull)
                await asyncio.Event().wait()

    def _joined(self, pull: Activity) -> list[_Use]:
        path = []
        for group in _groups(pull):
            if group not in self._uses:
                beside = [
                    use.seconds
                    for other, use in self._uses.items()
                    if len(other) == len(group) and other[:-1] == group[:-1]
                ]
                self._uses[group] = _Use(min(beside, default=0.0))
            self._uses[group].users += 1
            path.append(self._uses[group])
        return path

    def _left(self, pull: Activity) -> None:
        for group in _groups(pull):
            self._uses[group].users -= 1
            if not self._uses[group].users:
                del self._uses[group]

    async def _turn(self, request: _Request) -> bool:
        """Whether the place is one of the first ones."""
        first = self._take(request.path)
        if first is not None:
            return first
        self._waiting.append(request)
        try:
            return await request.turn
        except asyncio.CancelledError:
            if request.turn.cancelled():
                self._waiting.remove(request)
            else:
                self._give_back(request.path, 0.0, first=request.turn.result())
            raise

    def _take(self, path: list[_Use]) -> bool | None:
        """Give a place away; None where there is none."""
        first = not self._free
        if first and (path[-1].at_work or path[0].first >= self._first):
            return None
        if first:
            self._first -= 1
        else:
            self._free -= 1
        for use in path:
            use.at_work += 1
            use.first += first
        return first

    def _give_back(self, path: list[_Use], seconds: float, *, first: bool) -> None:
        if first:
            self._first += 1
        else:
            self._free += 1
        for use in path:
            use.at_work -= 1
            use.first -= first
            use.seconds += seconds
        self._hand_on()

    def _hand_on(self) -> None:
        for request in sorted(self._waiting, key=lambda request: request.rank):
            if not request.turn.done() and (first := self._take(request.path)) is not None:
                self._waiting.remove(request)
                request.turn.set_result(first)


async def _first_of(future: asyncio.Future[Any], other: Coroutine[Any, Any, object]) -> None:
    task = asyncio.create_task(other)
    try:
        await asyncio.wait([future, task], return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()


def _groups(pull: Activity) -> list[_Group]:
    path = (*pull.groups, pull)
    return [path[:depth] for depth in range(1, len(path) + 1)]
