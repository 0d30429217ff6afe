"""Tries one thing at several hosts until one of them does it or the budget is used up."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from cri_imaged.errors import Attempt, ImagedError
from cri_imaged.ports import Account
from cri_imaged.registry.failures import AUTHORITATIVE, HostFailure, Kind, conclude, most_telling
from cri_imaged.registry.hosts.host import Host
from cri_imaged.registry.http.telemetry import Telemetry
from cri_imaged.registry.retry import RetryPolicy

log = structlog.get_logger()
_T = TypeVar("_T")
_KEPT_ATTEMPTS = 20
_SHOWN_URL = 1024
"""Characters: who names a foreign layer's may make it as long as he likes."""
_KNOWN_HOSTS = 1000
UNHEALTHY_SECONDS = 30.0


class HostHealth:
    """Which hosts failed lately, over all pulls: they are tried last for a while."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, telemetry: Telemetry | None = None
    ) -> None:
        """`telemetry` is told who is tried again."""
        self._clock = clock
        self._telemetry = telemetry or Telemetry()
        self._failed: dict[str, float] = {}

    def failed(self, host: Host) -> None:
        """The host could not be reached or delivered something wrong."""
        self._failed.pop(host.authority, None)
        self._failed[host.authority] = self._clock()
        if len(self._failed) > _KNOWN_HOSTS:
            del self._failed[next(iter(self._failed))]  # the one that failed first

    def succeeded(self, host: Host) -> None:
        """The host delivered."""
        self._failed.pop(host.authority, None)

    def tried_again(self, host: Host) -> None:
        """The host is asked once more for what it has failed at."""
        self._telemetry.retried(host.authority)

    def is_suspect(self, host: Host) -> bool:
        """Whether the host failed within the last `UNHEALTHY_SECONDS`."""
        failed = self._failed.get(host.authority)
        return failed is not None and self._clock() - failed < UNHEALTHY_SECONDS


class _Standing:
    """Where one host stands within one `Tries`."""

    __slots__ = ("answers", "failures", "host", "last", "not_before", "out")

    def __init__(self, host: Host) -> None:
        self.host = host
        self.failures = 0
        self.not_before = 0.0
        self.last: Kind | None = None
        self.answers = False
        self.out = False


class Tries:
    """One budget of tries, shared by all requests that serve one purpose.

    Every host is tried once before any is tried again, whatever time is left: silent mirrors must
    not use up the registry's turn. A host whose answer is final is not asked again; the others
    are, after the policy's wait or the one they asked for. The budget ends a request that is under
    way only at a host that has not answered anything yet: one that did may be fetching what it was
    asked for, and has the response header timeout.
    """

    def __init__(
        self,
        hosts: Sequence[Host],
        what: str,
        policy: RetryPolicy,
        health: HostHealth,
        account: Account | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`what` begins the error's message: what could not be done. `account` is told who
        answers and who fails. `clock` is the event loop's."""
        self._clock = clock
        self._account = account or Account()
        self._standings = [_Standing(host) for host in hosts]
        self._what = what
        self._policy = policy
        self._health = health
        self._begun: float | None = None
        """When the budget did: with the wait that failed first."""
        self._attempts: list[Attempt] = []

    async def run(self, call: Callable[[Host], Awaitable[_T]], url: Callable[[Host], str]) -> _T:
        """The first success of `call`, which raises `HostFailure` where a host fails. `url`
        gives the address for the report, without secrets.

        Raises:
            RegistryError, CorruptContentError, LimitExceededError: see `failures.conclude`.
        """
        while True:
            standing = await self._next()
            if standing.last is not None:
                self._health.tried_again(standing.host)
            started = self._clock()
            unbounded = standing.last is None or standing.answers
            try:
                async with asyncio.timeout(None if unbounded else self.left):
                    result = await call(standing.host)
            except TimeoutError:
                failure = HostFailure(
                    Kind.UNREACHABLE, "no answer before the time for tries was up"
                )
                self.failed(standing.host, failure, url(standing.host), started)
            except HostFailure as failure:
                self.failed(standing.host, failure, url(standing.host), started)
            else:
                self._health.succeeded(standing.host)
                self._account.answered(standing.host.authority)
                return result

    def failed(
        self,
        host: Host,
        failure: HostFailure,
        url: str,
        started: float,
        waited_since: float | None = None,
    ) -> None:
        """Count a failure. Times by the clock: `started`, when the request was made, and
        `waited_since`, where that is later as bytes came in between."""
        now, url = self._clock(), url[:_SHOWN_URL]
        if self._begun is None:
            self._begun = started if waited_since is None else waited_since
        if failure.unhealthy:
            self._health.failed(host)
        standing = next(standing for standing in self._standings if standing.host is host)
        standing.failures += 1
        standing.last = failure.kind
        standing.answers |= failure.status is not None
        standing.out = not failure.retryable
        jitter = random.random()  # noqa: S311  # spreads load, guards nothing
        standing.not_before = now + self._policy.delay(
            standing.failures, failure.retry_after, jitter
        )
        attempt = Attempt(
            host.authority, url, failure.outcome, now - started, failure.status, failure.codes
        )
        self._account.count(attempt)
        self._attempts.append(attempt)
        del self._attempts[:-_KEPT_ATTEMPTS]
        log.info(
            "registry host failed",
            host=host.authority,
            url=url,
            outcome=failure.outcome,
            seconds=round(attempt.seconds, 3),
        )

    def progressed(self) -> None:
        """Enough was delivered: the budget is whole again."""
        self._begun = None
        for standing in self._standings:
            standing.failures = 0

    @property
    def left(self) -> float | None:
        """Seconds left of the budget; None where it has not begun, as nothing has failed."""
        if self._begun is None:
            return None
        return max(self._begun + self._policy.seconds - self._clock(), 0.0)

    async def _next(self) -> _Standing:
        while True:
            now = self._clock()
            left = self.left
            live = [
                standing
                for standing in self._standings
                if not standing.out and standing.failures < self._policy.tries
                if standing.last is None or left != 0
            ]
            if not live or self._registry_decided():
                raise self._conclusion()
            ready = [standing for standing in live if standing.not_before <= now]
            if ready:
                return min(ready, key=self._rank)
            wake = min(standing.not_before for standing in live)
            if left is not None and wake - now > left:
                raise self._conclusion()
            await asyncio.sleep(wake - now)

    def _rank(self, standing: _Standing) -> tuple[int, bool]:
        return standing.failures, self._health.is_suspect(standing.host)

    def _registry_decided(self) -> bool:
        """The registry itself gave its final answer and every mirror was asked."""
        last = self._standings[-1].last
        return last in AUTHORITATIVE and all(standing.last for standing in self._standings)

    def _conclusion(self) -> ImagedError:
        kinds = [standing.last or Kind.UNREACHABLE for standing in self._standings]
        return conclude(most_telling(kinds), self._what, self._attempts)
