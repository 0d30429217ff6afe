"""Places for workers, when more is asked for than there is."""

from __future__ import annotations

import asyncio

from cri_imaged.layers.worker.turns import Turns
from cri_imaged.ports import Activity, Priority, Sharers


async def test_one_share_that_asks_for_much_holds_up_no_other() -> None:
    turns, order = Turns(1), list[str]()

    pulls = {name: Activity() for name in ("many", "one", "other")}

    async def work(name: str) -> None:
        async with turns.place(pulls[name]):
            order.append(name)

    async with turns.place(pulls["many"]):
        names = ["many"] * 4 + ["one", "other"]
        tasks = [asyncio.create_task(work(name)) for name in names]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert order == ["one", "other", "many", "many", "many", "many"]


async def test_who_has_nobody_at_work_need_not_wait_for_those_who_have() -> None:
    turns, many = Turns(1, first=1), Activity()
    async with turns.place(many):
        more = asyncio.create_task(turns.place(many).__aenter__())
        async with asyncio.timeout(5), turns.place(Activity()):
            last = asyncio.create_task(turns.place(Activity()).__aenter__())
            await asyncio.sleep(0)
            assert not last.done()
        await last
        assert not more.done()
    async with asyncio.timeout(5):
        await more


async def test_work_that_another_pull_wants_too_has_the_turn_of_whoever_is_first() -> None:
    """Who began a layer may have many others at work; who joins need not wait behind them."""
    turns, crowd, honest = Turns(1, first=1), Activity(groups=("crowd",)), Activity(groups=("a",))
    shared = Sharers(crowd)
    async with turns.place(crowd):
        place = turns.place_of_any(shared)
        given = asyncio.create_task(place.__aenter__())
        more = asyncio.create_task(turns.place(crowd).__aenter__())
        await asyncio.sleep(0)
        shared.join(honest)
        async with asyncio.timeout(5):
            await given
        assert not more.done()
        await place.__aexit__(None, None, None)
        async with asyncio.timeout(5), turns.place(honest):  # it was given back
            pass
    async with asyncio.timeout(5):
        await more


def test_a_crowd_that_wants_one_piece_of_work_asks_once_for_each_group() -> None:
    shared = Sharers(Activity(groups=("a",)))
    for group in ("a", "b", "a", "b"):
        shared.join(Activity(groups=(group,)))
    assert [pull.groups for pull in shared.pulls] == [("a",), ("b",)]


async def test_many_pulls_of_a_group_hold_up_no_other_group() -> None:
    turns, order = Turns(1), list[str]()

    async def work(group: str) -> None:
        async with turns.place(Activity(groups=(group,))):
            order.append(group)

    async with turns.place(Activity(groups=("crowd",))):
        tasks = [asyncio.create_task(work(group)) for group in (*["crowd"] * 4, "one")]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert order == ["one", "crowd", "crowd", "crowd", "crowd"]


async def test_a_group_leaves_first_places_to_others() -> None:
    turns, at_work = Turns(1, first=4), list[str]()

    async def stay(group: str) -> None:
        async with turns.place(Activity(groups=(group,))):
            at_work.append(group)
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(stay(group)) for group in ("busy", *["crowd"] * 4, "one")]
    await asyncio.sleep(0)
    assert at_work == ["busy", "crowd", "crowd", "one"]
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    await asyncio.sleep(0)
    assert at_work[4:] == ["crowd"], "the place that got free is theirs, but no more"
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    async with asyncio.timeout(5), turns.place(Activity()):
        pass


async def test_who_gives_up_waiting_takes_no_place() -> None:
    turns = Turns(1)
    async with turns.place(Activity()):
        waiting = [asyncio.create_task(turns.place(Activity()).__aenter__()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
    waiting[1].cancel()  # it has just got its place
    await asyncio.wait(waiting[:2])
    async with asyncio.timeout(5):
        await waiting[2]
    assert [each.cancelled() for each in waiting] == [True, True, False]


async def test_what_no_client_waits_for_comes_last() -> None:
    turns, order = Turns(1), list[Priority]()

    async def work(pull: Activity) -> None:
        async with turns.place(pull):
            order.append(pull.priority)

    async with turns.place(Activity()):
        pulls = [Activity(priority=each) for each in reversed(Priority)]
        tasks = [asyncio.create_task(work(pull)) for pull in pulls]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert order == list(Priority)
