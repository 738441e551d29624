from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.triage.ranking import compare, rank

scores = st.lists(st.floats(-5, 5), min_size=1, max_size=12)


def test_by_hand() -> None:
    # 3 of 4 pairs are in order; placements 1 and 0.5 against 1 and 0.5: variance 0.125 each, over 2.
    found = rank([3.0, 1.0], [0.0, 2.0])
    assert found.auroc == 0.75
    assert found.low == pytest.approx(max(0.0, 0.75 - 1.959964 * math.sqrt(0.125)))
    assert found.high == 1.0


def test_equal_scores_are_chance() -> None:
    assert rank([1.0, 1.0], [1.0, 1.0, 1.0]).auroc == 0.5


def test_perfect_order_of_few_cases_is_not_certain() -> None:
    found = rank([2.0] * 20, [1.0] * 24)
    assert (found.auroc, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.8389, abs=1e-4)  # Wilson's for 20 of 20


def test_interval_holds_the_truth_as_often_as_it_says() -> None:
    chance = random.Random(7)
    truth = 0.5 * (1 + math.erf(1 / 2))  # of two normal distributions, one standard deviation apart
    held = 0
    for _ in range(300):
        above = [chance.gauss(1) for _ in range(28)]
        below = [chance.gauss(0) for _ in range(28)]
        found = rank(above, below)
        held += found.low <= truth <= found.high
    assert 0.90 <= held / 300 <= 0.99


def test_one_kind_alone_has_no_order() -> None:
    with pytest.raises(ValueError, match="both kinds"):
        rank([], [1.0])


@given(scores, scores)
def test_turned_round(above: list[float], below: list[float]) -> None:
    found, turned = rank(above, below), rank(below, above)
    assert found.auroc == pytest.approx(1 - turned.auroc)
    assert 0 <= found.low <= found.auroc + 1e-9
    assert found.auroc - 1e-9 <= found.high <= 1


@given(scores, scores)
def test_nobody_beats_themselves(above: list[float], below: list[float]) -> None:
    assert compare(above, below, above, below) == 0


def test_better_order_of_the_same_cases() -> None:
    good = ([2.0, 3.0, 4.0], [0.0, 1.0, 2.5])
    bad = ([2.0, 0.0, 1.0], [0.0, 1.0, 2.5])
    assert compare(*good, *bad) > 0
    assert compare(*bad, *good) == -compare(*good, *bad)
    assert compare([1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [1.0, 1.0]) == math.inf
