"""Flights: one piece of work in the whole daemon, whoever asks for it.

A flight belongs to the daemon and counts its waiters. Each waiter brings the means to do the work
(its own fetcher, its own source of a layer). One waiter's means are used as long as nobody could
do better; when that waiter leaves or its means fail, the next waiter's take over. A waiter whose
means are not ready yet holds nobody up, and nobody holds up a waiter for much longer than its own
means would take: it may then race, with at most one other. When the last waiter leaves, the work
stops. A waiter stays until its pull has ended, so what a flight brought in is held by the flight
until every pull that used it has made it known.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cri_imaged.errors import ImagedError, SourceFailedError
from cri_imaged.ports import Lease
from cri_imaged.shielding import to_the_end

K = TypeVar("K", bound=Hashable)
M = TypeVar("M")

_PATIENCE = 0.75
"""Seconds after which a waiter looks whether its own means would do better, again and again."""
_ADVANTAGE = 2.0
"""How many times as long as by its own means a waiter accepts to be kept waiting."""
_RACING = 2
"""Waiters whose means are used at the same time."""


class Waiter(Generic[M]):
    """One pull's part in a flight."""

    def __init__(
        self,
        means: M,
        *,
        share: Hashable = None,
        kin: Hashable = None,
        ready: asyncio.Future[Any] | None = None,
    ) -> None:
        """Waiters of equal `share` bring the same and fail together (but where a waiter's source
        fails, others may have another one); without one this waiter fails alone. Those of equal
        `kin` cannot do better than each other, and never race. The means are not used before
        `ready` is done."""
        self.means = means
        self.share = object() if share is None else share
        self.kin = kin
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """How the work ended for this waiter."""
        self.joined = _now()
        self.attempts = 0
        """How often its means were used: who was given up does not take its place again first."""
        self._ready = ready

    @property
    def waits(self) -> bool:
        """Whether it has not heard how the work ended."""
        return not self.done.done()

    @property
    def able(self) -> bool:
        """Whether its means can be used now."""
        return self.waits and self.unready is None

    @property
    def unready(self) -> asyncio.Future[Any] | None:
        """What its means wait for."""
        return None if self._ready is None or self._ready.done() else self._ready

    def fail(self, error: Exception) -> None:
        """Tell the waiter that the work failed for it."""
        if not self.done.done():
            self.done.set_exception(error)
            # Its pull may be on its way out and never look: no warning then.
            self.done.exception()


@dataclass(frozen=True, slots=True)
class _Attempt(Generic[M]):
    """The use of one waiter's means."""

    waiter: Waiter[M]
    began: float
    promised: float
    """Seconds that it was to take, by the forecast at its beginning."""


class Flight(ABC, Generic[M]):
    """One piece of work and its waiters."""

    def __init__(self) -> None:
        self._waiters: list[Waiter[M]] = []
        self._attempts: dict[asyncio.Task[None], _Attempt[M]] = {}
        self._task: asyncio.Task[None] | None = None
        self._landed = False
        self._changed: asyncio.Future[None] | None = None
        """Waited for by the work: done when somebody has joined or left."""
        self.known = False
        """Whether a pull has made known what this flight brought in."""
        self.landed_by: Waiter[M] | None = None
        """Whose means did the work; None while none did."""
        self.is_retired = False
        """Whether nobody may join it any more."""
        self._lease: Lease | None = None
        """Holds what was brought in."""

    @abstractmethod
    async def work(self) -> None:
        """Do the work by one call of `attempt`. Raises what concerns every waiter."""

    async def release(self) -> None:
        """The last waiter has left and no work goes on."""

    def forecast(self, waiter: Waiter[M]) -> float:
        """Seconds until the work would be done by this waiter's means, which are in use or not.
        Where nothing can be told, 0: nobody races then."""
        return 0.0

    def merit(self, waiter: Waiter[M]) -> tuple[float, ...]:
        """Of those whose means are not in use, and were so equally often, who has most goes first,
        of equal ones who came first."""
        return ()

    def join(self, waiter: Waiter[M]) -> None:
        """Add a waiter, and begin the work where it is not going on or done."""
        self._waiters.append(waiter)
        self._wake()
        if self._landed:
            waiter.done.set_result(None)
        elif self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    def leave(self, waiter: Waiter[M]) -> bool:
        """Take a waiter away; returns whether it was the last one."""
        self._waiters.remove(waiter)
        self._wake()
        waiter.done.cancel()
        self._give_up(waiter)
        return not self._waiters

    def retire(self) -> Lease | None:
        """Its lease, where it has only one waiter, which needs that no more. Who comes from now on
        finds what was brought in where it is, in a flight of his own."""
        if not self._landed or len(self._waiters) > 1:
            return None
        self.is_retired = True
        return self._lease

    async def close(self) -> None:
        """Stop the work and release what the flight holds."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self.release()

    async def attempt(self, use: Callable[[Waiter[M]], Coroutine[Any, Any, None]]) -> None:
        """Call `use` with one waiter after the other, until it succeeds with one of them or every
        waiter has failed or left."""
        try:
            while not self._landed and any(waiter.waits for waiter in self._waiters):
                waiter = self._next()
                if waiter is not None:
                    waiter.attempts += 1
                    attempt = _Attempt(waiter, _now(), self.forecast(waiter))
                    self._attempts[asyncio.create_task(use(waiter))] = attempt
                await self._until_something_happens()
                for task in [task for task in self._attempts if task.done()]:
                    self._settle(task, self._attempts.pop(task).waiter)
        finally:
            await self._stop_attempts()

    def _next(self) -> Waiter[M] | None:
        """Whose means are to be used now, beside those that are."""
        used = self._used
        idle = [waiter for waiter in self._waiters if waiter.able and waiter not in used]
        idle.sort(key=lambda waiter: (-waiter.attempts, self.merit(waiter)), reverse=True)
        if not used or not idle:
            return idle[0] if idle else None
        waiter = next(filter(self._has_lost_patience, idle), None)
        if waiter is None or len(used) < _RACING:
            return waiter
        late = [attempt for attempt in self._attempts.values() if self._is_late(attempt)]
        if late:
            self._give_up(max(late, key=lambda attempt: self.forecast(attempt.waiter)).waiter)
        return None  # its turn comes when that one has stopped

    @property
    def _used(self) -> list[Waiter[M]]:
        return [attempt.waiter for attempt in self._attempts.values()]

    def _has_lost_patience(self, waiter: Waiter[M]) -> bool:
        """Whether it waits for longer in all than it has reason to, beside those at work. What
        these promise is not all that counts: they may promise again and again."""
        waited, used = _now() - waiter.joined, self._used
        kept_waiting = min(map(self.forecast, used))
        return (
            waited >= _PATIENCE
            and all(waiter.kin is None or waiter.kin != other.kin for other in used)
            and kept_waiting > 0
            and waited + kept_waiting > _ADVANTAGE * self.forecast(waiter)
        )

    def _is_late(self, attempt: _Attempt[M]) -> bool:
        """Whether it takes much longer than it was to."""
        in_all = _now() - attempt.began + self.forecast(attempt.waiter)
        return in_all > _PATIENCE + _ADVANTAGE * attempt.promised

    def _give_up(self, waiter: Waiter[M]) -> None:
        for task, attempt in self._attempts.items():
            if attempt.waiter is waiter:
                task.cancel()

    async def _until_something_happens(self) -> None:
        """Wait until an attempt ends, means get ready, or somebody joins or leaves; and where
        somebody may lose patience, not for ever."""
        changed = self._changed = asyncio.get_running_loop().create_future()
        unready = [waiter.unready for waiter in self._waiters if waiter.waits]
        used = self._used
        idle = any(waiter.able and waiter not in used for waiter in self._waiters)
        try:
            await asyncio.wait(
                [changed, *self._attempts, *filter(None, unready)],
                timeout=_PATIENCE if idle else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            self._changed = None

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    def _settle(self, task: asyncio.Task[None], waiter: Waiter[M]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self.landed_by = waiter
            self.land()
        elif isinstance(error, SourceFailedError):
            waiter.fail(error)
        elif isinstance(error, ImagedError):
            for other in self._waiters:
                if other.share == waiter.share:
                    other.fail(error)
        else:
            raise error

    async def _stop_attempts(self) -> None:
        tasks = list(self._attempts)
        self._attempts.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await to_the_end(asyncio.wait(tasks))
        for task in tasks:
            if not task.cancelled():
                task.exception()  # of no interest any more

    def land(self) -> None:
        """The work is done, for the waiters there are and for those who come later."""
        self._landed = True
        for waiter in self._waiters:
            if not waiter.done.done():
                waiter.done.set_result(None)

    async def _run(self) -> None:
        waits = True
        while waits:
            try:
                await self.work()
            except Exception as error:  # whatever it is, the waiters must hear of it
                for waiter in self._waiters:
                    waiter.fail(error)
            # Somebody may have joined while the work was being put away.
            waits = not self._landed and any(waiter.waits for waiter in self._waiters)


def _now() -> float:
    return asyncio.get_running_loop().time()


F = TypeVar("F", bound=Flight[Any])


class Flights(Generic[K, F]):
    """The flights under way, one for each key."""

    def __init__(self) -> None:
        self._flights: dict[K, F] = {}
        self._closing: dict[K, asyncio.Task[None]] = {}

    @asynccontextmanager
    async def join(self, key: K, begin: Callable[[], F], waiter: Waiter[Any]) -> AsyncIterator[F]:
        """Join the flight of `key`, begun by `begin` where there is none, while the context
        lasts."""
        while closing := self._closing.get(key):
            await asyncio.wait([closing])
        flight = self._flights.get(key)
        if flight is None or flight.is_retired:
            flight = self._flights[key] = begin()
        flight.join(waiter)
        try:
            yield flight
        finally:
            if flight.leave(waiter):
                closing = asyncio.create_task(flight.close())
                if self._flights.get(key) is flight:  # it was not retired and replaced
                    del self._flights[key]
                    self._closing[key] = closing
                    closing.add_done_callback(lambda _: self._closing.pop(key))
                await to_the_end(closing)
