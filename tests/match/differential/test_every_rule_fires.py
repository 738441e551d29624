"""Every rule of SigmaHQ that can match here is fired by an event made from the rule itself: audit lines, decoded."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from msgspec.structs import replace

from tests.match.differential.solving import WAYS, ImpossibleError, build_lines, solve
from tests.match.differential.test_recorded import judge_here, judge_in_sql, read_documents, read_lines
from watchdogd.match.engine import Engine
from watchdogd.match.library import load_rules
from watchdogd.match.syntax import RuleBody, RuleSet

if TYPE_CHECKING:
    from pathlib import Path

    from watchdogd.entities import Event

UNREACHABLE = {
    "a46c93b7-55ed-4d27-a41b-c259456c4746": "audit does not tell DestinationHostname",
    "c4568f5d-131f-4e78-83d4-45b2da0ec4f1": "audit does not tell DestinationHostname",
    "19bf6fdb-7721-4f3d-867f-53467f6a5db6": "audit does not tell DestinationHostname",
}
"""Active rules of SigmaHQ that no audit event can satisfy: a name is looked up before the call that audit sees."""


def find_event(body: RuleBody) -> tuple[Event | None, str]:
    """An event that fires the rule, or why there is none."""
    engine = Engine(RuleSet((replace(body, silent=False),)))
    reason = "none of the ways that were tried"
    assert body.condition is not None
    for wishes in itertools.islice(solve(body.condition, body.detections), WAYS):
        try:
            lines = build_lines(body, wishes)
        except ImpossibleError as error:
            reason = str(error)
            continue
        for event in read_lines(lines):
            if engine.judge(event):
                return event, ""
    return None, reason


def test_each_rule_is_fired_and_sql_finds_the_same(corpora: Path) -> None:
    folder = corpora / "third_party" / "sigmahq"
    ruleset = load_rules([folder])
    active = [body for body in ruleset.bodies if body.view]
    fired = {body.rule.id: find_event(body) for body in active}
    assert {rule: reason for rule, (event, reason) in fired.items() if event is None} == UNREACHABLE
    events = {rule: event for rule, (event, _) in fired.items() if event is not None}
    assert len(events) == len(active) - len(UNREACHABLE)
    assert len(active) > 230
    here = judge_here(ruleset, list(events.values()))
    assert {rule for number, rule in enumerate(events) if number not in here[rule]} == set()
    assert here == judge_in_sql(ruleset, read_documents([folder]), list(events.values()))
