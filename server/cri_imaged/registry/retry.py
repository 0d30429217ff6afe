"""When to try again, and how long to wait before (pure)."""

from __future__ import annotations

import email.utils
from dataclasses import dataclass

from cri_imaged.limits import Limits

TRANSIENT_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
_LONGEST_NUMBER = 10


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """A budget of tries for each host of a request, and the waits between them."""

    tries: int
    """Tries at one host."""
    seconds: float
    """For all tries, beginning with the wait that failed first."""
    base_seconds: float = 0.2
    """Before the second try; doubled for each one after it."""
    longest_backoff_seconds: float = 10.0

    @classmethod
    def of(cls, limits: Limits) -> RetryPolicy:
        """The policy that the configured limits give."""
        return cls(limits.tries_per_request, limits.retry_seconds)

    def delay(self, failures: int, retry_after: float | None, fraction: float) -> float:
        """Seconds to wait after a host's `failures`-th failure (from 1).

        `fraction`, of [0, 1), is the jitter: the wait is between half the back-off and all of
        it. What the server asked for (`retry_after`) is obeyed up to half the budget, and jitter
        is added on top, so that many nodes that were told the same do not come back at once. Less
        than the back-off is not believed: a date has passed already where a clock is wrong.
        """
        backoff = min(self.base_seconds * 2.0 ** (failures - 1), self.longest_backoff_seconds)
        backoff *= 0.5 + fraction / 2
        if retry_after is None:
            return backoff
        return max(min(retry_after, self.seconds / 2) + fraction * self.base_seconds, backoff)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds that a `Retry-After` header asks for (RFC 9110, 10.2.3); None where it is absent or
    malformed. `now` is the time of day in seconds since the epoch."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:_LONGEST_NUMBER])
    try:
        moment = email.utils.parsedate_to_datetime(value)
        return max(0.0, moment.timestamp() - now)
    except (ValueError, OverflowError):
        return None
