"""Retention: what stays, why, and what is true of every plan."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollrep.destination.retention import Grid, Verdict, plan_snapshots

NOW = dt.datetime(2026, 11, 22, 19, 8, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    time: dt.datetime
    key: str


def snapshot(time: dt.datetime) -> Snapshot:
    return Snapshot(time, f"{time:%Y%m%dT%H%M%S}")


def hourly_until_now(count: int) -> list[Snapshot]:
    return [snapshot(NOW - HOUR * ago) for ago in range(count)]


def kept(verdicts: list[Verdict[Snapshot]]) -> list[Snapshot]:
    return [each.item for each in verdicts if each.kept]


def reasons(verdicts: list[Verdict[Snapshot]]) -> dict[str, str]:
    return {each.item.key: each.reason for each in verdicts if each.kept}


ages = st.integers(min_value=-3600, max_value=400 * 86400)
snapshots = st.lists(ages, unique=True, max_size=60).map(
    lambda all_ages: [snapshot(NOW - dt.timedelta(seconds=age)) for age in all_ages]
)
counts = st.integers(min_value=0, max_value=5)
grids = st.builds(
    Grid,
    last=counts, hourly=counts, daily=counts, weekly=counts, monthly=counts,
    operations_s=st.floats(min_value=1, max_value=60 * 86400),
)  # fmt: skip


@given(snapshots, grids)
def test_newest_stays_when_anything_is_planned(given_snapshots: list[Snapshot], grid: Grid) -> None:
    verdicts = plan_snapshots(given_snapshots, grid, NOW)
    assert sorted((each.item for each in verdicts), key=repr) == sorted(given_snapshots, key=repr)
    assert not verdicts or (verdicts[-1].kept and "newest" in verdicts[-1].reason)


@given(snapshots, grids, st.randoms())
def test_plan_is_the_same_when_the_order_of_its_input_is_not(
    given_snapshots: list[Snapshot], grid: Grid, random: object
) -> None:
    shuffled = list(given_snapshots)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert plan_snapshots(shuffled, grid, NOW) == plan_snapshots(given_snapshots, grid, NOW)


@given(snapshots, grids)
def test_all_of_it_stays_when_what_was_kept_is_planned_again(given_snapshots: list[Snapshot], grid: Grid) -> None:
    once = kept(plan_snapshots(given_snapshots, grid, NOW))
    assert kept(plan_snapshots(once, grid, NOW)) == once


@given(snapshots, grids)
def test_kept_operations_have_a_base_when_any_snapshot_is_old_enough(
    given_snapshots: list[Snapshot], grid: Grid
) -> None:
    begin = NOW - dt.timedelta(seconds=grid.operations_s)
    old_enough = [each.time for each in given_snapshots if each.time <= begin]
    still = [each.time for each in kept(plan_snapshots(given_snapshots, grid, NOW)) if each.time <= begin]
    assert max(old_enough, default=None) == max(still, default=None)


@given(snapshots, grids, counts)
def test_nothing_more_goes_when_a_rule_keeps_more(given_snapshots: list[Snapshot], grid: Grid, more: int) -> None:
    wider = dataclasses.replace(grid, daily=grid.daily + more)
    if not grid.keeps_all:
        rules = ("daily", "hourly", "weekly", "monthly", "last", "newest")
        before = {
            each.item
            for each in plan_snapshots(given_snapshots, grid, NOW)
            if any(rule in each.reason for rule in rules) and each.kept
        }
        assert before <= set(kept(plan_snapshots(given_snapshots, wider, NOW)))


def test_each_bucket_keeps_its_newest_when_rules_overlap() -> None:
    taken = [snapshot(NOW - ago) for ago in (0 * HOUR, HOUR / 4, HOUR, DAY, DAY + HOUR, 40 * DAY)]
    verdicts = plan_snapshots(taken, Grid(hourly=2, daily=2, monthly=2, operations_s=60), NOW)
    assert reasons(verdicts) == {
        "20261122T190800": "newest, hourly 2026-11-22 19, daily 2026-11-22, monthly 2026-11",
        "20261122T185300": "hourly 2026-11-22 18, base of the kept operations",
        "20261121T190800": "daily 2026-11-21",
        "20261013T190800": "monthly 2026-10",
    }
    assert [each.reason for each in verdicts if not each.kept] == ["no rule keeps it"] * 2


def test_week_is_the_iso_week_when_the_year_turns() -> None:
    days = [dt.datetime(2026, 12, 31, tzinfo=dt.UTC), dt.datetime(2027, 1, 1, tzinfo=dt.UTC)]
    verdicts = plan_snapshots(
        [snapshot(each) for each in days],
        Grid(weekly=2, operations_s=1),
        dt.datetime(2027, 1, 2, tzinfo=dt.UTC),
    )
    assert [each.kept for each in verdicts] == [False, True]
    assert "weekly 2026-W53" in verdicts[1].reason


def test_buckets_are_in_utc_when_times_come_with_another_zone() -> None:
    zone = dt.timezone(5 * HOUR)
    taken = [Snapshot(dt.datetime(2026, 11, 22, hour, tzinfo=zone), str(hour)) for hour in (4, 6)]
    verdicts = plan_snapshots(taken, Grid(daily=5, operations_s=1), NOW)
    assert "daily 2026-11-21" in verdicts[0].reason
    assert "daily 2026-11-22" in verdicts[1].reason


def test_all_stay_when_nothing_is_configured() -> None:
    verdicts = plan_snapshots(hourly_until_now(30), Grid(), NOW)
    assert all(each.kept for each in verdicts)
    assert verdicts[0].reason == "no rule is configured"


def test_plan_is_empty_when_there_is_no_snapshot() -> None:
    assert plan_snapshots([], Grid(last=1), NOW) == []


def test_oldest_is_the_base_when_all_are_younger_than_the_kept_operations() -> None:
    verdicts = plan_snapshots(hourly_until_now(10), Grid(last=2), NOW)
    assert [each.reason for each in verdicts if each.kept] == [
        "base of the kept operations",
        "one of the last 2",
        "newest, one of the last 2",
    ]


@pytest.mark.parametrize("grid", [Grid(last=1, operations_s=86400), Grid(hourly=48, daily=30, operations_s=7 * 86400)])
def test_base_is_never_older_than_twice_the_operations_when_pruned_every_hour_for_a_month(grid: Grid) -> None:
    begin = NOW
    here: list[Snapshot] = []
    for hours in range(31 * 24):
        now = begin + HOUR * hours
        here = kept(plan_snapshots([*here, snapshot(now)], grid, now))
        base = max(
            (each.time for each in here if (now - each.time).total_seconds() >= grid.operations_s),
            default=begin,
        )
        assert (now - base).total_seconds() <= 2 * grid.operations_s
    assert len(here) <= grid.last + grid.hourly + grid.daily + 4


@pytest.mark.parametrize("wrong", [-3000 * DAY, -3 * DAY, -90 * HOUR / 60, 90 * HOUR / 60, 3 * DAY, 3000 * DAY])
@pytest.mark.parametrize("pinned", [False, True])
def test_nothing_goes_that_would_have_stayed_when_the_clock_was_wrong_once(wrong: dt.timedelta, pinned: bool) -> None:
    grid = Grid(last=2, hourly=5, daily=4, operations_s=2 * 86400)
    right: list[Snapshot] = []
    here: list[Snapshot] = []
    for hours in range(16 * 24):
        now = NOW + HOUR * hours
        is_wrong = hours == 6 * 24 + 7
        told = now + wrong if is_wrong else now
        right = kept(plan_snapshots([*right, Snapshot(now, f"{hours:05d}")], grid, now))
        taken = [*here, Snapshot(told, f"{hours:05d}")]
        pins = {each.key for each in taken if each.time != NOW + HOUR * int(each.key)} if pinned else set()
        here = kept(plan_snapshots(taken, grid, min(now, told), pinned=pins))
        gone = {each.key for each in ruled(right, grid, now)} - {each.key for each in here}
        assert gone <= {f"{6 * 24 + 7:05d}"}, f"{hours}"
        assert len(here) <= 2 * len(right) + 4
    assert len(here) <= len(right) + 1 + pinned, "the wrong time is far behind"


def ruled(here: list[Snapshot], grid: Grid, now: dt.datetime) -> list[Snapshot]:
    """What stays for more than to be a base."""
    return [each.item for each in plan_snapshots(here, grid, now) if "ly " in each.reason or "last" in each.reason]


@pytest.mark.parametrize("ahead", [HOUR * 30, DAY * 9])
def test_base_moves_on_when_the_clock_is_ahead_for_good(ahead: dt.timedelta) -> None:
    grid = Grid(last=2, operations_s=2 * 86400)
    here: list[Snapshot] = []
    for hours in range(30 * 24):
        now = NOW + HOUR * hours
        here = kept(plan_snapshots([*here, snapshot(now + ahead)], grid, now))
        old = [each.time for each in here if now - each.time >= 2 * DAY]
        assert hours < 13 * 24 or now - max(old) <= 4 * DAY
    assert len(here) <= 12


def test_newest_of_the_log_stays_when_another_says_it_is_of_the_future() -> None:
    taken = [Snapshot(NOW - HOUR, "1"), Snapshot(NOW + 3000 * DAY, "2"), Snapshot(NOW, "3")]
    verdicts = plan_snapshots(taken, Grid(last=1, operations_s=7200), NOW)
    assert [(each.kept, each.reason) for each in verdicts][1:] == [
        (False, "no rule keeps it"),
        (True, "newest, one of the last 1"),
    ]
