"""The grammar of time: what is understood, what is refused, and what the refusal says."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import time
import zoneinfo
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollrep.core import clock, units
from rollrep.core.errors import UsageError
from rollrep.core.moments import ById, ByLabel, ByPoint, ByTime, Latest, Moment, parse_moment, show_distance

NOW = dt.datetime(2026, 11, 22, 19, 8, 1, 500_000, tzinfo=dt.UTC)  # a Sunday
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


def parsed(text: str, zone: dt.tzinfo | None = BERLIN) -> Moment:
    return parse_moment(text, now=NOW, zone=zone)


def time_of(text: str, zone: dt.tzinfo | None = BERLIN) -> str:
    found = parsed(text, zone)
    assert isinstance(found, ByTime)
    assert found.moment.tzinfo is dt.UTC
    return clock.iso(found.moment)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latest", Latest()),
        (" Latest ", Latest()),
        ("point:17", ByPoint(17)),
        ("id:45678", ById(45678)),
        ("label:before-deploy", ByLabel("before-deploy")),
        ("label:10:30 / 01/02, yesterday", ByLabel("10:30 / 01/02, yesterday")),
        ("label:latest", ByLabel("latest")),
    ],
)
def test_moment_is_a_name_when_it_has_a_prefix(text: str, expected: Moment) -> None:
    assert parsed(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", "2026-11-22T19:08:01.500Z"),
        ("@1767225600", "2026-01-01T00:00:00.000Z"),
        ("@1767225600.25", "2026-01-01T00:00:00.250Z"),
        ("2026-11-22T19:08:01.123Z", "2026-11-22T19:08:01.123Z"),
        ("2026-11-22t19:08z", "2026-11-22T19:08:00.000Z"),
        ("2026-11-22 19:08:01 UTC", "2026-11-22T19:08:01.000Z"),
        ("2026-11-22T20:08:01+01:00", "2026-11-22T19:08:01.000Z"),
        ("2026-11-22T13:38-0530", "2026-11-22T19:08:00.000Z"),
        ("2026-11-22 20:08", "2026-11-22T19:08:00.000Z"),
        ("2026-07-01T12:00", "2026-07-01T10:00:00.000Z"),
        ("2026-11-22", "2026-11-21T23:00:00.000Z"),
        ("2h ago", "2026-11-22T17:08:01.500Z"),
        ("90 seconds ago", "2026-11-22T19:06:31.500Z"),
        ("1h30m ago", "2026-11-22T17:38:01.500Z"),
        ("1 hour and 5 minutes ago", "2026-11-22T18:03:01.500Z"),
        ("an hour ago", "2026-11-22T18:08:01.500Z"),
        ("2 days ago", "2026-11-20T19:08:01.500Z"),
        ("1 month ago", "2026-10-22T18:08:01.500Z"),
        ("yesterday 14:30", "2026-11-21T13:30:00.000Z"),
        ("yesterday at 2:30 pm", "2026-11-21T13:30:00.000Z"),
        ("Yesterday  14:30:15 UTC", "2026-11-21T14:30:15.000Z"),
        ("yesterday 12am", "2026-11-20T23:00:00.000Z"),
        ("yesterday", "2026-11-20T23:00:00.000Z"),
        ("today 00:15", "2026-11-21T23:15:00.000Z"),
        ("last thursday 9:00", "2026-11-19T08:00:00.000Z"),
        ("thurs 09:00", "2026-11-19T08:00:00.000Z"),
        ("22 nov 2026 19:00", "2026-11-22T18:00:00.000Z"),
        ("November 3rd, 2026 at 7pm", "2026-11-03T18:00:00.000Z"),
    ],
)
def test_moment_is_a_time_when_it_reads_like_one(text: str, expected: str) -> None:
    assert time_of(text) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("17", "write point:17, id:17 or @17"),
        ("20261122", "point:20261122"),
        ("01/02/2026", "write the date as 2026-11-22"),
        ("1/2", "write the date as 2026-11-22"),
        ("01.02.2026", "write the date as 2026-11-22"),
        ("2026/11/22", "write the date as 2026-11-22"),
        ("14:30", "write today 14:30 or yesterday 14:30"),
        ("2h", "write 2h ago"),
        ("yesterday 14", "write 14:00"),
        ("yesterday at 25:00", "not in the calendar"),
        ("yesterday 14:30pm", "has no such hour"),
        ("2026-02-30", "not in the calendar"),
        ("31 feb 2026", "not a moment"),
        ("2026-11-22T19:08+99:00", "is no zone"),
        ("lable:x", "did you mean label:x?"),
        ("point:", "write point:17"),
        ("point:-1", "write point:17"),
        ("id:99999999999999999999", "write id:17"),
        ("label:", "write label:before-deploy"),
        ("label: ", "write label:before-deploy"),
        ("@", "not a moment"),
        ("@-5", "not a moment"),
        ("@999999999999", "beyond the calendar"),
        ("9999999w ago", "beyond the calendar"),
        ("a", "write one of these"),
        ("may", "write one of these"),
        ("march", "write one of these"),
        ("garbage", "write one of these"),
        ("", "write one of these"),
        ("yesterday 14:30 EST", "write one of these"),
        ("0s ago", "write one of these"),
        ("-2h ago", "write one of these"),
    ],
)
def test_moment_is_refused_with_what_to_type_when_it_could_mean_several_things(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parsed(text)
    assert says in str(caught.value)


@pytest.mark.parametrize("text", ["2026-10-25T02:30", "25 oct 2026 2:30"])
def test_wall_clock_is_refused_with_both_moments_when_the_hour_came_twice(text: str) -> None:
    with pytest.raises(UsageError, match="write 2026-10-25T00:30:00Z or 2026-10-25T01:30:00Z"):
        parsed(text)


def test_wall_clock_is_refused_when_the_hour_was_skipped() -> None:
    with pytest.raises(UsageError, match="skipped when the clocks went forward"):
        parsed("2026-03-29T02:30")


def test_wall_clock_is_taken_when_a_zone_resolves_the_repeated_hour() -> None:
    assert time_of("2026-10-25T02:30+02:00") == "2026-10-25T00:30:00.000Z"


def test_day_starts_when_its_clock_first_shows_it_where_midnight_is_skipped() -> None:
    assert time_of("2026-09-06", zoneinfo.ZoneInfo("America/Santiago")) == "2026-09-06T04:00:00.000Z"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets this machine's own zone."""

    def be_in(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield be_in
    monkeypatch.undo()
    time.tzset()


def test_zone_is_the_machines_own_when_none_is_given(machine: Callable[[str], None]) -> None:
    machine("Asia/Kolkata")
    assert time_of("2026-11-22 12:00", zone=None) == "2026-11-22T06:30:00.000Z"
    assert time_of("yesterday 12:00", zone=None) == "2026-11-22T06:30:00.000Z"  # 00:38 of the 23rd there


@pytest.mark.parametrize(
    ("zone", "text", "says"),
    [
        ("Europe/Berlin", "2026-03-29T02:30", "skipped when the clocks went forward"),
        ("Pacific/Apia", "2011-12-30T12:00", "skipped when the clocks went forward"),
        ("Australia/Lord_Howe", "2026-10-04T02:15", "skipped when the clocks went forward"),
        ("Europe/Berlin", "2026-10-25T02:30", "write 2026-10-25T00:30:00Z or 2026-10-25T01:30:00Z"),
        ("Europe/Berlin", "0001-01-01", "beyond the calendar"),
        ("America/New_York", "9999-12-31T23:59:59", "beyond the calendar"),
    ],
)
def test_wall_clock_is_refused_with_the_true_reason_when_the_zone_is_the_machines_own(
    machine: Callable[[str], None], zone: str, text: str, says: str
) -> None:
    machine(zone)
    for asked in (None, zoneinfo.ZoneInfo(zone)):
        with pytest.raises(UsageError, match=says):
            parsed(text, asked)


def test_day_starts_when_its_clock_first_shows_it_in_the_machines_own_zone(machine: Callable[[str], None]) -> None:
    machine("America/Santiago")
    assert time_of("2026-09-06", zone=None) == "2026-09-06T04:00:00.000Z"


def test_moment_is_refused_when_the_machines_own_zone_can_not_count_so_far(machine: Callable[[str], None]) -> None:
    machine("Europe/Berlin")
    with pytest.raises(UsageError, match="beyond the calendar"):
        parsed("9999-12-31T23:59:59", None)


@pytest.mark.parametrize("text", ["yesterday 10:00", "1 month ago"])
def test_words_are_understood_when_tz_names_no_zone(text: str) -> None:
    code = (
        "import sys, datetime as dt\nfrom rollrep.core.moments import parse_moment\n"
        "now = dt.datetime(2026, 11, 22, 10, tzinfo=dt.UTC)\n"
        "assert parse_moment(sys.argv[1], now=now) == parse_moment(sys.argv[1], now=now, zone=dt.UTC)"
    )
    # In a process of its own: the zone's name is looked up once.
    subprocess.run([sys.executable, "-c", code, text], check=True, env=os.environ | {"TZ": "Nonsense/Zone"})


@given(st.datetimes(timezones=st.just(dt.UTC)))
def test_moment_comes_back_when_it_is_written_as_the_clock_prints_it(moment: dt.datetime) -> None:
    printed = clock.iso(moment)
    assert parsed(printed) == ByTime(clock.from_iso(printed))


@given(st.text())
def test_moment_is_a_value_or_a_usage_error_when_the_text_is_anything(text: str) -> None:
    try:
        parsed(text)
    except UsageError as error:
        assert error.remedy


@given(st.datetimes(min_value=dt.datetime(1971, 1, 1), timezones=st.just(dt.UTC)))
def test_moment_comes_back_when_it_is_written_in_epoch_seconds(moment: dt.datetime) -> None:
    micro = (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
    assert parsed(f"@{micro // 10**6}.{micro % 10**6:06d}") == ByTime(moment)


def test_dateparser_is_not_imported_when_the_strict_rules_suffice() -> None:
    code = (
        "import sys, datetime as dt\nfrom rollrep.core.moments import parse_moment\n"
        "now = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)\n"
        "[parse_moment(t, now=now) for t in ('latest', 'point:1', '2h ago', '@5', '2026-11-22T10:00Z')]\n"
        "assert 'dateparser' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_distance_names_the_side_when_moments_differ() -> None:
    assert show_distance(NOW, NOW - dt.timedelta(hours=3, minutes=12)) == "3 h 12 min later"
    assert show_distance(NOW - dt.timedelta(milliseconds=3), NOW) == "3 ms earlier"


@pytest.mark.parametrize("text", ["", "10", "0s", "-5s", "s", "1 h", "1mm", "1h 5", "1e3s", "9" * 400 + "s"])
def test_duration_is_refused_when_it_has_no_unit_or_no_length(text: str) -> None:
    with pytest.raises(UsageError, match="10s, 15m, 1h, 7d, 2w"):
        units.parse_duration_s(text)


@pytest.mark.parametrize("text", ["", "-1", "MB", "64XB", "1.5", "0x10", "1 000", "64 MiB/s"])
def test_size_is_refused_when_it_is_not_a_number_of_bytes(text: str) -> None:
    with pytest.raises(UsageError, match="64MiB, 64MB, 1G"):
        units.parse_bytes(text)


@given(st.integers(min_value=1, max_value=1023), st.sampled_from([0, 10, 20, 30, 40]))
def test_size_comes_back_when_it_is_shown_and_read_again(count: int, shift: int) -> None:
    shown = units.show_bytes(count << shift)
    assert units.parse_bytes(shown.replace(" bytes", "").replace(" byte", "")) == count << shift
