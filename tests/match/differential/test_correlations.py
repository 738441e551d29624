"""Correlations and filters at random, over made and recorded events: SQL says at which events one holds.

SQL answers for every event as the end of a window. Out of that comes when an alert is due, by docs/rules.md: at once
where it begins to hold and once a timespan while it does; for what only the end of a window tells, there.
Times are whole: what are milliseconds here are seconds in SQL, so that nothing is rounded.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from sigma.collection import SigmaCollection

from tests.match.differential.making import build_rule
from tests.match.differential.oracle import fill_table, make_backend, open_database
from tests.match.differential.test_recorded import read_lines
from tests.size import LARGE, choose_examples
from watchdogd.entities import Event, EventId, View
from watchdogd.match.engine import Engine
from watchdogd.match.link import link
from watchdogd.match.placeholders import Placeholders
from watchdogd.match.sigma import read_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


Row = dict[str, Any]
Document = dict[str, Any]
Group = tuple[str, ...]
pytestmark = pytest.mark.sampled

SPAN_MS = 10_000
BASE_MS = 1_700_000_000_000
AT_ONCE = ("gt", "gte")
LATE = ("lt", "lte", "eq", "neq")
VALUES = ("value_sum", "value_avg", "value_median", "value_percentile")
COLUMNS = {"ts": "INTEGER", "Tag": "TEXT", "User": "TEXT", "Host": "TEXT", "Number": "NUMERIC", "Fired": "NUMERIC"}
RULES = {"made_1": "a", "made_2": "b", "made_3": "c"}


class Case(NamedTuple):
    """Documents as they are read here, and as SQL gets them: it knows no filter on a correlation."""

    here: list[Document]
    sql: list[Document]
    group_by: tuple[str, ...]
    field: str | None


def build_correlation(
    kind: str, names: Sequence[str], group_by: Sequence[str], condition: str | dict[str, Any] | None, **more: object
) -> Document:
    told: dict[str, Any] = {"type": kind, "rules": list(names), "timespan": f"{SPAN_MS // 1000}s", **more}
    told |= {"group-by": list(group_by)} if group_by else {}
    told |= {"condition": condition} if condition is not None else {}
    return {
        "title": "Together",
        "name": "together",
        "id": "5f0b3f4e-6a1c-4a53-9a7e-000000000009",
        "level": "low",
        "correlation": told,
    }


def build_filter(rules: str | Sequence[str]) -> Document:
    return {
        "title": "Kept out",
        "id": "5f0b3f4e-6a1c-4a53-9a7e-00000000000f",
        "logsource": {"product": "linux", "category": "process_creation"},
        "filter": {
            "rules": rules if isinstance(rules, str) else list(rules),
            "kept_out": {"Host": "h2"},
            "condition": "not kept_out",
        },
    }


def build_rules(names: Sequence[str]) -> list[Document]:
    return [build_rule(int(name[-1]), {"one": {"Tag|contains": RULES[name]}, "condition": "one"}) for name in names]


@st.composite
def cases(draw: st.DrawFn, operators: Sequence[str], *, grouped: bool = False) -> Case:
    """A correlation over one to three rules, with what may go with it."""
    kinds = ["event_count", "value_count", "temporal", *VALUES]
    kind = draw(st.sampled_from([*kinds, "temporal_ordered"] if operators == AT_ONCE else kinds))
    least = 2 if kind.startswith("temporal") else 1
    names = draw(st.permutations(sorted(RULES)))[: draw(st.integers(least, 3))]
    condition: dict[str, Any] | None = {draw(st.sampled_from(operators)): draw(st.integers(0, 4))}
    if kind.startswith("temporal") and operators == AT_ONCE and draw(st.booleans()):
        condition = None
    field = "Number" if kind.startswith("value") else None
    if condition is not None and field:
        condition |= {"field": field}
        condition |= {"percentile": draw(st.sampled_from((0, 50, 90)))} if kind == "value_percentile" else {}
    group_by = draw(st.sampled_from((*([] if grouped else [()]), ("User",), ("User", "Host"), ("who",))))
    who = {name: "Host" if name == "made_2" else "User" for name in names}
    more = {"aliases": {"who": who}} if "who" in group_by else {}
    together = build_correlation(kind, names, group_by, condition, **more)
    here = [*build_rules(names), together]
    sql = copy.deepcopy(here)
    filtered = draw(st.sampled_from(("", "", "one", "any", "together")))
    if filtered:
        named = {"one": [names[0]], "any": "any", "together": ["together"]}[filtered]
        here.append(build_filter(named))
        sql.append(build_filter(list(names) if filtered == "together" else named))
    return Case(here, sql, group_by, field)


@st.composite
def made_rows(draw: st.DrawFn) -> list[Row]:
    """Events in the order of their times, no two at once."""
    seconds = sorted(draw(st.sets(st.integers(0, 45), min_size=draw(st.sampled_from((0, 10, 16))), max_size=20)))
    return [
        {
            "ts": second * 1000,
            "Tag": draw(st.sampled_from(("a", "b", "c", "A", "ab", "bc", "cab", "d"))),
            "User": draw(st.sampled_from(("ann", "ann", "ann", "Ann", "bob", None))),
            "Host": draw(st.sampled_from(("h1", "h1", "h2", None))),
            "Number": draw(st.sampled_from((None, -2, 0, 1, 1, 2, 3, 2.5))),
        }
        for second in seconds
    ]


def ask(documents: Sequence[Document], rows: Sequence[Row], group_by: Sequence[str]) -> set[tuple[Group, int, int]]:
    """Group, beginning and end of each window for which the correlation holds."""
    told = copy.deepcopy(list(documents))
    for document in told:
        if "correlation" in document:
            document["correlation"]["timespan"] = f"{int(document['correlation']['timespan'][:-1]) * 1000}s"
    backend = make_backend(timestamp_field="ts", timestamp_format="unix", observation_end=10**12)
    (query,) = backend.convert(SigmaCollection.from_dicts(told))
    with open_database() as database:
        fill_table(database, COLUMNS, rows)
        cursor = database.execute(query)
        names = [column[0] for column in cursor.description]
        found = [dict(zip(names, row, strict=True)) for row in cursor]
    return {
        (
            tuple(str(json.loads(one["group_keys"])[name]).casefold() for name in group_by),
            int(one["window_start"]),
            int(one["window_end"]),
        )
        for one in found
    }


def find_taking_part(case: Case, rows: Sequence[Row]) -> dict[Group, list[int]]:
    """Times of the events of each group: SQL counts at least one."""
    counting = copy.deepcopy(case.sql)
    for document in counting:
        if "correlation" in document:
            document["correlation"] |= {"type": "event_count", "condition": {"gte": 1}}
    with_value = {row["ts"] for row in rows if case.field is None or row[case.field] is not None}
    groups: dict[Group, list[int]] = {}
    for group, _, end in sorted(ask(counting, rows, case.group_by)):
        if end in with_value:
            groups.setdefault(group, []).append(end)
    return groups


def expect_at_once(case: Case, rows: Sequence[Row]) -> list[tuple[Group, int]]:
    """Where an alert is due: where it begins to hold, and a timespan later if it still does."""
    holding = {(group, end) for group, _, end in ask(case.sql, rows, case.group_by)}
    found: list[tuple[Group, int]] = []
    for group, times in find_taking_part(case, rows).items():
        fired: int | None = None
        for time in times:
            if (group, time) not in holding:
                fired = None
            elif fired is None or time - fired >= SPAN_MS:
                fired = time
                found.append((group, time))
    return sorted(found)


def expect_at_the_end(case: Case, rows: Sequence[Row]) -> list[tuple[Group, int]]:
    """Windows one after the other, each begun by a group's first event: SQL sees nothing but the one window."""
    found = []
    for group, times in find_taking_part(case, rows).items():
        rest = times
        while rest:
            window = [time for time in rest if time <= rest[0] + SPAN_MS]
            inside = [row for row in rows if rest[0] <= row["ts"] <= window[-1]]
            if any((group, window[-1]) == (other, end) for other, _, end in ask(case.sql, inside, case.group_by)):
                found.append((group, window[-1]))
            rest = rest[len(window) :]
    return sorted(found)


def judge(
    path: Path, documents: Sequence[Document], rows: Sequence[Row], name: str = "Together"
) -> list[tuple[Group, int]]:
    """Group and time of the completing event of each match."""
    path.write_text(yaml.safe_dump_all(documents, sort_keys=False), "utf-8")
    engine = Engine(link([[read_file(path, Placeholders())]]))
    matches = []
    for number, row in enumerate(rows, 1):
        fields: dict[str, Any] = {key: value for key, value in row.items() if key != "ts"}
        identity = EventId("audit", None, BASE_MS + row["ts"], number)
        matches += [firing.match for firing in engine.advance(identity.time_ms)]
        matches += engine.judge(Event(identity, "audit", views=(View("process_creation", "", "", fields),)))
    matches += [firing.match for firing in engine.finish()]
    return sorted(
        (match.group or (), match.event_ids[-1].time_ms - BASE_MS) for match in matches if match.rule.title == name
    )


GROUPS: st.SearchStrategy[tuple[str, ...]] = st.sampled_from(((), ("User",)))
MANY = settings(deadline=None, max_examples=choose_examples(40), suppress_health_check=list(HealthCheck))


@given(case=cases(AT_ONCE), rows=made_rows())
@MANY
def test_what_holds_at_once(rule_file: Path, case: Case, rows: list[Row]) -> None:
    expected = expect_at_once(case, rows)
    event("some are due" if expected else "none is due")
    assert judge(rule_file, case.here, rows) == expected


@given(case=cases(LATE), rows=made_rows())
@MANY
def test_what_only_the_end_tells(rule_file: Path, case: Case, rows: list[Row]) -> None:
    expected = expect_at_the_end(case, rows)
    event("some are due" if expected else "none is due")
    assert judge(rule_file, case.here, rows) == expected


@given(case=cases(AT_ONCE, grouped=True), rows=made_rows(), number=st.integers(1, 3))
@MANY
def test_correlations_of_correlations(rule_file: Path, case: Case, rows: list[Row], number: int) -> None:
    """What the lower one is expected to fire is an event to the upper one: in SQL, a row."""
    above = build_correlation("event_count", ["together"], case.group_by, {"gte": number})
    above |= {"title": "Above", "name": "above", "id": "5f0b3f4e-6a1c-4a53-9a7e-0000000000aa"}
    names = dict(zip(case.group_by, ("User", "Host"), strict=False))
    fired = [
        {"ts": time, "Fired": 1, **{names[name]: text for name, text in zip(case.group_by, group, strict=True)}}
        for group, time in sorted(expect_at_once(case, rows), key=lambda one: one[1])
    ]
    base = build_rule(1, {"one": {"Fired": 1}, "condition": "one"})
    upper = build_correlation("event_count", ["made_1"], tuple(names.values()), {"gte": number})
    expected = expect_at_once(Case([], [base, upper], tuple(names.values()), None), fired)
    event("some are due" if expected else "none is due")
    assert judge(rule_file, [*case.here, above], rows, "Above") == expected


@given(rows=made_rows(), kind=st.sampled_from(("temporal", "temporal_ordered")), group_by=GROUPS)
@MANY
def test_conditions_over_names(rule_file: Path, rows: list[Row], kind: str, group_by: tuple[str, ...]) -> None:
    names = sorted(RULES)[: 2 if kind == "temporal_ordered" else 3]
    condition = "made_1 and made_2" if kind == "temporal_ordered" else "made_1 and (made_2 or made_3)"
    documents = [*build_rules(names), build_correlation(kind, names, group_by, condition)]
    case = Case(documents, documents, group_by, None)
    assert judge(rule_file, documents, rows) == expect_at_once(case, rows)


@given(rows=made_rows(), group_by=GROUPS)
@MANY
def test_what_must_not_follow(rule_file: Path, rows: list[Row], group_by: tuple[str, ...]) -> None:
    """SQL's window begins at each event that must be there, ours at the group's first: both agree where that is one."""
    names = ["made_1", "made_2"]
    rules = [
        build_rule(number, {"one": {"Tag": RULES[name]}, "condition": "one"}) for number, name in enumerate(names, 1)
    ]
    documents = [*rules, build_correlation("temporal", names, group_by, "made_1 and not made_2")]
    case = Case(documents, documents, group_by, None)
    first_tags = {row["ts"]: row["Tag"].casefold() for row in rows}
    holding = {(group, start) for group, start, _ in ask(documents, rows, group_by)}
    expected, skipped = [], set()
    for group, times in find_taking_part(case, rows).items():
        rest = times
        while rest:
            window = [time for time in rest if time <= rest[0] + SPAN_MS]
            if first_tags[rest[0]] != "a":
                skipped.add((group, window[-1]))
            elif (group, rest[0]) in holding:
                expected.append((group, window[-1]))
            rest = rest[len(window) :]
    assert [one for one in judge(rule_file, documents, rows) if one not in skipped] == sorted(expected)


def test_recorded_events(corpora: Path, rule_file: Path) -> None:
    """Programs started, by user: one event for each millisecond, and the tag says what kind of program it was."""
    rows: dict[int, Row] = {}
    logs = sorted((corpora / "recorded" / "logs").glob("*.log"))
    for log in logs if LARGE else logs[::20]:
        for found in read_lines(log.read_bytes().splitlines()):
            for view in found.views:
                image = view.fields.get("Image")
                if view.category == "process_creation" and isinstance(image, str):
                    tag = "a" if "sh" in image else "b" if image.startswith("/usr/bin") else "c"
                    user, number = view.fields.get("User"), view.fields.get("ParentProcessId")
                    rows[found.id.time_ms - BASE_MS] = {"Tag": tag, "User": user, "Number": number, "Host": image}
    ordered = [{"ts": time, **row} for time, row in sorted(rows.items())]
    compared = 0
    for kind in ("event_count", "value_count", "temporal", "temporal_ordered", *VALUES):
        names = sorted(RULES)
        condition: dict[str, Any] = {"gte": 3 if kind not in VALUES else 20_000}
        condition |= {"field": "Number"} if kind.startswith("value") else {}
        condition |= {"percentile": 90} if kind == "value_percentile" else {}
        documents = [*build_rules(names), build_correlation(kind, names, ("User",), condition)]
        case = Case(documents, documents, ("User",), "Number" if kind.startswith("value") else None)
        expected = expect_at_once(case, ordered)
        assert judge(rule_file, documents, ordered) == expected, kind
        compared += len(expected)
    assert compared > 10
    print(f"8 correlations over {len(ordered)} events, {compared} matches")  # noqa: T201 - shown with -s
