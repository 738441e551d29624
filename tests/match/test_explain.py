"""What each kind of value is called, and that an explanation says what the engine says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.size import choose_items
from watchdogd.entities import Event, EventId, View
from watchdogd.match import syntax
from watchdogd.match.engine import Engine
from watchdogd.match.explain import Explainer, describe_value
from watchdogd.match.library import RuleSet, load_rules
from watchdogd.samples import read_audit
from watchdogd.telemetry import Counters

RULES = Path(__file__).resolve().parents[2] / "rules"
MANY, ONE = syntax.MANY, syntax.ONE


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (syntax.Text(("a",)), "is 'a'"),
        (syntax.Text(("a",), cased=True), "is 'a' (case counts)"),
        (syntax.Text(()), "is empty"),
        (syntax.Text((MANY,)), "is like '*'"),
        (syntax.Text(("a", MANY)), "starts with 'a'"),
        (syntax.Text((MANY, "a")), "ends with 'a'"),
        (syntax.Text((MANY, "a", MANY)), "contains 'a'"),
        (syntax.Text(("a*", ONE, "b?", MANY)), r"is like 'a\\*?b\\?*'"),
        (syntax.Pattern("a|b"), "matches the pattern a|b"),
        (syntax.Number(5), "is the number 5"),
        (syntax.Truth(value=True), "is true or yes"),
        (syntax.Truth(value=False), "is false or no"),
        (syntax.Null(), "is absent or null"),
        (syntax.Exists(present=True), "has a value"),
        (syntax.Exists(present=False), "has no value"),
        (syntax.Network("10.0.0.0/8"), "is an address in 10.0.0.0/8"),
        (syntax.Compare("gte", 5), ">= 5"),
        (syntax.Compare("lt", 5, "hour"), "hour < 5"),
        (syntax.TimePart("month", 12), "month = 12"),
        (syntax.OtherField("User"), "equals the field User"),
        (syntax.OtherField("User", start=True), "starts with the field User"),
        (syntax.OtherField("User", end=True), "ends with the field User"),
        (syntax.OtherField("User", start=True, end=True), "contains the field User"),
        (syntax.AnyOf((syntax.Text(("a",)), syntax.Text(("b",)))), "is 'a' or is 'b'"),
    ],
)
def test_values_in_words(value: syntax.Value, said: str) -> None:
    assert describe_value(value) == said


def test_a_keyword_stands_anywhere() -> None:
    assert describe_value(syntax.Text(("a",)), anywhere=True) == "contains 'a'"
    assert describe_value(syntax.Text(("a", MANY)), anywhere=True) == "contains 'a'"


@pytest.fixture(scope="module")
def ruleset(corpora: Path) -> RuleSet:
    return load_rules([RULES, corpora / "third_party" / "sigmahq"])


@pytest.mark.sampled
def test_an_explanation_says_what_the_engine_says(ruleset: RuleSet, corpora: Path) -> None:
    """Every rule against events of recordings: `held` is the engine's own answer, and nearness agrees with it."""
    engine = Engine(ruleset)
    explainers = [Explainer(body) for body in ruleset.bodies if body.view and not body.silent]
    matches = 0
    for path in choose_items(sorted((corpora / "recorded" / "logs").glob("*.log"))[::12], 4):
        for event in list(read_audit(path.read_bytes().splitlines(), Counters()))[:40]:
            wanted = {match.rule.id for match in engine.judge(event) if match.group is None}
            found = [(explainer.rule_id, explainer.explain(event)) for explainer in explainers]
            assert {rule_id for rule_id, said in found if any(one.held for one in said)} == wanted
            for _, said in found:
                assert all((one.near == 1) == one.held and -1 <= one.near <= 1 for one in said)
            matches += len(wanted)
    assert matches > 10


def test_an_event_without_anything_says_so() -> None:
    body = load_rules([RULES]).bodies[0]
    event = Event(EventId("host_metrics", None, 1, 0), "host_metrics", views=(View("host_metrics", "", "", {}),))
    (explanation,) = Explainer(body).explain(event)
    assert (explanation.held, explanation.condition, explanation.near) == (False, None, -1.0)
    assert explanation.note == f"the rule looks at {body.view}; of this event there is: host_metrics"
