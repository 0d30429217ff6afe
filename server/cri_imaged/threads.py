"""Threads for what blocks. `ThreadPoolExecutor` does the same, and takes twice the time to hand
work over and back."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class _Item(NamedTuple):
    future: asyncio.Future[Any]
    work: Callable[[], Any]


class Threads:
    """At most so many threads, started when there is work for them. No exit waits for them."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._started = 0
        self._unfinished = 0
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Begin `work` in a thread, from an event loop. It runs to its end where the future is
        cancelled, unless that was before it began."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._unfinished += 1
        if self._started < min(self._most, self._unfinished):
            threading.Thread(
                target=self._main, name=f"{self._name}_{self._started}", daemon=True
            ).start()
            self._started += 1
        self._queue.put(_Item(future, work))
        return future

    @property
    def crowded(self) -> bool:
        """Whether work waits for a thread. May be asked in any."""
        return self._unfinished > self._most

    def close(self) -> None:
        """End the threads once they have done what they were given."""
        for _ in range(self._started):
            self._queue.put(None)
        self._started = 0

    def _main(self) -> None:
        while (item := self._queue.get()) is not None:
            result = error = None
            if not item.future.cancelled():
                try:
                    result = item.work()
                except BaseException as raised:  # it is for whoever waits
                    error = raised
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                item.future.get_loop().call_soon_threadsafe(
                    self._finish, item.future, result, error
                )
            del item, result, error

    def _finish(
        self, future: asyncio.Future[Any], result: Any, error: BaseException | None
    ) -> None:
        self._unfinished -= 1
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
