from __future__ import annotations

import msgspec
import pytest

from watchdogd.enrich.bursts import Bursts, Habits
from watchdogd.enrich.season import WEEK_HOURS


def test_nothing_is_usual_to_begin_with() -> None:
    assert {Bursts().find_usual(slot) for slot in range(WEEK_HOURS)} == {0.0}


def test_an_hours_burst_counts_for_that_hour_and_those_beside_it() -> None:
    bursts = Bursts()
    bursts.note_hour(26, 8.0, 100.0)
    high = [slot for slot in range(WEEK_HOURS) if bursts.find_usual(slot) > 0]
    assert high == [slot for slot in range(WEEK_HOURS) if slot % 24 in (1, 2, 3)]
    assert bursts.find_usual(26) == pytest.approx(12)
    sunday = Bursts()
    sunday.note_hour(WEEK_HOURS - 1, 8.0, 100.0)
    assert sunday.find_usual(0) == pytest.approx(12)


def test_a_burst_is_learnt_in_steps_and_fades() -> None:
    bursts, heights = Bursts(), []
    for _ in range(4):
        bursts.note_hour(5, 1000.0, 10.0)
        heights.append(bursts.find_usual(5) / 1.5)
    assert heights == pytest.approx([10, 40, 160, 640])
    for _ in range(20):
        bursts.note_hour(5, 0.0, 10.0)
    assert bursts.find_usual(5) < 15


def test_the_two_highest_count_everywhere() -> None:
    bursts = Bursts()
    bursts.note_burst(10.0)
    assert bursts.find_usual(99) == pytest.approx(12)
    bursts.note_burst(9.9)
    assert bursts.find_usual(99) == pytest.approx(12.87)
    bursts.note_burst(20.0)
    assert bursts.find_usual(99) == pytest.approx(24)
    for hour in range(4 * WEEK_HOURS):
        bursts.note_hour(hour % WEEK_HOURS, 0.0, 1.0)
    assert bursts.find_usual(99) == pytest.approx(12, rel=0.05)


def test_habits_are_the_same_after_they_were_stored() -> None:
    bursts = Bursts()
    bursts.note_hour(7, 3.0, 100.0)
    bursts.note_burst(5.0)
    again = Bursts(msgspec.msgpack.decode(msgspec.msgpack.encode(bursts.freeze()), type=Habits))
    assert again.freeze() == bursts.freeze()
    with pytest.raises(ValueError, match="numbers for 168"):
        Bursts(Habits(0.0, 0.0, b"", bytes(4)))
