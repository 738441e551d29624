"""Training and judging keep families apart and never learn how the recordings were made."""

from __future__ import annotations

import pytest

from evaluation.corpus import Scenario
from evaluation.population import Case, Told
from evaluation.training import (
    ARTEFACTS,
    choose_benign_below,
    fit_by_family,
    name_levels,
    read_values,
    score_case,
    train,
)
from evaluation.triage import judge_by_level, judge_by_neighbours, rate
from tests.triage.conftest import make_alert
from watchdogd.background import NO_BACKGROUND
from watchdogd.entities import Level
from watchdogd.triage.scorer import load_weights


def make_case(number: int, label: str, family: str, *traits: str, level: Level = Level.MEDIUM) -> Case:
    scenario = Scenario(f"s{number}", label, "execution", (), "", (number,), number, number, family)
    named = dict.fromkeys((*traits, f"level:{level.value}"), 1.0)
    told = Told(make_alert(level=level), NO_BACKGROUND, named, frozenset(traits))
    return Case(scenario, (told,))


CASES = [
    *(make_case(n, "malicious", f"f{n}", "bad", "interactive", level=Level.HIGH) for n in range(6)),
    *(make_case(10 + n, "benign", f"f{n}", "good") for n in range(6)),
]


def test_artefacts_of_the_recordings_get_no_weight() -> None:
    assert not any(name.startswith(ARTEFACTS) for case in CASES for name in read_values(case.told[0]))
    shipped = load_weights()
    assert shipped.traits.get("interactive", 0.0) <= 0
    assert not any(name.startswith("actor:") for name in shipped.traits)


def test_a_family_is_judged_by_weights_that_never_saw_it() -> None:
    odd = [make_case(20 + n, "malicious", "alone", "only_there") for n in range(5)]
    unseen = fit_by_family([[*CASES, *odd]])
    assert "only_there" not in unseen["alone"].weights
    assert score_case(unseen["f0"], CASES[0]) > score_case(unseen["f0"], CASES[6])
    assert "only_there" not in train([[*CASES, *odd]]).weights, "seen in one family only"


def test_neighbours_are_never_of_the_scenario_or_family_itself() -> None:
    alike = [make_case(1, "malicious", "a", "x"), make_case(2, "malicious", "a", "x"), make_case(3, "benign", "b", "x")]
    assert judge_by_neighbours(alike, by_family=False)(alike[0]) == pytest.approx(0.5)
    assert judge_by_neighbours(alike, by_family=True)(alike[0]) == 0


def test_the_threshold_keeps_the_recall() -> None:
    chances = [number / 100 for number in range(100)]
    assert sum(value >= choose_benign_below(chances) for value in chances) >= 98


def test_one_kind_alone_has_no_auroc() -> None:
    assert rate(CASES, judge_by_level).startswith("1.000")
    assert rate(CASES[:3], judge_by_level) == "-"


def test_a_higher_level_never_says_less() -> None:
    weights = name_levels({"step:1": 0.5, "step:2": 0.0, "step:4": 1.0, "bad": 2.0})
    assert weights.pop("bad") == 2.0
    assert list(weights.values()) == [0.0, 0.5, 0.5, 0.5, 1.5]
