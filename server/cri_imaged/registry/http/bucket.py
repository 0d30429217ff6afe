"""A token bucket whose tokens go to those who wait for them by priority, then in fair shares. Pure:
it is told the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from cri_imaged.ports import Activity

_BURST_SECONDS = 0.25
"""Tokens are saved up for so long while nobody wants them."""


@dataclass(slots=True, eq=False)
class Payment:
    """So many bytes that one pull pays for, once it is its turn."""

    size: int
    pull: Activity
    on_paid: Callable[[], object]
    """Called when it is served."""
    turn: float = 0.0


class Bucket:
    """Each byte costs a token, and tokens come at a rate.

    A payment is served as soon as there is any token, whatever it costs: the next one waits until
    what is owed is there. So over any time no more is served than the rate gives, one payment and
    the burst. Of pulls of one priority each gets as much, however many connections it has
    (start-time fair queueing, Goyal and others, 1996).
    """

    def __init__(self, rate: Callable[[], float]) -> None:
        """`rate`: bytes a second at the moment; 0: as many as one likes."""
        self._rate = rate
        self._tokens = 0.0
        self._filled = 0.0
        """When; seconds of the clock whose time is told."""
        self._waiting: list[Payment] = []
        self._turn = 0.0
        """Of the last payment that was served."""
        self._next_turns: WeakKeyDictionary[Activity, float] = WeakKeyDictionary()

    @property
    def is_capped(self) -> bool:
        """Whether bytes cost anything at the moment."""
        return bool(self._rate())

    def add(self, payment: Payment) -> None:
        """Have a payment wait for its turn."""
        payment.turn = max(self._turn, self._next_turns.get(payment.pull, 0.0))
        self._next_turns[payment.pull] = payment.turn + payment.size
        self._waiting.append(payment)

    def drop(self, payment: Payment) -> None:
        """Nobody waits for it any more; where it was served, it stays paid."""
        if payment in self._waiting:
            self._waiting.remove(payment)

    def charge(self, size: int, now: float) -> None:
        """Have so many bytes paid, of which nobody waits for the turn."""
        self._fill(now)
        if self._rate():
            self._tokens -= size

    def serve(self, now: float) -> float | None:
        """Serve those whose turn it is. Seconds until the next one's is; None: nobody waits."""
        rate = self._fill(now)
        while self._waiting and (not rate or self._tokens > 0):
            payment = min(self._waiting, key=lambda each: (each.pull.priority, each.turn))
            self._waiting.remove(payment)
            self._turn = payment.turn
            if rate:
                self._tokens -= payment.size
            payment.on_paid()
        return -self._tokens / rate if self._waiting else None

    def _fill(self, now: float) -> float:
        rate = self._rate()
        gained = rate * (now - self._filled)
        self._tokens = min(self._tokens + gained, rate * _BURST_SECONDS) if rate else 0.0
        self._filled = now
        return rate
