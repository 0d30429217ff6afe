"""What is seen of the requests to each host, over all pulls: told to whoever counts it, and how
quickly the host answered lately."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from cri_imaged.ports import RequestCounter
from cri_imaged.registry.hosts.host import Host
from cri_imaged.registry.http.head import Head
from cri_imaged.registry.http.rate_limit import rate_limit_of

MEASURED_SECONDS = 300.0
"""For how long a measurement counts. Then a host is tried early once more, so that one that was
slow once is not left out for good."""
_KEPT_HOSTS = 1000


class Telemetry:
    """One client's."""

    def __init__(
        self, counter: RequestCounter | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._counter = counter
        self._clock = clock
        self._quickest: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By host: seconds of the quickest answer since some time, and that time."""

    def answered(self, host: str, head: Head, seconds: float) -> None:
        """`host` answered a request after `seconds`."""
        if self._counter is not None:
            self._counter.answered(host, head.status, rate_limit_of(head.headers))
        self._measured(host, seconds)

    def unanswered(self, host: str) -> None:
        """`host` could not be reached, or did not answer."""
        if self._counter is not None:
            self._counter.answered(host, None, None)
        self._measured(host, math.inf)

    def retried(self, host: str) -> None:
        """`host` is asked once more, as a request to it has failed."""
        if self._counter is not None:
            self._counter.retried(host)

    def in_order(self, hosts: Sequence[Host]) -> tuple[Host, ...]:
        """`hosts` as they are to be tried: those that are `by_latency` in the order of their
        quickest answers, whoever has not been tried lately first; the others where they are."""
        ranked = iter(sorted((host for host in hosts if host.by_latency), key=self._latency))
        return tuple(next(ranked) if host.by_latency else host for host in hosts)

    def _measured(self, host: str, seconds: float) -> None:
        now = self._clock()
        quickest, since = self._quickest.pop(host, (math.inf, now))
        if now - since > MEASURED_SECONDS:
            quickest, since = math.inf, now
        self._quickest[host] = min(seconds, quickest), since
        if len(self._quickest) > _KEPT_HOSTS:
            self._quickest.popitem(last=False)

    def _latency(self, host: Host) -> float:
        quickest, since = self._quickest.get(host.authority, (0.0, -math.inf))
        return quickest if self._clock() - since <= MEASURED_SECONDS else 0.0
