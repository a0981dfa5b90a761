"""Moments as people write them, and times as people read them."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decomp_ledger.errors import UnusableValue
from decomp_ledger.model.times import read_moment, read_time, shown_time, stored_time

ZONE = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
NOW = datetime.datetime(2026, 3, 1, 14, 30, 15, tzinfo=ZONE)
moments = st.datetimes(
    datetime.datetime(1000, 1, 1),
    datetime.datetime(9998, 1, 1),
    timezones=st.sampled_from([datetime.timezone.utc, ZONE]),
)

NAMED = {
    "now": (2026, 3, 1, 14, 30, 15),
    "today": (2026, 3, 1),
    " Yesterday ": (2026, 2, 28),
    "2w": (2026, 2, 15, 14, 30, 15),
    "2 weeks ago": (2026, 2, 15, 14, 30, 15),
    "1 day": (2026, 2, 28, 14, 30, 15),
    "90min": (2026, 3, 1, 13, 0, 15),
    "1mo": (2026, 2, 1, 14, 30, 15),
    "12 months": (2025, 3, 1, 14, 30, 15),
    "2y": (2024, 3, 1, 14, 30, 15),
    "15s": (2026, 3, 1, 14, 30),
    "3h": (2026, 3, 1, 11, 30, 15),
    "2026-01-31": (2026, 1, 31),
    "2026-01-31 09:15": (2026, 1, 31, 9, 15),
    "Jan 31 2026 9:15": (2026, 1, 31, 9, 15),
    "11:00": (2026, 3, 1, 11),
}


@pytest.mark.parametrize("text", NAMED)
def test_a_moment_is_read_in_the_zone_of_the_reader(text: str) -> None:
    assert read_moment(text, NOW) == datetime.datetime(*NAMED[text], tzinfo=ZONE)


def test_a_moment_with_a_zone_of_its_own_keeps_it() -> None:
    found = read_moment("2026-01-31T12:00:00Z", NOW)
    assert found == datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.timezone.utc)


@pytest.mark.parametrize(
    "text",
    ["", " ", "foo", "2x", "w", "-2w", "999999y", "2026-13-01", "2026-02-30", "99999999999", "1" * 400, "\0", "٣d"],
)
def test_what_names_no_moment_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UnusableValue, match="not a moment; give one such as 2w"):
        read_moment(text, NOW)


@given(st.text(max_size=12))
def test_any_text_is_a_moment_or_refused(text: str) -> None:
    try:
        assert read_moment(text, NOW).tzinfo is not None
    except UnusableValue as error:
        assert "not a moment" in str(error)


@given(moments, moments)
def test_stored_times_have_the_order_of_their_moments(one: datetime.datetime, other: datetime.datetime) -> None:
    first, second = stored_time(one), stored_time(other)
    assert read_time(first) == one
    assert (first < second) == (one < other)


def test_a_moment_without_a_zone_is_not_stored() -> None:
    with pytest.raises(UnusableValue, match="no time zone"):
        stored_time(datetime.datetime(2026, 1, 1))


@given(moments)
def test_each_form_of_a_time_names_the_same_moment(moment: datetime.datetime) -> None:
    stored = stored_time(moment)
    assert shown_time(stored, "iso") == stored
    assert datetime.datetime.fromisoformat(shown_time(stored) + "+00:00") == moment.replace(microsecond=0)
    assert datetime.datetime.fromisoformat(shown_time(stored, "local", NOW)) == moment.replace(microsecond=0)


AGES = {
    0: "0 seconds ago", 1: "1 second ago", 59: "59 seconds ago", 60: "1 minute ago", 7199: "1 hour ago",
    86400: "1 day ago", 8 * 86400: "1 week ago", 45 * 86400: "1 month ago", 800 * 86400: "2 years ago",
    -90: "in 1 minute",
}  # fmt: skip


@pytest.mark.parametrize("seconds", AGES)
def test_a_relative_time_counts_the_largest_unit(seconds: int) -> None:
    stored = stored_time(NOW - datetime.timedelta(seconds=seconds))
    assert shown_time(stored, "relative", NOW) == AGES[seconds]


def test_a_damaged_time_is_shown_as_it_is() -> None:
    assert shown_time("tomorrow", "relative", NOW) == "tomorrow"
