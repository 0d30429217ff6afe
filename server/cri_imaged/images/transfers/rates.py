"""How fast the places that blobs come from were when they last sent something."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from cri_imaged.limits import MIB

_UNKNOWN = 10.0 * MIB
"""Bytes a second of who has not been heard of."""
_REMEMBERED = 1024
_BELIEVED = 60.0
"""Seconds: who was slow before that would be kept waiting by who is slow now."""
_TELLING = 1 * MIB
"""Bytes that tell how fast somebody is; fewer tell how long the first one takes."""
_WINDOW = 0.75
"""Seconds of which a rate is the mean, at the least."""


class Rates:
    """The last rate of each place, in bytes a second. Times are the event loop's."""

    def __init__(self) -> None:
        self._rates: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def of(self, place: Hashable, now: float) -> float:
        """What a place may be expected to send."""
        rate, since = self._rates.get(place, (_UNKNOWN, now))
        return rate if now - since < _BELIEVED else _UNKNOWN

    def known(self, place: Hashable) -> float:
        """What it sent last, and nothing of who has not been heard of."""
        return self._rates.get(place, (0.0, 0.0))[0]

    def brought(self, place: Hashable, meter: Meter, now: float) -> None:
        """A place has sent all that was asked of it."""
        rate = meter.mean(now)
        if rate is not None:
            self.measured(place, rate, now)

    def measured(self, place: Hashable, rate: float, now: float) -> None:
        """A place sends so much now. That it sends nothing tells only that it has stalled."""
        if rate <= 0:
            return
        self._rates[place] = rate, now
        self._rates.move_to_end(place)
        if len(self._rates) > _REMEMBERED:
            self._rates.popitem(last=False)


class Meter:
    """The present rate of one stream that may stall."""

    def __init__(self, now: float) -> None:
        self._began = self._since = now
        self._all = self._bytes = 0
        self._rate: float | None = None

    def count(self, number: int) -> None:
        """So many bytes came."""
        self._all += number
        self._bytes += number

    def mean(self, now: float) -> float | None:
        """Bytes a second since the beginning; None where it were too few to tell."""
        seconds = now - self._began
        return self._all / seconds if self._all >= _TELLING and seconds > 0 else None

    def rate(self, now: float) -> float | None:
        """Bytes a second lately; None where that cannot be told yet."""
        seconds = now - self._since
        if seconds >= _WINDOW:
            self._rate = self._bytes / seconds
            self._since, self._bytes = now, 0
        return self._rate


def seconds_for(size: int, rate: float) -> float:
    """How long `size` bytes take."""
    return size / rate if rate > 0 else float("inf") if size else 0.0
