"""Pulls begin a few of each registry at a time."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from cri_imaged.images.pull.admission import Admission
from cri_imaged.images.pull.shares import Share
from cri_imaged.images.pull.starts import Starts
from cri_imaged.limits import MIB
from cri_imaged.ports import Activity, Priority
from tests.images.workbench import until

CROWD, HONEST = Share("bad", "crowd"), Share("good", "library")


class Crowd:
    """Many pulls of one registry. `activity` is that of each."""

    def __init__(self, starts: Starts, activity: Activity) -> None:
        self.begun = 0
        self._starts = starts
        self._activity = activity
        self.tasks = [asyncio.create_task(self._pull()) for _ in range(70)]

    async def _pull(self) -> None:
        async with self._starts.start(CROWD, self._activity, lambda: False):
            self.begun += 1
            await asyncio.Event().wait()

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)


async def test_of_a_crowd_a_few_begin_and_whoever_comes_beside_begins_at_once() -> None:
    starts = Starts()
    crowd = Crowd(starts, Activity())
    await until(lambda: crowd.begun >= 8)
    assert crowd.begun == 8
    entered = asyncio.create_task(starts.start(HONEST, Activity(), lambda: False).__aenter__())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert entered.done()
    await crowd.end()
    async with asyncio.timeout(5), AsyncExitStack() as stack:  # all of it is given back
        for _ in range(8):
            await stack.enter_async_context(starts.start(CROWD, Activity(), lambda: False))


async def test_what_the_node_fetches_ahead_keeps_no_client_of_the_same_registry_back() -> None:
    starts = Starts()
    crowd = Crowd(starts, Activity(priority=Priority.PREFETCH))
    await until(lambda: crowd.begun == 8)
    async with asyncio.timeout(5), starts.start(CROWD, Activity(), lambda: False):
        assert crowd.begun == 8
    await crowd.end()


async def test_whoever_is_cancelled_when_its_turn_comes_fails_nobody_and_keeps_no_place() -> None:
    admission, activity = Admission(1), Activity()
    assert admission.ask(CROWD, activity).done()
    gone, next_one = (admission.ask(CROWD, activity) for _ in range(2))
    gone.cancel()  # and before whoever waited for it can give it up:
    admission.leave(CROWD)
    admission.give_up(gone, CROWD)
    assert next_one.done()
    admission.leave(CROWD)
    assert admission.ask(CROWD, activity).done()


async def test_those_that_wait_for_their_registry_let_others_begin() -> None:
    activity = Activity()
    with activity.waiting("registry"):
        crowd = Crowd(Starts(), activity)
        await until(lambda: crowd.begun == 70)
    await crowd.end()


async def test_those_that_have_got_much_let_others_begin() -> None:
    activity = Activity()
    activity.count(8 * MIB)
    crowd = Crowd(Starts(), activity)
    await until(lambda: crowd.begun == 70)
    await crowd.end()
