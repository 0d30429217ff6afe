"""Times of day."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri_imaged.daytimes import is_within, parse_time, seconds_until, show_time

minutes = st.integers(0, 24 * 60 - 1)


@given(st.integers(0, 24 * 60))
def test_times_survive_being_written(minute: int) -> None:
    assert parse_time(show_time(minute)) == minute


@pytest.mark.parametrize("text", ["", "8:00", "24:01", "08:60", "08:00:00", "٠٨:00", "0800"])
def test_malformed_times(text: str) -> None:
    with pytest.raises(ValueError, match="malformed"):
        parse_time(text)


@given(minutes, minutes, minutes)
def test_a_part_of_the_day_and_the_rest_are_the_whole(begin: int, end: int, minute: int) -> None:
    if begin == end:
        assert is_within(begin, end, minute)
    else:
        assert is_within(begin, end, minute) != is_within(end, begin, minute)


def test_over_midnight() -> None:
    night = parse_time("22:00"), parse_time("06:00")
    assert is_within(*night, parse_time("23:30"))
    assert is_within(*night, parse_time("05:59"))
    assert not is_within(*night, parse_time("06:00"))


@given(st.lists(minutes, min_size=1), st.integers(0, 86_399))
def test_the_next_of_several_times(times: list[int], second: int) -> None:
    left = seconds_until(times, second)
    assert 0 < left <= 86_400
    assert (second + left) % 86_400 in {each * 60 for each in times}
    assert all((each * 60 - second) % 86_400 in (0, *range(int(left), 86_400)) for each in times)


def test_no_time_never_comes() -> None:
    assert seconds_until([], 5) == float("inf")
