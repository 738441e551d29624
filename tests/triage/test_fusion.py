from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.background import Fusion
from watchdogd.triage.fusion import (
    MOST_LOG_ODDS,
    Sample,
    find_log_odds,
    fit,
    fuse,
    judge_unseen,
    probability,
    weigh_shares,
)

log_odds = st.floats(-30, 30)


def make_samples(count: int, *, scorer: float, model: float, seed: int = 3) -> list[Sample]:
    """Cases whose opinions lie `scorer` and `model` standard deviations on the right side."""
    chance = random.Random(seed)
    samples = []
    for number in range(count):
        sign = 1 if number % 2 else -1
        samples.append(Sample(sign > 0, chance.gauss(sign * scorer), chance.gauss(sign * model)))
    return samples


def test_without_cases_the_scorer_stands_alone() -> None:
    assert fit([]) == Fusion(0.0, 1.0, 0.0)


def test_model_that_knows_more_gets_weight() -> None:
    fusion = fit(make_samples(80, scorer=0.5, model=1.5))
    assert fusion.model > fusion.scorer > 0


def test_model_that_knows_nothing_gets_next_to_none() -> None:
    assert fit(make_samples(400, scorer=1.0, model=0.0)).model < 0.2


def test_nobody_is_believed_the_contrary() -> None:
    assert fit(make_samples(80, scorer=1.0, model=-1.5)).model == 0
    both = fit(make_samples(80, scorer=-1.5, model=-1.5))
    assert (both.scorer, both.model) == (0, 0)


def test_few_cases_move_little() -> None:
    few, many = (fit(make_samples(count, scorer=0.5, model=1.5)) for count in (4, 80))
    assert abs(few.scorer - 1) < abs(many.scorer - 1)
    assert few.model < many.model


def test_fitted_weights_are_the_best_ones() -> None:
    """No weight nearby has a smaller loss, written out once more."""
    samples = make_samples(60, scorer=0.8, model=0.9)

    def loss(bias: float, scorer: float, model: float) -> float:
        total = bias**2 + (scorer - 1) ** 2 + model**2  # the ridge of 2, halved
        for sample in samples:
            said = bias + scorer * sample.scorer + model * sample.model
            total += math.log1p(math.exp(-said if sample.malicious else said))
        return total

    best = fit(samples)
    weights = (best.bias, best.scorer, best.model)
    for place in range(3):
        for step in (-0.01, 0.01):
            near = [weight + step * (place == other) for other, weight in enumerate(weights)]
            assert loss(*near) > loss(*weights)


def test_fused_is_calibrated_on_unseen_cases() -> None:
    samples = make_samples(2000, scorer=0.7, model=0.7)
    fusion = fit(samples[:1000])
    chances = [(probability(fuse(fusion, sample.scorer, sample.model)), sample.malicious) for sample in samples[1000:]]
    for low in (0.0, 0.25, 0.5, 0.75):
        inside = [(chance, truth) for chance, truth in chances if low <= chance < low + 0.25]
        said = sum(chance for chance, _ in inside) / len(inside)
        assert said == pytest.approx(sum(truth for _, truth in inside) / len(inside), abs=0.08)


def test_judged_without_itself() -> None:
    samples = make_samples(40, scorer=0.5, model=1.0)
    turned = [*samples[:7], Sample(samples[7].malicious, samples[7].scorer, 3.0), *samples[8:]]
    weights = [fit([one for other, one in enumerate(kept) if other % 20 not in (6, 7)]) for kept in (samples, turned)]
    assert weights[0] == weights[1]
    assert judge_unseen(samples)[7] == fuse(weights[0], samples[7].scorer, samples[7].model)
    assert judge_unseen(turned)[7] == fuse(weights[0], samples[7].scorer, 3.0)
    assert judge_unseen(samples)[8] != judge_unseen(turned)[8]


def test_judging_unseen_cases_costs_next_to_no_order() -> None:
    """Kinds come by turns here: a part of one kind alone would shift the bias against just that kind."""
    samples = make_samples(60, scorer=1.0, model=0.0)

    def order(scores: list[float]) -> float:
        pairs = [
            (a, b)
            for a, x in zip(scores, samples, strict=True)
            for b, y in zip(scores, samples, strict=True)
            if x.malicious and not y.malicious
        ]
        return sum(a > b for a, b in pairs) / len(pairs)

    assert order(judge_unseen(samples)) > order([sample.scorer for sample in samples]) - 0.03


@given(st.lists(st.builds(Sample, st.booleans(), log_odds, log_odds), max_size=20))
def test_any_cases_give_weights(samples: list[Sample]) -> None:
    fusion = fit(samples)
    assert all(map(math.isfinite, (fusion.bias, fusion.scorer, fusion.model)))
    assert min(fusion.scorer, fusion.model) >= 0


@given(log_odds, log_odds)
def test_fused_is_bounded_and_monotone(scorer: float, model: float) -> None:
    fusion = Fusion(0.1, 0.8, 0.5)
    assert abs(fuse(fusion, scorer, model)) <= 0.1 + 1.3 * MOST_LOG_ODDS
    assert fuse(fusion, scorer + 1, model) >= fuse(fusion, scorer, model)
    assert 0 <= probability(fuse(fusion, scorer, model)) <= 1


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({"malicious": 0.5, "benign": 0.5}, 0.0),
        ({"malicious": 0.6, "suspicious": 0.2, "benign": 0.2}, math.log(3)),
        ({"suspicious": 1.0}, 0.0),
        ({"malicious": 1.0, "benign": 0.0}, MOST_LOG_ODDS),
        ({}, 0.0),
    ],
)
def test_log_odds_of_labels(shares: dict[str, float], expected: float) -> None:
    assert weigh_shares(shares) == pytest.approx(expected)


@given(st.fixed_dictionaries({name: st.floats(0, 1) for name in ("malicious", "suspicious", "benign")}))
def test_what_a_verdict_keeps_of_the_model_is_what_the_fusion_weighed(shares: dict[str, float]) -> None:
    """`model_share` has four places; the exam makes log-odds of it again."""
    kept = round(probability(weigh_shares(shares)), 4)
    assert find_log_odds(kept) == pytest.approx(weigh_shares(shares), abs=0.03)
