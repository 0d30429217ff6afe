"""Threads for what blocks."""

from __future__ import annotations

import asyncio
import threading

import pytest

from cri_imaged.threads import Threads


async def test_results_and_errors_come_back() -> None:
    threads = Threads(2, "test")
    assert await threads.run(lambda: 7) == 7
    with pytest.raises(KeyError, match="gone"):
        await threads.run(lambda: {}["gone"])
    threads.close()


async def test_no_more_threads_than_allowed_and_none_that_nobody_needs() -> None:
    threads, used = Threads(3, "counted"), set()
    for _ in range(5):
        used.add(await threads.run(threading.get_ident))
    assert len(used) == 1
    all_run = threading.Barrier(3)
    waiting = [threads.run(all_run.wait) for _ in range(3)]
    behind = threads.run(threading.get_ident)
    await asyncio.wait_for(asyncio.gather(*waiting), 10)
    used.add(await behind)
    assert (
        len([thread for thread in threading.enumerate() if thread.name.startswith("counted_")]) == 3
    )
    threads.close()


async def test_what_is_cancelled_before_it_begins_is_not_done() -> None:
    threads, may_end = Threads(1, "test"), threading.Event()
    begun, done = threading.Event(), []

    def first() -> None:
        begun.set()
        may_end.wait()
        done.append("first")

    running, waiting = threads.run(first), threads.run(lambda: done.append("second"))
    await asyncio.to_thread(begun.wait)
    running.cancel()
    waiting.cancel()
    may_end.set()
    await threads.run(lambda: None)
    assert done == ["first"]
    threads.close()


def test_a_loop_that_was_closed_takes_no_thread_with_it() -> None:
    threads, may_end = Threads(1, "test"), threading.Event()

    async def leave_it() -> None:
        threads.run(may_end.wait)

    async def use_it() -> int:
        return await asyncio.wait_for(threads.run(lambda: 7), 10)

    asyncio.run(leave_it())
    may_end.set()
    assert asyncio.run(use_it()) == 7
    threads.close()
