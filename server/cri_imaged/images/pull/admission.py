"""A number of places by priority and in fair shares, and who waits for one."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from cri_imaged.images.pull.shares import Share, Shares
from cri_imaged.ports import Activity, Priority


class _Turn(NamedTuple):
    share: Share
    activity: Activity


class Admission:
    """Gives places to those who ask: by priority, then as `Shares` says whose turn it is."""

    def __init__(self, capacity: int) -> None:
        self._shares = Shares(capacity)
        self._turns: dict[asyncio.Future[None], _Turn] = {}
        """Of those that wait, longest first."""

    @property
    def wanted(self) -> Priority | None:
        """The best priority of those that wait."""
        return min((turn.activity.priority for turn in self._turns.values()), default=None)

    def ask(self, share: Share, activity: Activity) -> asyncio.Future[None]:
        """Done, now or later, when there is a place for the share; to be given back by `leave`, or
        by `give_up` where the future was not waited for to its end. `activity` is the pull's."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns[turn] = _Turn(share, activity)
        self._let_in()
        return turn

    def give_up(self, turn: asyncio.Future[None], share: Share) -> None:
        """Wait no longer, whether or not it is one's turn."""
        if self._turns.pop(turn, None) is None:
            self.leave(share)

    def leave(self, share: Share) -> None:
        """Give a place back."""
        self._shares.give_back(share)
        self._let_in()

    def _let_in(self) -> None:
        while (turn := self._next()) is not None:
            self._shares.take(self._turns.pop(turn).share)
            if not turn.cancelled():  # else whoever asked is about to give it up
                turn.set_result(None)

    def _next(self) -> asyncio.Future[None] | None:
        """Whose turn it is: of the best priority that may have one, in fair shares."""
        for priority in sorted({turn.activity.priority for turn in self._turns.values()}):
            waiting = {
                future: turn.share
                for future, turn in self._turns.items()
                if turn.activity.priority == priority
            }
            share = self._shares.next(waiting.values())
            if share is not None:
                return next(future for future, whose in waiting.items() if whose == share)
        return None
