"""Flights: one piece of work for many, by one waiter's means at a time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from cri_imaged.errors import CorruptContentError, NotFoundError, SourceFailedError
from cri_imaged.images.transfers.flights import Flight, Flights, Waiter

KEY = "key"
NO = NotFoundError("not for you")


@dataclass
class Means:
    """What a waiter brings: its attempt ends as the test says."""

    name: str = ""
    go: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None
    used: int = 0


@dataclass
class Log:
    """What flights did, and what must never be."""

    begun: int = 0
    working: int = 0
    attempting: int = 0
    landed: int = 0
    released: int = 0
    stopped: int = 0


class Work(Flight[Means]):
    def __init__(self, log: Log, broken: Exception | None = None) -> None:
        super().__init__()
        self.log = log
        self.broken = broken
        log.begun += 1

    async def work(self) -> None:
        assert self.log.working == 0, "two flights of one key are at work"
        self.log.working += 1
        try:
            await asyncio.sleep(0)
            if self.broken is not None:
                raise self.broken
            await self.attempt(self._use)
        finally:
            self.log.working -= 1

    async def _use(self, waiter: Waiter[Means]) -> None:
        means = waiter.means
        assert self.log.attempting == 0, "two attempts at once"
        self.log.attempting += 1
        means.used += 1
        try:
            await means.go.wait()
            if means.error is not None:
                raise means.error
            self.log.landed += 1
        except asyncio.CancelledError:
            self.log.stopped += 1
            await asyncio.sleep(0)
            raise
        finally:
            self.log.attempting -= 1

    async def release(self) -> None:
        assert self.log.working == 0, "released while at work"
        await asyncio.sleep(0)
        self.log.released += 1


class Waiting:
    """A waiter in a task of its own, until told to leave."""

    def __init__(
        self,
        flights: Flights[str, Work],
        begin: Callable[[], Work],
        means: Means,
        share: object = None,
        ready: asyncio.Future[None] | None = None,
    ) -> None:
        self.means = means
        self.outcome: str | BaseException = "waiting"
        self.heard = asyncio.Event()
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(self._run(flights, begin, share, ready))
        self.task.add_done_callback(lambda _: self.heard.set())

    async def _run(
        self,
        flights: Flights[str, Work],
        begin: Callable[[], Work],
        share: object,
        ready: asyncio.Future[None] | None,
    ) -> None:
        waiter = Waiter(self.means, share=share, ready=ready)
        async with flights.join(KEY, begin, waiter):
            try:
                await waiter.done
            except Exception as error:
                self.outcome = error
            else:
                self.outcome = "done"
            self.heard.set()
            await self._leave.wait()

    async def leave(self) -> None:
        self._leave.set()
        await self.task

    async def cancel(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


@pytest.fixture
async def quiet() -> AsyncIterator[None]:
    """Nothing goes wrong unheard."""
    heard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
    yield
    assert heard == []
    assert asyncio.all_tasks() == {asyncio.current_task()}


pytestmark = pytest.mark.usefixtures("quiet")


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class Bench:
    def __init__(self) -> None:
        self.log = Log()
        self.flights: Flights[str, Work] = Flights()
        self.broken: Exception | None = None

    def begin(self) -> Work:
        return Work(self.log, self.broken)

    async def join(
        self, name: str = "", share: object = None, ready: asyncio.Future[None] | None = None
    ) -> Waiting:
        waiting = Waiting(self.flights, self.begin, Means(name), share, ready)
        await settle()
        return waiting


async def test_one_does_the_work_for_all() -> None:
    bench = Bench()
    a, b, c = [await bench.join() for _ in "abc"]
    assert (a.means.used, b.means.used, c.means.used) == (1, 0, 0)
    a.means.go.set()
    await settle()
    assert [each.outcome for each in (a, b, c)] == ["done"] * 3
    for each in (a, b, c):
        await each.leave()
    assert (bench.log.begun, bench.log.landed, bench.log.released) == (1, 1, 1)


async def test_another_carries_on_where_the_first_one_leaves() -> None:
    bench = Bench()
    a, b = await bench.join(), await bench.join()
    await a.cancel()
    await settle()
    assert b.means.used == 1
    b.means.go.set()
    await settle()
    assert b.outcome == "done"
    await b.leave()
    assert bench.log == Log(begun=1, landed=1, released=1, stopped=1)


async def test_who_is_not_at_work_leaves_without_a_trace() -> None:
    bench = Bench()
    a, b = await bench.join(), await bench.join()
    await b.cancel()
    a.means.go.set()
    await settle()
    assert (a.means.used, b.means.used, a.outcome) == (1, 0, "done")
    await a.leave()


async def test_the_work_stops_with_the_last_waiter() -> None:
    bench = Bench()
    a, b = await bench.join(), await bench.join()
    await b.cancel()
    await a.cancel()
    await settle()
    assert bench.log == Log(begun=1, stopped=1, released=1)
    again = await bench.join()
    assert bench.log.begun == 2
    await again.cancel()
    await settle()


async def test_means_that_fail_fail_their_waiter_alone() -> None:
    bench = Bench()
    a, b = await bench.join(), await bench.join()
    a.means.error = NO
    a.means.go.set()
    await settle()
    assert a.outcome is NO
    assert (b.outcome, b.means.used) == ("waiting", 1)
    b.means.go.set()
    await settle()
    assert b.outcome == "done"
    await a.leave()
    await b.leave()


async def test_who_shares_the_means_shares_the_failure() -> None:
    bench = Bench()
    a, b = await bench.join(share="layer"), await bench.join(share="layer")
    c = await bench.join(share="another layer of the same content")
    a.means.error = CorruptContentError("bad layer")
    a.means.go.set()
    await settle()
    assert a.outcome is a.means.error
    assert b.outcome is a.means.error
    assert (b.means.used, c.means.used, c.outcome) == (0, 1, "waiting")
    for each in (a, b, c):
        await each.cancel()
    await settle()


async def test_a_source_that_ends_is_not_shared() -> None:
    """Whose fetch was given up tells nothing of the others' fetches."""
    bench = Bench()
    a, b = await bench.join(share="layer"), await bench.join(share="layer")
    a.means.error = SourceFailedError("the fetch was given up")
    a.means.go.set()
    await settle()
    assert a.outcome is a.means.error
    assert (b.outcome, b.means.used) == ("waiting", 1)
    b.means.go.set()
    await settle()
    assert b.outcome == "done"
    await a.leave()
    await b.leave()


async def test_whose_means_are_not_ready_holds_nobody_up() -> None:
    bench = Bench()
    ready = asyncio.get_running_loop().create_future()
    a = await bench.join(ready=ready)
    assert (a.means.used, a.outcome) == (0, "waiting")
    b = await bench.join()
    assert (a.means.used, b.means.used) == (0, 1)
    b.means.go.set()
    await settle()
    assert (a.outcome, b.outcome) == ("done", "done")
    await a.leave()
    await b.leave()


async def test_the_work_begins_when_the_means_are_ready() -> None:
    bench = Bench()
    readies = [asyncio.get_running_loop().create_future() for _ in range(3)]
    a, b, c = [await bench.join(ready=ready) for ready in readies]
    await a.cancel()
    readies[1].set_result(None)
    await settle()
    assert (b.means.used, c.means.used) == (1, 0)
    await b.cancel()
    await settle()
    assert c.means.used == 0
    readies[2].set_result(None)
    c.means.go.set()
    await settle()
    assert (c.means.used, c.outcome) == (1, "done")
    await c.leave()


async def test_waiting_for_means_takes_no_time_of_the_loop() -> None:
    bench = Bench()
    a = await bench.join()
    b = await bench.join(ready=asyncio.get_running_loop().create_future())
    a.means.error = NO
    a.means.go.set()
    await settle()
    flight = bench.flights._flights[KEY]
    waited_for = flight._changed
    assert waited_for is not None
    await settle()
    assert flight._changed is waited_for  # no turn has begun since
    await b.cancel()
    await a.leave()


async def test_the_last_one_leaves_though_its_means_were_never_ready() -> None:
    bench = Bench()
    a = await bench.join(ready=asyncio.get_running_loop().create_future())
    await a.cancel()
    await settle()
    assert bench.log == Log(begun=1, released=1)


async def test_a_defect_is_heard_by_all() -> None:
    bench = Bench()
    a, b = await bench.join(), await bench.join()
    a.means.error = ZeroDivisionError()
    a.means.go.set()
    await settle()
    assert a.outcome is a.means.error
    assert b.outcome is a.means.error
    await a.leave()
    await b.leave()


async def test_work_that_fails_as_such_is_heard_by_all_and_begun_again_by_the_next() -> None:
    bench = Bench()
    bench.broken = OSError("no disk")
    a, b = Waiting(bench.flights, bench.begin, Means()), await bench.join()
    assert a.outcome is bench.broken
    assert b.outcome is bench.broken
    flight = bench.flights._flights[KEY]
    flight.broken = None
    c = await bench.join()
    assert bench.log.begun == 1
    c.means.go.set()
    await settle()
    assert (c.outcome, c.means.used) == ("done", 1)
    for each in (a, b, c):
        await each.leave()


async def test_joining_what_has_landed() -> None:
    bench = Bench()
    a = await bench.join()
    a.means.go.set()
    await settle()
    b = await bench.join()
    assert (b.outcome, b.means.used) == ("done", 0)
    await a.leave()
    c = await bench.join()
    assert (c.outcome, c.means.used, bench.log.begun) == ("done", 0, 1)
    await b.leave()
    await c.leave()


async def test_joining_after_everyone_failed() -> None:
    bench = Bench()
    a = await bench.join()
    a.means.error = NO
    a.means.go.set()
    await settle()
    b = await bench.join()
    b.means.go.set()
    await settle()
    assert (a.outcome, b.outcome, bench.log.begun) == (NO, "done", 1)
    await a.leave()
    await b.leave()


@pytest.mark.parametrize("steps", range(12))
async def test_joining_what_is_closing(steps: int) -> None:
    bench = Bench()
    a = await bench.join()
    a.task.cancel()
    for _ in range(steps):
        await asyncio.sleep(0)
    b, c = await bench.join(), await bench.join()
    b.means.go.set()
    c.means.go.set()
    await settle()
    assert (b.outcome, c.outcome) == ("done", "done")
    assert bench.log.landed == 1
    await b.leave()
    await c.leave()


@pytest.mark.parametrize("steps", range(8))
async def test_cancelled_while_it_joins(steps: int) -> None:
    bench = Bench()
    a = await bench.join()
    a.task.cancel()
    await asyncio.sleep(0)
    b = Waiting(bench.flights, bench.begin, Means())
    for _ in range(steps):
        await asyncio.sleep(0)
    await b.cancel()
    await settle()
    assert bench.flights._flights == {}
    assert bench.flights._closing == {}


def get_ready(ready: asyncio.Future[None] | None) -> None:
    if ready is not None and not ready.done():
        ready.set_result(None)


@pytest.mark.parametrize("seed", range(150))
async def test_any_crowd(seed: int) -> None:
    """Whoever joins, leaves, is cancelled or fails at whatever moment: nobody waits in vain, the
    work is done once at a time, and nothing is left."""
    chance = random.Random(seed)
    bench = Bench()
    crowd: list[Waiting] = []
    readies: list[asyncio.Future[None] | None] = []
    for _ in range(60):
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)
        present = [each for each in crowd if not each.task.done()]
        dice = chance.random()
        if dice < 0.4 or not present:
            share = chance.choice([None, None, "x", "y"])
            ready = chance.choice([None, asyncio.get_running_loop().create_future()])
            readies.append(ready)
            crowd.append(Waiting(bench.flights, bench.begin, Means(), share, ready))
            continue
        if dice < 0.45:
            for ready in readies[::2]:
                get_ready(ready)
        each = chance.choice(present)
        if dice < 0.6:
            each.means.error = chance.choice([None, None, NO, SourceFailedError("gone")])
            each.means.go.set()
        elif dice < 0.8:
            each.task.cancel()
        else:
            each._leave.set()
    for ready in readies:
        get_ready(ready)
    for each in crowd:
        each.means.go.set()
    async with asyncio.timeout(10):
        for each in crowd:
            await each.heard.wait()
            each._leave.set()
        await asyncio.wait([each.task for each in crowd])
        await settle()
    assert bench.flights._flights == {}
    assert bench.flights._closing == {}
    assert (bench.log.working, bench.log.attempting) == (0, 0)
    assert bench.log.released == bench.log.begun
    for each in crowd:
        assert each.outcome in ("waiting", "done", NO) or isinstance(
            each.outcome, SourceFailedError
        )


async def test_who_joins_while_the_work_is_being_put_away_is_served() -> None:
    """As the first waiter has failed and not yet left, the flight stays; its work has ended."""
    ending, put_away = asyncio.Event(), asyncio.Event()

    class Slow(Work):
        async def work(self) -> None:
            try:
                await super().work()
            finally:
                ending.set()
                await put_away.wait()

    flight = Slow(Log())
    first, second = Waiter(Means(error=NO), share="a"), Waiter(Means(), share="b")
    for waiter in (first, second):
        waiter.means.go.set()
    flight.join(first)
    await ending.wait()
    flight.join(second)
    put_away.set()
    async with asyncio.timeout(5):
        await second.done
    assert first.done.exception() is NO
    for waiter in (first, second):
        flight.leave(waiter)
    await flight.close()


async def test_nobody_joins_a_flight_that_was_retired() -> None:
    """Its lease ends with the transaction that needs it no more."""
    flights: Flights[str, Work] = Flights()
    log = Log()
    alone, late = Means(), Means()
    alone.go.set()
    late.go.set()
    first = Waiter(alone)
    async with flights.join(KEY, lambda: Work(log), first) as flight:
        assert not flight.is_retired
        await first.done
        flight.retire()
        async with flights.join(KEY, lambda: Work(log), second := Waiter(late)) as other:
            assert other is not flight
            await second.done
    assert (log.begun, log.landed, log.released) == (2, 2, 2)


async def test_a_flight_of_several_is_not_retired() -> None:
    flights: Flights[str, Work] = Flights()
    log = Log()
    means = Means()
    means.go.set()
    one, two = Waiter(means), Waiter(Means())
    async with (
        flights.join(KEY, lambda: Work(log), one) as flight,
        flights.join(KEY, lambda: Work(log), two),
    ):
        await asyncio.gather(one.done, two.done)
        flight.retire()
        assert not flight.is_retired
        async with flights.join(KEY, lambda: Work(log), Waiter(Means())) as joined:
            assert joined is flight
    assert log.begun == 1
