"""The arithmetic of `make eval-anomalies`; what it finds is not a test's business."""

from __future__ import annotations

from itertools import islice

import pytest

from evaluation.anomalies import (
    FACTORS,
    SPREADS,
    EwmaDetector,
    Minute,
    NormDetector,
    StaticDetector,
    Told,
    render,
    sort_out,
    tune,
)
from evaluation.host_weeks import DAY, HOST, KINDS, KNOWN_WEEKS, WEEK, Change, Course, Kind, Life, make_host

SHIFT = Change("shift", 4 * WEEK, 2 * DAY, 10.0, 3.0)
LIFE = Life(KINDS[0], "a", SHIFT, None)


def see(number: int, value: float) -> Minute:
    return Minute(number, [value], value, value)


def test_the_same_seed_is_the_same_host() -> None:
    assert make_host(1, KINDS[:1]) == make_host(1, KINDS[:1])
    first, again = (list(islice(Life(KINDS[0], "x", None, None).minutes(), 500)) for _ in range(2))
    assert first == again
    assert first != list(islice(Life(KINDS[0], "y", None, None).minutes(), 500))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_series_stays_within_its_bounds(kind: Kind) -> None:
    course = Course(kind, "z")
    values = [value for minute in range(2 * DAY) for value in course.sample(minute, 5.0)]
    assert min(values) >= 0
    assert max(values) <= kind.top


def test_a_gap_is_left_out() -> None:
    minutes = [minute for minute, _ in islice(Life(KINDS[0], "x", None, 100).minutes(), 200)]
    assert minutes == [*range(100), *range(280, 380)]


def test_a_change_adds_what_its_kind_says() -> None:
    assert [SHIFT.add(SHIFT.start + minute) for minute in (-1, 0, 2 * DAY - 1, 2 * DAY)] == [0, 10, 10, 0]
    leak = Change("leak", 0, 100, 10.0, 3.0)
    assert [leak.add(minute) for minute in (0, 50, 99, 100)] == [0, 5, 9.9, 0]


def test_alarms_are_right_about_the_change_wrong_elsewhere_and_neither_just_after() -> None:
    alarms = [(10, "spike"), (3 * WEEK, "spike"), (SHIFT.start + 7, "spike"), (SHIFT.start + 4 * DAY, "shift")]
    assert sort_out(LIFE, alarms) == Told("shift", 3.0, 7, "spike", 1, 1)  # the first is of the weeks of learning
    assert sort_out(Life(KINDS[0], "a", None, None), alarms) == Told("", 0.0, None, "", 0, 3)
    assert sort_out(LIFE, []).after is None


def test_thresholds_are_the_lowest_that_one_false_alarm_a_host_and_week_allows() -> None:
    def tell(*wrong: int) -> list[Told]:
        return [Told("", 0.0, None, "", 0, count) for count in wrong]

    static, moving = len(FACTORS), len(SPREADS)
    loud = tell(0, *([99] * (static - 1)), 0, *([99] * (moving - 2)), 12, 0)
    assert tune([loud]) == (FACTORS[-1], SPREADS[-2])
    assert tune([tell(0, *([99] * static), *([99] * moving))]) == (FACTORS[-1], SPREADS[-1])


def test_each_detector_tells_of_five_minutes_and_of_none_while_it_learns() -> None:
    for detector in (StaticDetector(KINDS[0], 1.0), EwmaDetector(KINDS[0], 3.0)):
        begin = KNOWN_WEEKS * WEEK
        for number in range(begin - 3000, begin):
            assert detector.see(see(number, 10.0)) is None
        told = [detector.see(see(number, 60.0)) for number in range(begin, begin + 6)]
        assert told == [None, None, None, None, "unusual", "unusual"]


def test_ours_judges_what_rises() -> None:
    for add, expected in ((60.0, "spike"), (-9.0, None)):
        detector = NormDetector(KINDS[0])
        begin = 3 * WEEK
        for number in range(0, begin, 4):
            assert detector.see(see(number, 10.0 + number % 3 / 4)) is None
        told = [detector.see(see(begin + number, 10 + add)) for number in range(12)]
        assert told[-1] == expected


def test_the_report_counts_hosts_kinds_and_halves() -> None:
    found = [[Told("spike", times, after, "spike", 1, 0)] * 3 for times, after in ((2.0, 7), (3.0, 9))]
    found += [[Told("leak", 3.0, None, "", 0, 2)] * 3]
    report = "\n".join(render(found, 1.5, 8.0))
    assert "| watchdogd | 2/3, 66.7 %" in report
    assert "| 2/2 | 0/0 | 0/1 |" in report
    assert "| spike | 1/1 | 1/1 | 8 | spike 2 |" in report
    assert f"of {len(HOST)} series" in report
