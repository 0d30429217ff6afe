"""What all bodies of responses pass: the caps on bandwidth, and who gives way to whom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from cri_imaged.limits import KIB
from cri_imaged.oci.authority import canonical_authority
from cri_imaged.ports import Activity, Priority
from cri_imaged.registry.hosts.host import Host
from cri_imaged.registry.http.bucket import Bucket, Payment

_BUSY_BYTES = 64 * KIB
"""Who gets less in `_BUSY_SECONDS` is in nobody's way."""
_BUSY_SECONDS = 1.0
_LOOK_SECONDS = 10.0
"""After which at the latest it is looked whether the cap is another one by the time of day."""


@dataclass(frozen=True, slots=True)
class Caps:
    """Bytes a second that may come; 0: as many as can."""

    node: Callable[[], int] = lambda: 0
    """From all hosts together, at the moment."""
    hosts: Mapping[str, int] = field(default_factory=dict)
    """From single ones, by host and port as they are configured, wherever they redirect to."""


class Traffic:
    """Passes bytes on, at the rate that is allowed.

    Who has a lower priority waits while bytes come for who has a higher one, whether or not there
    is a cap: what the network and this node can do then is theirs alone.
    """

    def __init__(self) -> None:
        self._caps = Caps()
        self._node = _Queue(lambda: self._caps.node())
        self._hosts: dict[str, _Queue] = {}
        self._busy = {priority: _Busy() for priority in Priority}
        self._betters = {
            priority: [self._busy[each] for each in Priority if each < priority]
            for priority in Priority
        }

    def configure(self, caps: Caps) -> None:
        """Have these caps from now on."""
        hosts = {canonical_authority(name): cap for name, cap in caps.hosts.items()}
        self._caps = Caps(caps.node, hosts)
        for name in hosts.keys() - self._hosts:
            self._hosts[name] = _Queue(partial(self._cap_of, name))
        for queue in (self._node, *self._hosts.values()):
            queue.serve()

    async def admit(self, host: Host, size: int, pull: Activity) -> None:
        """Wait until a pull may have these bytes, which came of `host`."""
        await self._give_way(pull)
        for queue in self._queues(host):
            await queue.pay(size, pull)
        self._busy[pull.priority].passed(size)

    def charge(self, host: Host, size: int) -> None:
        """So many bytes came of `host` with which nobody waits: documents, tokens, errors."""
        for queue in self._queues(host):
            queue.charge(size)

    def _cap_of(self, name: str) -> int:
        return self._caps.hosts.get(name, 0)

    def _queues(self, host: Host) -> list[_Queue]:
        if not self._hosts:
            return [self._node]
        own = self._hosts.get(canonical_authority(host.authority, host.scheme))
        return [self._node] if own is None else [own, self._node]

    async def _give_way(self, pull: Activity) -> None:
        while (seconds := self._busy_for(pull.priority)) > 0:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(seconds)

    def _busy_for(self, priority: Priority) -> float:
        betters = self._betters[priority]
        return max(busy.until for busy in betters) - _now() if betters else 0.0


class _Busy:
    """Whether bytes come for a priority."""

    def __init__(self) -> None:
        self.until = 0.0
        self._since = 0.0
        self._bytes = 0

    def passed(self, size: int) -> None:
        now = _now()
        if now - self._since > _BUSY_SECONDS:
            self._since, self._bytes = now, 0
        self._bytes += size
        if self._bytes >= _BUSY_BYTES:
            self.until = now + _BUSY_SECONDS


class _Queue:
    """A bucket, and the clock that has it serve."""

    def __init__(self, rate: Callable[[], float]) -> None:
        self._bucket = Bucket(rate)
        self._timer: asyncio.TimerHandle | None = None

    async def pay(self, size: int, pull: Activity) -> None:
        if not self._bucket.is_capped:
            return
        paid = asyncio.Event()
        payment = Payment(size, pull, paid.set)
        self._bucket.add(payment)
        self.serve()
        try:
            await paid.wait()
        finally:
            self._bucket.drop(payment)

    def charge(self, size: int) -> None:
        self._bucket.charge(size, _now())

    def serve(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        seconds = self._bucket.serve(_now())
        if seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(
                min(seconds, _LOOK_SECONDS), self.serve
            )


def _now() -> float:
    return asyncio.get_running_loop().time()
