from __future__ import annotations

import functools
import math
import random
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.enrich.norm import ANOMALY_WARM_UP_HOURS, GAP_MINUTES, WARM_UP_MINUTES, Norm, Standing
from watchdogd.enrich.trend import find_trend

if TYPE_CHECKING:
    from collections.abc import Callable

DAY, WEEK = 1440, 10080
START = 2_000 * WEEK
KNOWN = START + 5 * WEEK
"""By then a norm made by `learn` is past its warm-up."""


def usual(minute: int) -> float:
    """Ten by night, thirty by day; five less at the weekend."""
    by_day = 20.0 if 8 <= minute % DAY // 60 < 18 else 0.0
    return 10.0 + by_day - (5.0 if minute % WEEK >= 5 * DAY else 0.0)


def burst_daily(minute: int) -> float:
    return usual(minute) + (40.0 if 360 <= minute % DAY < 372 else 0.0)


class Driver:
    """Feeds a norm a sample a minute, and notes each change of the anomaly it tells of."""

    def __init__(self, norm: Norm, minute: int = START, course: Callable[[int], float] = usual) -> None:
        self.norm, self.minute, self.course = norm, minute, course
        self.noise = random.Random(7)
        self.told: list[tuple[int, str | None]] = []

    def run(self, minutes: int, add: Callable[[int], float] = lambda _: 0.0) -> list[str | None]:
        """What was told of meanwhile; `add` is called with the minutes since the call."""
        before = len(self.told)
        for step in range(minutes):
            value = self.course(self.minute) + add(step) + self.noise.gauss(0, 1)
            self.norm.add(value, self.minute, self.minute // 60 % 168)
            self.minute += 1
            found = self.norm.anomaly
            kind = found[0] if found else None
            if kind != (self.told[-1][1] if self.told else None):
                self.told.append((self.minute, kind))
        return [kind for _, kind in self.told[before:]]


@functools.cache
def learn(course: Callable[[int], float]) -> bytes:
    norm = Norm(0.5)
    assert Driver(norm, course=course).run(KNOWN - START) == []
    return msgspec.msgpack.encode(norm.freeze())


def restore(state: bytes) -> Norm:
    return Norm(0.5, msgspec.msgpack.decode(state, type=Standing))


@pytest.fixture
def driver() -> Driver:
    return Driver(restore(learn(usual)), KNOWN)


def test_nothing_is_said_of_the_first_minutes_and_no_anomaly_in_two_weeks() -> None:
    norm = Norm(0.5)
    driver = Driver(norm)
    driver.run(WARM_UP_MINUTES)
    assert norm.center is None
    driver.run(1)
    assert norm.center == pytest.approx(10, abs=2)
    assert driver.run(ANOMALY_WARM_UP_HOURS * 60 - 2 * DAY) == []
    assert driver.run(20, lambda _: 500.0) == []
    assert norm.window_zscore is not None
    assert norm.window_zscore > 10


@pytest.mark.parametrize(
    ("hour", "expected"), [(2, 10), (12, 30), (4 * 24 + 12, 30), (5 * 24 + 2, 5), (6 * 24 + 12, 25)]
)
def test_each_hour_of_the_week_has_its_own_usual(driver: Driver, hour: int, expected: float) -> None:
    assert driver.run(hour * 60 + 5) == []
    assert driver.norm.center == pytest.approx(expected, abs=1.5)
    assert 0.5 <= driver.norm.spread <= 4


def test_a_spike_is_told_within_minutes_ends_and_teaches_next_to_nothing(driver: Driver) -> None:
    driver.run(120)
    center, spread = driver.norm.center, driver.norm.spread
    assert driver.run(20, lambda _: 60.0) == ["spike"]
    began, _ = driver.told[-1]
    assert began - (KNOWN + 120) <= 10
    assert driver.norm.anomaly is not None
    assert KNOWN + 115 <= driver.norm.anomaly[1] <= KNOWN + 121
    assert driver.run(60) == [None]
    assert driver.norm.center == pytest.approx(center, abs=0.5)
    assert driver.norm.spread == pytest.approx(spread, rel=0.2)
    assert driver.run(60) == []
    assert driver.run(20, lambda _: 60.0) == ["spike"]  # the same again is news again


def test_a_short_burst_is_none(driver: Driver) -> None:
    driver.run(120)
    assert driver.run(4, lambda _: 500.0) == []
    assert driver.run(60) == []


def test_what_falls_is_as_unusual_as_what_rises(driver: Driver) -> None:
    driver.run(12 * 60)
    assert driver.run(20, lambda _: -25.0) == ["spike"]
    assert driver.norm.window_zscore is not None
    assert driver.norm.window_zscore < -6


def test_a_shift_is_usual_after_a_day(driver: Driver) -> None:
    driver.run(60)
    assert driver.run(DAY + 90, lambda _: 40.0) == ["spike", "shift", None]
    assert driver.run(2 * DAY, lambda _: 40.0) == []
    assert driver.norm.center == pytest.approx(usual(driver.minute) + 40, abs=2)


def test_a_shift_too_small_for_a_spike_is_told_by_hours(driver: Driver) -> None:
    driver.run(60)
    add = 7.0
    assert add < 6 * driver.norm.spread
    assert driver.run(6 * 60, lambda _: add) == ["shift"]
    assert driver.run(180) == [None]


def test_a_slow_leak_is_told_and_stays_one_while_it_grows(driver: Driver) -> None:
    assert driver.run(4 * DAY, lambda step: 14.0 * step / (4 * DAY))[-1] == "leak"
    assert driver.norm.anomaly is not None
    assert driver.norm.anomaly[1] <= driver.minute - 3 * DAY


def test_a_burst_of_each_day_is_no_news() -> None:
    driver = Driver(restore(learn(burst_daily)), KNOWN, burst_daily)
    assert driver.run(3 * DAY) == []
    driver.run(600)
    assert driver.run(15, lambda _: 90.0) == ["spike"]


def test_a_new_job_of_hours_once_a_week_is_told_and_learnt(driver: Driver) -> None:
    def job(minute: int) -> float:
        return 30.0 if 2 * DAY + 120 <= minute % WEEK < 2 * DAY + 420 else 0.0

    told = [driver.run(WEEK, job) for _ in range(8)]
    assert "shift" in told[0]
    assert told[-3:] == [[], [], []]


def test_noise_of_heavy_tails_is_no_news(driver: Driver) -> None:
    heavy = random.Random(3)
    # Every 30th minute is an outlier, of any size.
    assert driver.run(WEEK, lambda _: heavy.paretovariate(0.8) if heavy.random() < 1 / 30 else 0.0) == []


@pytest.mark.parametrize("step", [GAP_MINUTES + 1, 3 * 60, 5 * DAY, -30, -3 * WEEK])
def test_a_gap_or_a_set_clock_is_no_anomaly_and_teaches_nothing(driver: Driver, step: int) -> None:
    driver.run(130)
    before = driver.norm.freeze()
    driver.minute += step
    wrong = 12.0 - driver.course(driver.minute)  # the clock's fault: the host is as it was
    assert driver.run(20, lambda _: wrong) == []
    assert driver.norm.freeze().season.level == before.season.level
    driver.minute -= step
    assert driver.run(120) == []
    assert driver.norm.freeze().season.level == pytest.approx(before.season.level, abs=0.5)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.integers(0, 150))
def test_a_restart_changes_nothing_but_the_window(values: list[float], pause: int) -> None:
    norm = restore(learn(usual))
    driver = Driver(norm, KNOWN, lambda minute: values[minute % len(values)])
    driver.run(pause)
    state = msgspec.msgpack.encode(norm.freeze())
    again = restore(state)
    assert msgspec.msgpack.encode(again.freeze()) == state
    assert (again.center, again.anomaly) == (norm.center, norm.anomaly)
    assert again.spread == norm.spread or pause == 0


def test_a_standing_anomaly_survives_a_restart(driver: Driver) -> None:
    driver.run(120)
    driver.run(30, lambda _: 60.0)
    told = driver.norm.anomaly
    assert told is not None
    driver.norm = restore(msgspec.msgpack.encode(driver.norm.freeze()))
    assert driver.norm.anomaly == told
    assert driver.run(60) == [None]


@pytest.mark.parametrize("table", ["day", "week", "mad", "seen", "past", "last"])
def test_a_standing_of_the_wrong_size_is_refused(table: str) -> None:
    standing = msgspec.msgpack.decode(learn(usual), type=Standing)
    season = msgspec.structs.replace(standing.season, **{table: b"\0" * 12})
    with pytest.raises(ValueError, match=r"12|3"):
        Norm(0.5, msgspec.structs.replace(standing, season=season))


def test_memory_does_not_grow_with_time_or_values() -> None:
    norm = Norm(0.5)
    driver = Driver(norm, course=lambda minute: 10.0 ** (minute % 30))
    driver.run(DAY)
    size = len(msgspec.msgpack.encode(norm.freeze()))
    driver.run(3 * DAY)
    assert len(msgspec.msgpack.encode(norm.freeze())) <= size + 64 < 6000


# The trend.


def test_a_line_with_outliers_has_its_slope() -> None:
    values = [0.5 * place for place in range(48)]
    values[7] = values[30] = 1e9
    trend = find_trend(values, 3)
    assert trend is not None
    assert trend.rise == pytest.approx(24)
    assert trend.tau == 1
    assert trend.spread == pytest.approx(0, abs=1e-9)


@given(st.lists(st.floats(-100, 100), min_size=24, max_size=72), st.floats(0.1, 10), st.floats(-50, 50))
def test_a_trend_follows_scale_and_place(values: list[float], scale: float, offset: float) -> None:
    trend, other = find_trend(values, 3), find_trend([value * scale + offset for value in values], 3)
    assert trend is not None
    assert other is not None
    assert other.rise == pytest.approx(trend.rise * scale, abs=1e-6)
    assert find_trend([-value for value in values], 3).rise == pytest.approx(-trend.rise, abs=1e-6)  # type: ignore[union-attr]


def test_gaps_are_left_out_of_a_trend_until_there_are_too_many() -> None:
    values = [float(place) for place in range(72)]
    values[10:20] = [math.nan] * 10
    trend = find_trend(values, 3)
    assert trend is not None
    assert trend.rise == pytest.approx(72, rel=0.05)
    values[20:40] = [math.nan] * 20
    assert find_trend(values, 3) is None
