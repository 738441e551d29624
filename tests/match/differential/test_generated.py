"""Rules and events at random: the engine and SQL find the same, by what either is asked for in common."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from tests.match.conftest import make_record
from tests.match.differential.making import COLUMNS, PLACEHOLDERS, events, find_texts, rules
from tests.match.differential.oracle import (
    LINES,
    Recorded,
    ask_rows,
    fill_table,
    flatten_record,
    flatten_view,
    open_database,
)
from tests.size import choose_examples
from watchdogd.entities import Event, EventId, View
from watchdogd.errors import RuleError
from watchdogd.match.engine import Engine
from watchdogd.match.link import link
from watchdogd.match.placeholders import Placeholders
from watchdogd.match.sigma import read_file
from watchdogd.match.subject import find_hidden_text
from watchdogd.match.syntax import RECORDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.match.differential.oracle import Scalar

pytestmark = pytest.mark.sampled

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
    # Keywords are sought in each value: what stands between them is in no rule.
    rows = [
        {**fields, LINES: "\x1f".join(str(value) for value in fields.values() if value is not None)} for fields in made
    ]
    with open_database() as database:
        fill_table(database, {**COLUMNS, LINES: "TEXT"}, rows)
        return {(rule["id"], number) for rule in documents for number in ask_rows(database, rule, PLACEHOLDERS)}


def show(value: Scalar) -> str | None:
    """Numbers as the log writes them."""
    return None if value is None else str(value)


MANY = settings(deadline=None, max_examples=choose_examples(40), suppress_health_check=list(HealthCheck))


@st.composite
def rules_and_rows(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Scalar]]]:
    documents = [draw(rules(number)) for number in range(draw(st.integers(1, 3)))]
    hints = sorted({text for rule in documents for part in rule["detection"].values() for text in find_texts(part)})
    return documents, draw(st.lists(events(hints), min_size=4, max_size=10))


@given(made=rules_and_rows())
@settings(MANY, max_examples=choose_examples(80))
def test_made_rules_match_made_events_alike(
    rule_file: Path, made: tuple[list[dict[str, Any]], list[dict[str, Scalar]]]
) -> None:
    documents, rows = made
    engine = build_engine(rule_file, documents)
    assume(engine is not None)
    assert engine is not None
    here = judge_here(engine, rows)
    event("some match" if here else "none matches")
    assert here == judge_in_sql(documents, rows)


def uses_expand(rule: Mapping[str, Any]) -> bool:
    return "|expand" in str(rule["detection"])


@given(made=rules_and_rows())
@MANY
def test_events_of_several_values(rule_file: Path, made: tuple[list[dict[str, Any]], list[dict[str, Scalar]]]) -> None:
    """Each event has the values of two rows: any of them will do."""
    documents = [rule for rule in made[0] if not uses_expand(rule)]
    engine = build_engine(rule_file, documents) if documents else None
    assume(engine is not None)
    assert engine is not None
    with open_database() as database:
        here, recorded = set(), Recorded(database)
        for number, (one, other) in enumerate(itertools.pairwise(made[1])):
            fields = {name: (show(one.get(name)), show(other.get(name))) for name in {**one, **other}}
            view = View(CATEGORY, "exec", "success", dict(fields))
            recorded.add(number, CATEGORY, flatten_view(view, ()))
            found = engine.judge(Event(EventId("audit", None, 0, number), "audit", views=(view,)))
            here |= {(match.rule.id, number) for match in found}
        event("some match" if here else "none matches")
        assert here == {(rule["id"], number) for rule in documents for number in recorded.ask_views(rule, CATEGORY)}


@given(made=rules_and_rows())
@MANY
def test_events_of_several_records(rule_file: Path, made: tuple[list[dict[str, Any]], list[dict[str, Scalar]]]) -> None:
    """Each row is a record of an event that has two of them."""
    documents = [{**rule, "logsource": {"product": "linux", "service": "auditd"}} for rule in made[0]]
    documents = [rule for rule in documents if not uses_expand(rule)]
    engine = build_engine(rule_file, documents) if documents else None
    assume(engine is not None)
    assert engine is not None
    with open_database() as database:
        here, recorded = set(), Recorded(database)
        for number, pair in enumerate(itertools.pairwise(made[1])):
            told: list[dict[str, Any]] = [
                {name: str(value) for name, value in row.items() if value is not None} for row in pair
            ]
            records = tuple(make_record("MADE", **fields) for fields in told)
            for record in records:
                recorded.add(number, RECORDS, flatten_record(record, find_hidden_text))
            found = engine.judge(Event(EventId("audit", None, 0, number), "audit", records=records))
            here |= {(match.rule.id, number) for match in found}
        event("some match" if here else "none matches")
        assert here == {(rule["id"], number) for rule in documents for number in recorded.ask_records(rule)}
