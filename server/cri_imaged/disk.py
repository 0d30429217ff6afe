"""Work that touches the disk, in threads of its own. A disk that stands still then holds up nobody
who can do without it: neither the event loop nor the threads that look up host names."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cri_imaged.threads import Threads

T = TypeVar("T")

THREADS = 12
_threads = Threads(THREADS, "disk")


def on_disk(
    work: Callable[[], T], *, unwanted: Callable[[T], object] | None = None
) -> Awaitable[T]:
    """The result of `work`, run in a thread. It runs to its end where the caller is cancelled, and
    `unwanted` then gets its result: to close what was opened."""
    future = _threads.run(work)
    return future if unwanted is None else _wanted(future, unwanted)


def others_wait() -> bool:
    """Whether other work waits for a thread: what could go on for long ends then."""
    return _threads.crowded


async def _wanted(future: asyncio.Future[T], unwanted: Callable[[T], object]) -> T:
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        future.add_done_callback(lambda done: done.exception() or unwanted(done.result()))
        raise
