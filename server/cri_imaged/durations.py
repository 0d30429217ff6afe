"""Durations as Go writes them, which containerd's users know: `1h30m`, `500ms`."""

from __future__ import annotations

import re

_UNITS = {
    "h": 3600.0,
    "m": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,  # the micro sign
    "μs": 1e-6,  # the Greek letter
    "ns": 1e-9,
}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(h|ms|m|s|us|µs|μs|ns)", re.ASCII)


def parse_duration(text: str) -> float:
    """Seconds of a duration (Go's time.ParseDuration). Negative ones have no meaning here.

    Raises:
        ValueError: malformed or negative.
    """
    written = text.removeprefix("+")
    seconds, end = 0.0, 0
    while part := _PART.match(written, end):
        seconds += float(part[1]) * _UNITS[part[2]]
        end = part.end()
    if written != "0" and (not written or end != len(written)):
        raise ValueError(f"duration {text!r} is malformed, want for example 90s, 5m or 1h30m")
    return seconds


def show_duration(seconds: float) -> str:
    """Write a duration so that `parse_duration` gives it back, to the nanosecond."""
    rest = round(seconds * 1e9)
    if rest == 0:
        return "0s"
    parts = []
    for unit in ("h", "m", "s", "ms", "us", "ns"):
        count, rest = divmod(rest, round(_UNITS[unit] * 1e9))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)
