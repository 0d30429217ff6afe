"""Blocking file work in threads, in turns, and locks by key."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Protocol, TypeVar

from cri_imaged import threads
from cri_imaged.full_disk import told_as_no_space
from cri_imaged.ports import Usage
from cri_imaged.shielding import to_the_end

T = TypeVar("T")

_AT_A_TIME = 4
_TURN_SECONDS = 0.02
"""After which one that works lets others on. What is short then never waits for what is long."""
_THREADS = 256
"""More than pulls run at the same time. Nearly all of them wait for their turn."""


class Check(Protocol):
    """To be called often, while nothing is half done: it waits where it is another's turn, and
    raises where the work is to stop."""

    def __call__(self, let_go: Callable[[], object] = ..., /) -> None:
        """`let_go` is called before a wait, to close what the work can open again."""
        ...

    def grew(self, size: int, inodes: int) -> None:
        """Tell that the work put so many bytes and inodes on the disk."""
        ...


class Growth:
    """A `Check` that adds up what grew."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self.usage = Usage(0, 0)

    def __call__(self, let_go: Callable[[], object] = lambda: None) -> None:
        """See `Check`."""
        self._check(let_go)

    def grew(self, size: int, inodes: int) -> None:
        """See `Check.grew`."""
        self.usage += Usage(size, inodes)
        self._check.grew(size, inodes)


class Interrupted(Exception):  # noqa: N818
    """Raised in a thread whose waiter was cancelled."""


class _Turns:
    """A few threads at a time, the others in the order in which they came."""

    def __init__(self, at_a_time: int) -> None:
        self._lock = threading.Lock()
        self._free = at_a_time
        self._waiting: deque[threading.Event] = deque()

    @property
    def wanted(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    def take(self) -> None:
        """Wait for a turn."""
        with self._lock:
            if self._free:
                self._free -= 1
                return
            turn = threading.Event()
            self._waiting.append(turn)
        turn.wait()

    def pass_on(self) -> None:
        """Let the next one on."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1


class _Job:
    """One piece of work in its thread; calling it is its `Check`."""

    def __init__(self, turns: _Turns, stop: threading.Event) -> None:
        self._turns = turns
        self._stop = stop
        self._until = 0.0

    def __enter__(self) -> _Job:
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._turns.pass_on()

    def __call__(self, let_go: Callable[[], object] = lambda: None) -> None:
        if self._stop.is_set():
            raise Interrupted
        if time.monotonic() > self._until and self._turns.wanted:
            let_go()
            self._turns.pass_on()
            self._begin()

    def grew(self, size: int, inodes: int) -> None:
        """See `Check.grew`: nobody counts it here."""

    def _begin(self) -> None:
        self._turns.take()
        self._until = time.monotonic() + _TURN_SECONDS


class Threads:
    """Blocking file work: a few at a time, and each of them for a moment before it is another's
    turn, as often as it calls its `Check`."""

    def __init__(self) -> None:
        self._turns = _Turns(_AT_A_TIME)
        self._large = asyncio.Semaphore(_AT_A_TIME)
        self._threads = threads.Threads(_THREADS, "snapshots")

    async def run(self, what: str, work: Callable[[Check], T], *, large: bool = False) -> T:
        """Run `work` in a thread and wait for its end, cancelled or not; it has to call its `Check`
        often. Of what is `large`, and holds much memory, as few are begun as work at a time.

        Raises:
            NoSpaceError: the disk or a quota is full; names `what`.
        """
        stop = threading.Event()

        def job() -> T:
            with _Job(self._turns, stop) as check:
                return work(check)

        async with self._large if large else contextlib.nullcontext():
            with told_as_no_space(what):
                return await to_the_end(self._threads.run(job), interrupt=stop.set)


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
