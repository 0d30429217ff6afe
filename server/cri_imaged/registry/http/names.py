"""Host names looked up without holding up others: a name server that never answers costs its own
name's thread, and nobody else's time."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

Address: TypeAlias = tuple[str, int]
"""An IP address, and its scope (the network interface) where it is a link-local one, else 0."""
Lookup: TypeAlias = Callable[[str], list[Address]]

_THREADS = 512
"""Lookups at the same time, each of another name: more than pulls are at work at once. Further ones
wait. A thread is stuck for as long as the system's resolver tries (resolv.conf: timeout,
attempts)."""
_KNOWN_THREADS = 32
"""Besides, of names that were found before: they wait for no crowd of those that never are."""
_KEPT_SECONDS = 10.0
_KEPT_NAMES = 1000


def look_up(name: str) -> list[Address]:
    """The addresses of `name`, a host name or an address in any spelling, as the system finds
    them. Blocks. Raises `OSError`."""
    # As bytes, as the codec for text refuses names that are merely unknown.
    found = socket.getaddrinfo(name.encode(), None, type=socket.SOCK_STREAM)
    return [(str(place[0]), place[3] if len(place) == 4 else 0) for *_, place in found]


@dataclass(slots=True)
class _Search:
    """For the addresses of one name."""

    task: asyncio.Task[list[Address]]
    askers: int = 0
    begun: bool = False
    """Whether it has a thread, which nothing stops."""


class Names:
    """Looks up names, each once at a time, and keeps what it found for some seconds."""

    def __init__(self, lookup: Lookup = look_up) -> None:
        self._lookup = lookup
        self._threads = asyncio.Semaphore(_THREADS)
        self._known_threads = asyncio.Semaphore(_KNOWN_THREADS)
        self._running: dict[str, _Search] = {}
        self._kept: OrderedDict[str, tuple[float, list[Address]]] = OrderedDict()

    async def addresses(self, name: str, seconds: float) -> list[Address]:
        """The addresses of a name or a numeric address. Raises `OSError`; `TimeoutError` after
        `seconds`."""
        found = self._kept.get(name)
        if found is not None and time.monotonic() - found[0] < _KEPT_SECONDS:
            return found[1]
        search = self._running.get(name)
        if search is None:
            task = asyncio.create_task(self._find(name))
            search = self._running[name] = _Search(task)
            task.add_done_callback(lambda done: self._done(name, done))
        search.askers += 1
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(search.task)
        finally:
            search.askers -= 1
            if not search.askers and not search.begun:
                # Who comes next need not wait until a thread has looked for it in vain.
                self._running.pop(name, None)
                search.task.cancel()

    def close(self) -> None:
        """Wait for no lookup any more."""
        for search in list(self._running.values()):
            search.task.cancel()

    async def _find(self, name: str) -> list[Address]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Address]] = loop.create_future()

        def deliver(found: list[Address] | OSError) -> None:
            if answer.done():
                return
            if isinstance(found, OSError):
                answer.set_exception(found)
            else:
                answer.set_result(found)

        def run() -> None:
            found: list[Address] | OSError
            try:
                found = self._lookup(name)
            except OSError as error:
                found = error
            if not loop.is_closed():
                loop.call_soon_threadsafe(deliver, found)

        async with self._known_threads if name in self._kept else self._threads:
            self._running[name].begun = True
            # Not of a pool: the end of the process waits for a pool's threads.
            threading.Thread(target=run, name="lookup", daemon=True).start()
            return await answer

    def _done(self, name: str, task: asyncio.Task[list[Address]]) -> None:
        if task.cancelled():
            return
        self._running.pop(name, None)
        if task.exception() is not None:
            return
        self._kept[name] = time.monotonic(), task.result()
        self._kept.move_to_end(name)
        while len(self._kept) > _KEPT_NAMES:
            self._kept.popitem(last=False)
