from __future__ import annotations

import math
import random

import msgspec
import pytest

from watchdogd.enrich.season import WEEK_HOURS, Learnt, Season, follow_tail, make_table


def learn_weeks(weeks: int, resolution: float = 0.1) -> Season:
    """Hours of ten, of thirty at noon, of fifty at noon on Sundays; noise of one."""
    season, noise = Season(resolution), random.Random(2)
    for hour in range(weeks * WEEK_HOURS):
        median = usual(hour % WEEK_HOURS) + noise.gauss(0, 0.3)
        season.follow_rhythm(hour % WEEK_HOURS, median)
        season.learn(hour % WEEK_HOURS, median, abs(noise.gauss(0.67, 0.1)))
    return season


def usual(slot: int) -> float:
    return 10.0 if slot % 24 != 12 else 50.0 if slot // 24 == 6 else 30.0


def test_hours_of_day_and_week_are_learnt_apart() -> None:
    season = learn_weeks(6)
    assert season.expect(3) == pytest.approx(10, abs=1)
    assert season.expect(12) == pytest.approx(30, abs=3)
    assert season.expect(6 * 24 + 12) == pytest.approx(50, abs=4)
    assert season.spread(3) == pytest.approx(1, abs=0.4)
    assert 0 < season.hours_spread(3) < season.spread(3) * 2


def test_what_strays_in_two_weeks_running_is_the_rhythm_and_once_is_not() -> None:
    season = learn_weeks(4)
    before = season.expect(3)
    season.follow_rhythm(3, 90.0)
    assert season.expect(3) == before
    season.follow_rhythm(3, 95.0)
    assert season.expect(3) == pytest.approx(before + 40, abs=3)
    season.follow_rhythm(4, 90.0)
    season.follow_rhythm(4, -90.0)
    assert season.expect(4) == pytest.approx(10, abs=1)


def test_an_hour_counts_as_three_spreads_at_most() -> None:
    season = learn_weeks(3)
    before, spread = season.freeze(), season.spread(3)
    season.learn(3, 1e9, 1e9)
    after = season.freeze()
    assert 0 < after.level - before.level <= 3 * spread / 24 + 1e-6
    assert season.spread(3) <= 1.5 * spread
    assert season.expect(3) < 10 + 3 * spread


def test_what_is_accepted_moves_the_level_and_no_hour() -> None:
    season = learn_weeks(3)
    before = [season.expect(slot) for slot in range(WEEK_HOURS)]
    season.accept(3, before[3] + 40)
    assert [season.expect(slot) - known for slot, known in enumerate(before)] == pytest.approx([40] * WEEK_HOURS)


@pytest.mark.parametrize(("level", "expected"), [(0.0, 0.5), (10.0, 0.5), (1000.0, 20.0)])
def test_no_spread_is_less_than_a_step_or_a_share_of_the_figure(level: float, expected: float) -> None:
    season = Season(0.5)
    for hour in range(48):
        season.learn(hour, level, 0.0)
    assert season.spread(0) == pytest.approx(expected)
    assert season.hours_spread(0) == pytest.approx(expected)


def test_the_first_hours_spread_is_guessed_from_its_minutes() -> None:
    season = Season(0.5)
    assert season.guess_spread(10, [8, 10, 12], [1, 1, 1]) == pytest.approx(1.4826)
    assert season.guess_spread(10, [10], [0]) == 0.5
    assert season.guess_spread(100, [100], [0]) == 2


def test_a_tail_follows_its_quantile_and_no_value_moves_it_by_more_than_a_step() -> None:
    assert follow_tail(1.0, 1e300, 0.99, 0.01) == pytest.approx(1.0099)
    assert follow_tail(1.0, 0.0, 0.99, 0.01) == pytest.approx(0.9999)
    noise, tail = random.Random(1), 0.1
    for _ in range(60_000):
        tail = follow_tail(tail, abs(noise.gauss(0, 1)), 0.99, 0.01)
    assert tail == pytest.approx(2.576, rel=0.15)


def test_the_past_is_told_without_its_week() -> None:
    season = learn_weeks(6)
    for slot in range(12):
        season.note_past(usual(slot) + 0.5 * slot)
    season.note_past(math.nan)
    season.note_past(usual(13) + 6.5)
    rests = season.list_rests(13, 14)
    assert math.isnan(rests[12])
    assert rests[13] - rests[0] == pytest.approx(6.5, abs=2)
    assert math.isnan(season.list_rests(13, 100)[0])


def test_what_was_learnt_is_the_same_after_it_was_stored() -> None:
    season = learn_weeks(2)
    again = Season(0.1, msgspec.msgpack.decode(msgspec.msgpack.encode(season.freeze()), type=Learnt))
    assert again.freeze() == season.freeze()
    assert [again.expect(slot) for slot in range(WEEK_HOURS)] == [season.expect(slot) for slot in range(WEEK_HOURS)]


def test_a_table_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2 numbers for 24"):
        make_table(24, bytes(8))
