"""One budget of memory: never overdrawn, first come, first served, and whole again afterwards."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cri_imaged.budget import MemoryBudget
from cri_imaged.errors import LimitExceededError

LIMIT = 10


class Claims:
    """Tasks that draw, and what each of them holds."""

    def __init__(self) -> None:
        self.budget = MemoryBudget(LIMIT)
        self.held: dict[int, int] = {}
        self.order: list[int] = []
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._ends: dict[int, asyncio.Event] = {}

    def draw(self, number: int, size: int) -> None:
        self._ends[number] = asyncio.Event()
        self._tasks[number] = asyncio.create_task(self._hold(number, size))

    async def _hold(self, number: int, size: int) -> None:
        async with self.budget.holding(size, "it"):
            self.held[number] = size
            self.order.append(number)
            assert sum(self.held.values()) <= LIMIT
            try:
                await self._ends[number].wait()
            finally:
                del self.held[number]

    def let_go(self, number: int) -> None:
        self._ends[number].set()

    def cancel(self, number: int) -> None:
        self._tasks[number].cancel()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def end(self) -> None:
        for number in self._tasks:
            self.let_go(number)
        async with asyncio.timeout(5):
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)


async def is_whole(budget: MemoryBudget) -> bool:
    async with asyncio.timeout(1), budget.holding(LIMIT, "all of it"):
        return True


async def test_a_claim_above_the_whole_is_refused_and_names_the_limit() -> None:
    budget = MemoryBudget(LIMIT)
    with pytest.raises(LimitExceededError, match=r"config x needs 11 bytes.*memory_bytes"):
        async with budget.holding(LIMIT + 1, "config x"):
            pytest.fail("it holds more than there is")
    assert await is_whole(budget)


async def test_a_small_claim_does_not_overtake_a_large_one() -> None:
    claims = Claims()
    for number, size in enumerate((6, 8, 1)):
        claims.draw(number, size)
    await claims.settle()
    assert claims.order == [0]
    claims.let_go(0)
    await claims.settle()
    assert claims.order == [0, 1, 2]
    await claims.end()


async def test_small_claims_wait_for_no_large_one() -> None:
    budget = MemoryBudget(1600)
    async with asyncio.timeout(1), budget.holding(1500, "large"):
        waiting = asyncio.create_task(hold(budget, 1500))
        for _ in range(20):
            async with budget.holding(25, "small"):
                pass
    await waiting


async def test_small_claims_leave_the_large_ones_theirs() -> None:
    budget = MemoryBudget(1600)
    small = [asyncio.create_task(hold(budget, 25, seconds=60)) for _ in range(20)]
    async with asyncio.timeout(1), budget.holding(1500, "large"):
        pass
    for each in small:
        each.cancel()
    await asyncio.gather(*small, return_exceptions=True)


async def hold(budget: MemoryBudget, size: int, seconds: float = 0) -> None:
    async with budget.holding(size, "it"):
        await asyncio.sleep(seconds)


async def test_who_is_cancelled_holds_up_nobody() -> None:
    claims = Claims()
    for number, size in enumerate((6, 8, 4)):
        claims.draw(number, size)
    await claims.settle()
    claims.cancel(1)
    await claims.settle()
    assert claims.held == {0: 6, 2: 4}
    await claims.end()
    assert await is_whole(claims.budget)


async def test_who_is_cancelled_just_when_it_is_its_turn_gives_it_on() -> None:
    claims = Claims()
    for number in range(3):
        claims.draw(number, LIMIT)
    await claims.settle()
    claims.let_go(0)
    await asyncio.sleep(0)  # the first is out, and the second was told but has not run
    claims.cancel(1)
    await claims.settle()
    assert claims.held == {2: LIMIT}
    await claims.end()
    assert await is_whole(claims.budget)


async def test_who_is_cancelled_in_the_moment_that_makes_room_takes_none_of_it() -> None:
    claims = Claims()
    for number in range(3):
        claims.draw(number, LIMIT)
    await claims.settle()
    claims.let_go(0)
    claims.cancel(1)
    await claims.settle()
    assert claims.held == {2: LIMIT}
    await claims.end()
    assert await is_whole(claims.budget)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["draw", "let_go", "cancel", "run"]), st.integers(0, 8), st.integers(1, 12)
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_whatever_is_drawn_and_given_up(steps: list[tuple[str, int, int]]) -> None:
    async def run() -> None:
        claims = Claims()
        drawn = 0
        for kind, which, size in steps:
            if kind == "draw":
                claims.draw(drawn, size)
                drawn += 1
            elif kind == "run":
                await claims.settle()
            elif drawn and kind == "let_go":
                claims.let_go(which % drawn)
            elif drawn:
                claims.cancel(which % drawn)
        await claims.end()
        assert await is_whole(claims.budget)

    asyncio.run(run())
