"""Times of day of the local clock, as `HH:MM`, in minutes since midnight."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

_DAY = 24 * 60
_TIME = re.compile(r"([01][0-9]|2[0-4]):([0-5][0-9])", re.ASCII)


def parse_time(text: str) -> int:
    """Minutes of a time of day; `24:00` is the day's end.

    Raises:
        ValueError: malformed.
    """
    found = _TIME.fullmatch(text)
    minutes = int(found[1]) * 60 + int(found[2]) if found else _DAY + 1
    if minutes > _DAY:
        raise ValueError(f"time of day {text!r} is malformed, want for example 08:30")
    return minutes


def show_time(minutes: int) -> str:
    """Write a time of day so that `parse_time` gives it back."""
    return f"{minutes // 60:02}:{minutes % 60:02}"


def is_within(begin: int, end: int, minute: int) -> bool:
    """Whether `minute` is from `begin` until before `end`, over midnight where that is earlier. All
    day where they are equal."""
    if begin < end:
        return begin <= minute < end
    return minute >= begin or minute < end


def seconds_until(times: Iterable[int], second: float) -> float:
    """From a second of the day until the next of these times; for ever where there is none."""
    return min(
        ((each * 60 - second) % (_DAY * 60) or _DAY * 60 for each in times), default=float("inf")
    )


def second_of_day() -> float:
    """Of the local clock now."""
    now = time.time()
    local = time.localtime(now)
    return local.tm_hour * 3600 + local.tm_min * 60 + local.tm_sec + now % 1
