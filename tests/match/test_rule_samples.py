"""Every shipped rule that alerts has a sample that fires it and one that does not, read as the daemon reads them.

Rules of which only correlations hear (silent) are tested by the correlations' samples.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from watchdogd.match.engine import Engine
from watchdogd.match.library import RuleSet, load_rules
from watchdogd.samples import PASSED, find_leftovers, find_samples, read_audit, read_sample, run_samples
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from watchdogd.match.syntax import Correlation, RuleBody

RULES = Path(__file__).resolve().parents[2] / "rules"
STEMS = sorted(path.stem for path in RULES.rglob("*.yml") if "tests" not in path.relative_to(RULES).parts)


@pytest.fixture(scope="module")
def ruleset() -> RuleSet:
    return load_rules([RULES])


def list_alerting(ruleset: RuleSet) -> list[RuleBody | Correlation]:
    everything: list[RuleBody | Correlation] = [*ruleset.bodies, *ruleset.correlations]
    return [found for found in everything if not found.silent]


@pytest.fixture(scope="module")
def engine(ruleset: RuleSet) -> Engine:
    return Engine(ruleset)


def test_the_pack_is_whole(ruleset: RuleSet) -> None:
    assert ruleset.inactive == ()
    assert ruleset.warnings == ()
    assert len(set(STEMS)) == len(STEMS)
    assert len({rule.title for rule in ruleset.rules}) == len(ruleset.rules)
    assert sum(rule.category == "host_metrics" for rule in ruleset.rules) == 24
    assert len(ruleset.rules) >= 20
    for rule in ruleset.rules:
        assert rule.description, rule.path
        assert rule.falsepositives, rule.path
        assert rule.techniques, rule.path
        assert any(tag == f"attack.{Path(rule.path).parent.name}" for tag in rule.tags), rule.path


def test_no_rule_leans_on_an_audit_key_or_on_a_recording() -> None:
    for path in RULES.rglob("*.yml"):
        text = path.read_text(encoding="utf-8")
        for word in ("  key:", "  key|", "127.0.0", "10.99.", "bob", "alice", "web01", "4444"):
            assert word not in text, f"{path}: {word}"


def test_no_sample_is_left_over(ruleset: RuleSet) -> None:
    assert find_leftovers([RULES]) == []
    alerting = {Path(found.rule.path).stem for found in list_alerting(ruleset)}
    assert {path.name for path in (RULES / "tests").iterdir()} >= alerting


def test_every_rule_has_both_kinds_of_sample(ruleset: RuleSet) -> None:
    for found in list_alerting(ruleset):
        names = {path.name[:5] for path in find_samples(found, [RULES])}
        assert names == {"fires", "quiet"}, found


def test_every_sample_passes(ruleset: RuleSet) -> None:
    results = run_samples(ruleset, [RULES])
    assert [result for result in results if result.status != PASSED] == []
    assert len(results) >= 2 * len(list_alerting(ruleset))


def test_every_metric_sample_fires_and_no_quiet_one_does(engine: Engine, ruleset: RuleSet) -> None:
    for body in ruleset.bodies:
        rule = body.rule
        if rule.category == "host_metrics" and not body.silent:
            folder = RULES / "tests" / Path(rule.path).stem
            for name, wanted in (("fires.log", [rule.id]), ("quiet.log", [])):
                events = list(read_sample(folder / name, "host_metrics"))
                assert events
                assert [[match.rule.id for match in engine.judge(event)] for event in events] == [wanted] * len(events)


def test_recorded_attacks_are_seen_and_ordinary_work_is_left_alone(engine: Engine, corpora: Path) -> None:
    """The floor under the pack as shipped; docs/detection.md says more (`make eval-rules`)."""
    recorded = corpora / "recorded"
    labels = [json.loads(line) for line in (recorded / "labels.jsonl").read_text(encoding="utf-8").splitlines()]
    seen = dict.fromkeys(("malicious", "benign", "suspicious"), 0)
    loud = dict(seen)
    for label in labels:
        lines = (recorded / "logs" / f"{label['id']}.log").read_bytes().splitlines()
        events = read_audit(lines, Counters())
        ranks = [match.rule.level.rank for event in events for match in engine.judge(event)]
        seen[label["label"]] += max(ranks, default=-1) >= 2
        loud[label["label"]] += max(ranks, default=-1) >= 3
    assert seen["malicious"] >= 64, seen
    assert seen["benign"] <= 14, seen
    assert loud["benign"] <= 1, loud
