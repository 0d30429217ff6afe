"""Where nodes get an image from: a registry with limits, a pull-through mirror, peers."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cri_imaged.registry.failures import HostFailure, Kind
from simulating.link import Link

_ROUND_TRIP = 0.05
"""Seconds, to a registry or a mirror."""
_NEARBY = 0.005
"""Seconds, to a peer."""
_UPLOADS = 4
"""Of one thing by one peer at the same time, where a scheduler sends peers to one another."""


@dataclass(frozen=True)
class Thing:
    """Something of an image that one request asks for."""

    name: str
    size: int
    counted: bool = False
    """Whether the request uses up the limit on pulls: only a GET of a manifest does."""


class Source(Protocol):
    """Who can be asked for things."""

    async def give(self, thing: Thing) -> None:
        """Return when it has arrived. Raises `HostFailure`."""


class Window:
    """So many in so many seconds, in windows that follow one another; None: any number."""

    def __init__(self, most: int | None, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._number = -1
        self._used = 0

    def take(self, now: float) -> float | None:
        """Seconds until there is a place again; None where one was taken."""
        number = int(now // self._seconds)
        if number != self._number:
            self._number, self._used = number, 0
        if self._most is not None and self._used >= self._most:
            return (number + 1) * self._seconds - now
        self._used += 1
        return None


class Registry:
    """Limits all nodes together, as one login and one address: pulls, as Docker Hub does by login,
    and requests, as it does by address. What is refused is not counted."""

    def __init__(self, link: Link, pulls: Window, requests: Window) -> None:
        self._link = link
        self._pulls = pulls
        self._requests = requests
        self.counted = self.refused = self.sent = 0
        self.seconds: Counter[int] = Counter()
        """Requests in each."""

    async def give(self, thing: Thing) -> None:
        """See `Source.give`."""
        await asyncio.sleep(_ROUND_TRIP)
        now = asyncio.get_running_loop().time()
        self.seconds[int(now)] += 1
        wait = self._requests.take(now)
        if wait is None and thing.counted:
            wait = self._pulls.take(now)
        if wait is not None:
            self.refused += 1
            raise HostFailure(Kind.UNREACHABLE, "429", status=429, retry_after=math.ceil(wait))
        self.counted += thing.counted
        self.sent += thing.size
        await self._link.carry(thing.size)


class Fetched:
    """Things that are fetched once, whoever asks for them; after a failure, again."""

    def __init__(self, upstream: Source, then: Callable[[Thing], None] = lambda _: None) -> None:
        """`then` is told of what has come."""
        self._upstream = upstream
        self._then = then
        self._flights: dict[Thing, asyncio.Task[None]] = {}

    async def have(self, thing: Thing) -> None:
        """Return when it is here. Raises `HostFailure`."""
        if thing not in self._flights:
            self._flights[thing] = asyncio.create_task(self._fetch(thing))
        await asyncio.shield(self._flights[thing])

    async def _fetch(self, thing: Thing) -> None:
        try:
            await self._upstream.give(thing)
        except HostFailure:
            del self._flights[thing]
            raise
        self._then(thing)


class Mirror:
    """A pull-through cache. It passes on what the registry answers."""

    def __init__(self, link: Link, upstream: Source) -> None:
        self._link = link
        self._cache = Fetched(upstream)

    async def give(self, thing: Thing) -> None:
        """See `Source.give`."""
        await asyncio.sleep(_ROUND_TRIP)
        await self._cache.have(thing)
        await self._link.carry(thing.size)


class Peers:
    """Nodes give what they have; what none has yet is not found, as with Spegel."""

    def __init__(self) -> None:
        self._holders: defaultdict[Thing, list[Link]] = defaultdict(list)

    def announce(self, thing: Thing, holder: Link) -> None:
        """A node has it, and sends it by its link."""
        self._holders[thing].append(holder)

    async def give(self, thing: Thing) -> None:
        """See `Source.give`."""
        await asyncio.sleep(_NEARBY)
        if not self._holders[thing]:
            raise HostFailure(Kind.NOT_FOUND, "404", status=404)
        await random.choice(self._holders[thing]).carry(thing.size)


class SeededPeers:
    """A seed fetches each thing once, nodes get it from one another, each sending to a few at a
    time, as with Dragonfly's scheduler and seed peers."""

    def __init__(self, seed: Link, upstream: Source) -> None:
        self._seed = Fetched(upstream, lambda thing: self.announce(thing, seed))
        self._uploads: defaultdict[Thing, asyncio.Queue[Link]] = defaultdict(asyncio.Queue)
        """Those that are free."""

    def announce(self, thing: Thing, holder: Link) -> None:
        """A node has it, and sends it by its link."""
        for _ in range(_UPLOADS):
            self._uploads[thing].put_nowait(holder)

    async def give(self, thing: Thing) -> None:
        """See `Source.give`."""
        await asyncio.sleep(_NEARBY)
        await self._seed.have(thing)
        free = self._uploads[thing]
        holder = await free.get()
        await holder.carry(thing.size)
        free.put_nowait(holder)
