"""The arithmetic and the tables of `make eval-rules`; what it finds in the recordings is not a test's business."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evaluation.corpus import Outcome, Scenario, judge_mixed_log, load_scenarios
from evaluation.detection import MEDIUM, Share, count, main, render_layer, render_report, wilson
from watchdogd.entities import Level, Rule
from watchdogd.errors import Place
from watchdogd.match.engine import Engine
from watchdogd.match.library import RuleSet
from watchdogd.match.syntax import MANY, Named, RuleBody, Test, Text

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def make_scenario(name: str, label: str) -> Scenario:
    return Scenario(name, label, "execution", ("T1059",), "Does things.", (1,), 10, 20, "family")


def test_wilson_as_published() -> None:
    low, high = wilson(0, 10)
    assert (round(low, 4), round(high, 4)) == (0.0, 0.2775)
    low, high = wilson(63, 66)
    assert (round(low, 3), round(high, 3)) == (0.875, 0.984)


def test_a_share_of_nothing_has_no_interval() -> None:
    assert str(Share(0, 0)) == "-"


def test_outcomes_without_alerts_count_as_missed() -> None:
    outcome = Outcome(make_scenario("a", "malicious"), ())
    assert count([outcome], MEDIUM) == Share(0, 1)
    report = render_report([outcome], [], RuleSet(()))
    assert "`a` (by itself; T1059): Does things." in report


def test_layer_counts_rules_by_technique() -> None:
    rules = [Rule(str(number), f"Rule {number}", Level.LOW, techniques=("T1059.004",)) for number in range(2)]
    layer = render_layer(rules)
    assert layer["techniques"] == [{"techniqueID": "T1059.004", "score": 2, "comment": "Rule 0; Rule 1"}]


def test_no_recordings_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--recorded", str(tmp_path)]) == 2
    assert "no labelled recordings" in capsys.readouterr().err


def test_mixed_alerts_fall_to_their_scenario(corpora: Path) -> None:
    """A rule that matches every program: each scenario has events of its own, and none is given twice."""
    recorded = corpora / "recorded"
    engine = Engine(RuleSet((match_every_program(),)))
    outcomes = {outcome.scenario.id: outcome for outcome in judge_mixed_log(engine, recorded)}
    assert set(outcomes) == {scenario.id for scenario in load_scenarios(recorded / "mixed.details.jsonl")}
    ids = [alert.id for outcome in outcomes.values() for alert in outcome.alerts]
    assert len(ids) == len(set(ids)) > 500
    silent = [name for name, outcome in outcomes.items() if not outcome.alerts]
    assert len(silent) <= 2, silent


def match_every_program() -> RuleBody:
    everything = Test("Image", (Text((MANY,)),))
    rule = Rule("11111111-1111-4111-8111-111111111111", "Every program", Level.LOW)
    return RuleBody(rule, Place("made here"), "process_creation", {"program": everything}, Named("program"))
