"""Work that cancellation must not tear apart."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from cri_imaged.errors import NoSpaceError

T = TypeVar("T")

_THREADS = 4
"""Of the event loop's pool, which look-ups of host names need too."""


class Interrupted(Exception):  # noqa: N818
    """Raised in a thread whose waiter was cancelled."""


async def whole(
    work: Coroutine[Any, Any, T], undo: Callable[[], Coroutine[Any, Any, object]] | None = None
) -> T:
    """Run `work` to its end even where the caller is cancelled; then `undo` what it did."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await _ended(task)
        if undo is not None and task.exception() is None:
            await whole(undo())
        raise


class Threads:
    """Blocking file work, a few at a time."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(_THREADS)

    async def run(self, what: str, work: Callable[[Callable[[], None]], T]) -> T:
        """Run `work` in a thread and wait for its end, cancelled or not. `work` is given a
        function to call often, which raises once the waiter is cancelled.

        Raises:
            NoSpaceError: the disk or a quota is full; names `what`.
        """
        stop = threading.Event()

        def check() -> None:
            if stop.is_set():
                raise Interrupted

        async with self._free:
            task = asyncio.ensure_future(asyncio.to_thread(work, check))
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                stop.set()
                await _ended(task)
                task.exception()
                raise
            except OSError as error:
                refuse_full_disk(error, what)
                raise


class Locks:
    """One lock for each key in use."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[asyncio.Lock, int]] = {}

    @contextlib.asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        """Be alone with `key`."""
        lock, users = self._held.get(key, (asyncio.Lock(), 0))
        self._held[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._held[key]
            if users == 1:
                del self._held[key]
            else:
                self._held[key] = (lock, users - 1)


def refuse_full_disk(error: OSError, what: str) -> None:
    """Raise `NoSpaceError` in place of an `error` that says so."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise NoSpaceError(f"{what}: {error.strerror}") from error


async def _ended(task: Awaitable[object]) -> None:
    future = asyncio.ensure_future(task)
    while not future.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([future])
