"""Rules and events at random: the engine and SQL find the same, by what either is asked for in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from tests.match.differential.making import COLUMNS, PLACEHOLDERS, events, find_texts, rules
from tests.match.differential.oracle import LINES, ask_rows, fill_table, open_database
from tests.match.differential.size import choose_examples
from watchdogd.entities import Event, EventId, View
from watchdogd.errors import RuleError
from watchdogd.match.engine import Engine
from watchdogd.match.link import link
from watchdogd.match.placeholders import Placeholders
from watchdogd.match.sigma import read_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.match.differential.oracle import Scalar

CATEGORY = "process_creation"
FILLED = Placeholders(
    "placeholders.yaml", "", {name: tuple(v for v in values if v is not None) for name, values in PLACEHOLDERS.items()}
)


def build_engine(path: Path, documents: Sequence[Mapping[str, Any]]) -> Engine | None:
    """None where a rule is refused."""
    path.write_text(yaml.safe_dump_all(documents, sort_keys=False), "utf-8")
    try:
        return Engine(link([[read_file(path, FILLED)]]))
    except RuleError:
        return None


def build_event(number: int, fields: Mapping[str, Scalar]) -> Event:
    view = View(CATEGORY, "exec", "success", dict(fields))
    return Event(EventId("audit", None, 1_700_000_000_000 + number, number), "audit", views=(view,))


def judge_here(engine: Engine, made: Sequence[Mapping[str, Scalar]]) -> set[tuple[str, int]]:
    return {
        (match.rule.id, number)
        for number, fields in enumerate(made, 1)
        for match in engine.judge(build_event(number, fields))
    }


def judge_in_sql(documents: Sequence[Mapping[str, Any]], made: Sequence[Mapping[str, Scalar]]) -> set[tuple[str, int]]:
    database = open_database()
    # Keywords are sought in each value: what stands between them is in no rule.
    rows = [
        {**fields, LINES: "\x1f".join(str(value) for value in fields.values() if value is not None)} for fields in made
    ]
    fill_table(database, {**COLUMNS, LINES: "TEXT"}, rows)
    return {(rule["id"], number) for rule in documents for number in ask_rows(database, rule, PLACEHOLDERS)}


@given(data=st.data())
@settings(
    deadline=None,
    max_examples=choose_examples(120),
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
        HealthCheck.data_too_large,
    ],
)
def test_made_rules_match_made_events_alike(rule_file: Path, data: st.DataObject) -> None:
    documents = [data.draw(rules(number)) for number in range(data.draw(st.integers(1, 3)))]
    engine = build_engine(rule_file, documents)
    assume(engine is not None)
    assert engine is not None
    hints = sorted({text for rule in documents for part in rule["detection"].values() for text in find_texts(part)})
    made = data.draw(st.lists(events(hints), min_size=4, max_size=10))
    here = judge_here(engine, made)
    event("some match" if here else "none matches")
    assert here == judge_in_sql(documents, made)
