"""Durations as Go writes them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri_imaged.durations import parse_duration, show_duration

# Examples of Go's own time.ParseDuration documentation and tests.
GO_DURATIONS = {
    "0": 0.0,
    "0s": 0.0,
    "5s": 5.0,
    "30s": 30.0,
    "1478s": 1478.0,
    "5.s": 5.0,
    ".5s": 0.5,
    "1.004s": 1.004,
    "10ns": 10e-9,
    "11us": 11e-6,
    "12µs": 12e-6,
    "12μs": 12e-6,
    "13ms": 0.013,
    "15m": 900.0,
    "16h": 57600.0,
    "3h30m": 12600.0,
    "10.5s4m": 250.5,
    "1h15m30.918273645s": 4530.918273645,
    "39h9m14.425s": 140954.425,
    "+5s": 5.0,
}


@pytest.mark.parametrize(("text", "seconds"), GO_DURATIONS.items())
def test_durations_as_go_reads_them(text: str, seconds: float) -> None:
    assert math.isclose(parse_duration(text), seconds)


@pytest.mark.parametrize(
    "text", ["", "+", "++5s", "3", "-5s", "s", ".", "1 s", "1d", "5s ", "1h2", "٣s", "1e3s"]
)
def test_malformed_durations(text: str) -> None:
    with pytest.raises(ValueError, match="malformed"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**15))
def test_durations_survive_being_written(nanoseconds: int) -> None:
    seconds = nanoseconds / 1e9
    assert math.isclose(parse_duration(show_duration(seconds)), seconds, abs_tol=1e-9)
