"""Flights: one piece of work in the whole daemon, whoever asks for it.

A flight belongs to the daemon and counts its waiters. Each waiter brings the means to do the work
(its own fetcher, its own source of a layer), and one waiter's means are used at a time: when that
waiter leaves or its means fail, the next waiter's take over. A waiter whose means are not ready
yet holds nobody up. When the last waiter leaves, the work stops. A waiter stays until its pull has
ended, so what a flight brought in is held by the flight until every pull that used it has made it
known.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

from cri_imaged.errors import ImagedError, SourceFailedError
from cri_imaged.images.shielded import to_the_end

K = TypeVar("K", bound=Hashable)
M = TypeVar("M")


class Waiter(Generic[M]):
    """One pull's part in a flight. Waiters of equal `share` bring the same and fail together; but
    where a waiter's source fails, others may have another one."""

    def __init__(self, means: M, share: Hashable, ready: asyncio.Future[Any] | None) -> None:
        self.means = means
        self.share = share
        self.ready = ready
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def waits(self) -> bool:
        """Whether it has not heard how the work ended."""
        return not self.done.done()

    @property
    def able(self) -> bool:
        """Whether its means can be used now."""
        return self.waits and (self.ready is None or self.ready.done())

    def fail(self, error: Exception) -> None:
        """Tell the waiter that the work failed for it."""
        if not self.done.done():
            self.done.set_exception(error)
            # Its pull may be on its way out and never look: no warning then.
            self.done.exception()


class Flight(ABC, Generic[M]):
    """One piece of work and its waiters."""

    def __init__(self) -> None:
        self._waiters: list[Waiter[M]] = []
        self._active: tuple[Waiter[M], asyncio.Task[None]] | None = None
        self._task: asyncio.Task[None] | None = None
        self._landed = False
        self._changed = asyncio.Event()
        self.known = False
        """Whether a pull has made known what this flight brought in."""

    @abstractmethod
    async def work(self) -> None:
        """Do the work by one call of `attempt`. Raises what concerns every waiter."""

    async def release(self) -> None:
        """The last waiter has left and no work goes on."""

    def join(
        self, means: M, share: Hashable, ready: asyncio.Future[Any] | None = None
    ) -> Waiter[M]:
        """Add a waiter, and begin the work where it is not going on or done. Its means are not
        used before `ready` is done."""
        waiter = Waiter(means, share, ready)
        self._waiters.append(waiter)
        self._changed.set()
        if self._landed:
            waiter.done.set_result(None)
        elif self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return waiter

    def leave(self, waiter: Waiter[M]) -> bool:
        """Take a waiter away; returns whether it was the last one."""
        self._waiters.remove(waiter)
        self._changed.set()
        waiter.done.cancel()
        if self._active is not None and self._active[0] is waiter:
            self._active[1].cancel()
        return not self._waiters

    async def close(self) -> None:
        """Stop the work and release what the flight holds."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self.release()

    async def attempt(self, use: Callable[[M], Coroutine[Any, Any, None]]) -> None:
        """Call `use` with one waiter's means after the other's, until one of them succeeds or
        every waiter has failed or left."""
        while any(waiter.waits for waiter in self._waiters):
            waiter = next((waiter for waiter in self._waiters if waiter.able), None)
            if waiter is None:
                await self._until_one_is_able()
                continue
            task = asyncio.create_task(use(waiter.means))
            self._active = (waiter, task)
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled():
                    task.exception()  # of no interest any more
                raise
            finally:
                self._active = None
            if task.cancelled():
                continue
            error = task.exception()
            if error is None:
                self.land()
            elif isinstance(error, SourceFailedError):
                waiter.fail(error)
            elif isinstance(error, ImagedError):
                for other in self._waiters:
                    if other.share == waiter.share:
                        other.fail(error)
            else:
                raise error

    async def _until_one_is_able(self) -> None:
        """Wait until a waiter's means get ready, or somebody joins or leaves."""
        self._changed.clear()
        changed = asyncio.create_task(self._changed.wait())
        ready = [w.ready for w in self._waiters if w.waits and w.ready is not None]
        try:
            await asyncio.wait([changed, *ready], return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()

    def land(self) -> None:
        """The work is done, for the waiters there are and for those who come later."""
        self._landed = True
        for waiter in self._waiters:
            if not waiter.done.done():
                waiter.done.set_result(None)

    async def _run(self) -> None:
        try:
            await self.work()
        except Exception as error:  # whatever it is, the waiters must hear of it
            for waiter in self._waiters:
                waiter.fail(error)


F = TypeVar("F", bound=Flight[Any])


class Flights(Generic[K, F]):
    """The flights under way, one for each key."""

    def __init__(self) -> None:
        self._flights: dict[K, F] = {}
        self._closing: dict[K, asyncio.Task[None]] = {}

    @asynccontextmanager
    async def join(
        self,
        key: K,
        begin: Callable[[], F],
        means: object,
        share: Hashable = None,
        ready: asyncio.Future[Any] | None = None,
    ) -> AsyncIterator[tuple[F, asyncio.Future[None]]]:
        """Join the flight of `key`, begun by `begin` where there is none, while the context lasts.
        Gives the flight and the future of how it ends for this waiter. Without a `share` this
        waiter fails alone; its means are not used before `ready` is done."""
        while closing := self._closing.get(key):
            await asyncio.wait([closing])
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = begin()
        waiter = flight.join(means, object() if share is None else share, ready)
        try:
            yield flight, waiter.done
        finally:
            if flight.leave(waiter):
                del self._flights[key]
                closing = self._closing[key] = asyncio.create_task(flight.close())
                closing.add_done_callback(lambda _: self._closing.pop(key))
                await to_the_end(_ended(closing))


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])
    task.result()
