"""Filters: what they ask becomes part of the rules they name, or of what counts for a correlation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.match.conftest import link_folders
from tests.match.test_link import ID, refuse, rule, write
from watchdogd.entities import Event, EventId, View
from watchdogd.match import syntax
from watchdogd.match.engine import Engine

if TYPE_CHECKING:
    from pathlib import Path

    from tests.match.conftest import MakeEvent

FILTER_ID = "5f0b3f4e-6a1c-4a53-9a7e-0f6f1f7d1cf{}"


def make_filter(
    rules: str = "any",
    *,
    number: int = 1,
    source: str = "{product: linux, category: process_creation}",
    body: str = "sel: {User: backup}\n  condition: not sel",
    more: str = "",
) -> str:
    return (
        f"title: Not the backup\nid: {FILTER_ID.format(number)}\n{more}logsource: {source}\n"
        f"filter:\n  rules: {rules}\n  {body}\n"
    )


def correlation(rules: str, *, number: int = 7, more: str = "") -> str:
    return (
        f"title: Many\nid: {ID.format(number)}\nlevel: high\n{more}correlation:\n  type: event_count\n"
        f"  rules: {rules}\n  group-by: User\n  timespan: 10m\n  condition: {{gte: 5}}\n"
    )


@pytest.mark.parametrize("named", ["any", "ANY", "[]", ID.format(1), "first", f"[first, {ID.format(2)}]"])
def test_an_exception_keeps_its_rules_quiet(tmp_path: Path, make_event: MakeEvent, named: str) -> None:
    folder = write(tmp_path / "a", "r.yml", rule(1, more="name: first\n"), rule(2), make_filter(named))
    ruleset = link_folders(folder)
    assert ruleset.warnings == ()
    engine = Engine(ruleset)

    def judge(**fields: str) -> set[str]:
        event = make_event(View("process_creation", "", "", dict(fields)))
        return {match.rule.id[-1] for match in engine.judge(event)}

    assert judge(F="x", User="root") == {"1", "2"}
    assert judge(F="x", User="backup") == ({"2"} if named in (ID.format(1), "first") else set())


def test_filters_of_one_rule_all_count_and_names_do_not_collide(tmp_path: Path, make_event: MakeEvent) -> None:
    folder = write(
        tmp_path / "a",
        "r.yml",
        rule(1),
        make_filter(body="sel: {User: backup}\n  sel_b: {G: y}\n  condition: not all of sel*"),
        make_filter(number=2, body="sel: {User: [nobody, backup]}\n  condition: not sel or sel and not sel"),
    )
    engine = Engine(link_folders(folder))

    def judge(**fields: str) -> bool:
        return bool(engine.judge(make_event(View("process_creation", "", "", dict(fields)))))

    assert judge(F="x", User="root")
    assert not judge(F="x", User="backup", G="y")
    assert not judge(F="x", User="nobody")
    assert not judge(F="z", User="root")


SOURCES = [
    ("{product: linux}", True),
    ("{category: process_creation}", True),
    ("{product: linux, category: process_creation}", True),
    ("{product: linux, service: auditd}", False),
    ("{product: windows, category: process_creation}", False),
    ("{category: file_event}", False),
]


@pytest.mark.parametrize(("source", "covers"), SOURCES)
@pytest.mark.parametrize("named", ["any", ID.format(1)])
def test_the_log_source_of_a_filter_must_cover_the_rules(
    tmp_path: Path, named: str, source: str, *, covers: bool
) -> None:
    folder = write(tmp_path / "a", "r.yml", rule(1), make_filter(named, source=source))
    ruleset = link_folders(folder)
    assert (len(ruleset.bodies[0].detections) > 1) is covers
    assert ["does nothing" in problem.message for problem in ruleset.warnings] == ([] if covers else [True])
    assert {problem.severity for problem in ruleset.warnings} <= {"warning"}


def test_a_filter_that_names_an_unknown_rule_is_a_warning(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "r.yml", rule(1, more="name: first\n"), make_filter("[fist]"))
    (problem,) = link_folders(folder).warnings
    assert (problem.message, problem.hint) == (
        "no rule has the id or the name 'fist'",
        "did you mean 'first' (A rule)?",
    )
    assert (problem.place.line, problem.place.column) == (14, 11)


def test_a_later_layer_replaces_or_disables_a_filter(tmp_path: Path) -> None:
    packaged = write(tmp_path / "a", "r.yml", rule(1), make_filter())
    own = write(tmp_path / "b", "r.yml", make_filter(body="other: {User: me}\n  condition: not other"))
    (body,) = link_folders(packaged, own).bodies
    assert list(body.detections) == ["sel", f"other (filter {FILTER_ID.format(1)})"]
    off = write(tmp_path / "c", "r.yml", f"id: {FILTER_ID.format(1)}\nwatchdogd: {{disabled: true}}\n")
    (body,) = link_folders(packaged, own, off).bodies
    assert list(body.detections) == ["sel"]
    level = write(tmp_path / "d", "r.yml", f"id: {FILTER_ID.format(1)}\nlevel: low\n")
    (problem,) = link_folders(packaged, level).warnings
    assert "is a filter, which has no level" in problem.message


def test_a_filter_on_a_correlation_restricts_what_counts_for_it_alone(tmp_path: Path) -> None:
    other = rule(2).replace("process_creation", "file_event")
    folder = write(
        tmp_path / "a",
        "r.yml",
        rule(1),
        other,
        correlation(f"[{ID.format(1)}, {ID.format(2)}]"),
        make_filter(ID.format(7)),
    )
    ruleset = link_folders(folder)
    assert ruleset.warnings == ()
    assert [list(body.detections) for body in ruleset.bodies] == [["sel"], ["sel"]]
    (found,) = ruleset.correlations
    name = f"sel (filter {FILTER_ID.format(1)})"
    restriction = syntax.Restriction(
        {name: syntax.Group((syntax.Test("User", (syntax.Text(("backup",)),)),), every=True)},
        syntax.Not(syntax.Named(name)),
    )
    assert [feed.restrictions for feed in found.feeds] == [(restriction,), ()]


def test_a_filter_on_an_upper_correlation_leaves_the_lower_one_as_it_is(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "a",
        "r.yml",
        rule(1),
        correlation(ID.format(1)),
        correlation(ID.format(7), number=8),
        make_filter(ID.format(8)),
        make_filter(ID.format(8), number=2),
    )
    ruleset = link_folders(folder)
    lower, copy, upper = ruleset.correlations
    assert (lower.rule.id, copy.copy_of, upper.rule.id) == (ID.format(7), ID.format(7), ID.format(8))
    assert lower.feeds[0].restrictions == ()
    assert len(copy.feeds[0].restrictions) == 2
    assert copy.silent
    assert [feed.rule_id for feed in upper.feeds] == [copy.rule.id]
    assert copy.rule.id not in {ID.format(7), ID.format(8)}
    assert [found.id[-1] for found in ruleset.rules] == ["1", "7", "8"]


def test_filters_on_two_correlations_of_a_tower_with_two_ways_down(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "a",
        "r.yml",
        rule(1),
        correlation(ID.format(1), number=5),
        correlation(ID.format(5), number=6),
        correlation(ID.format(5), number=7),
        correlation(f"[{ID.format(6)}, {ID.format(7)}]", number=8),
        make_filter(ID.format(6)),
        make_filter(ID.format(8), number=2),
        make_filter(ID.format(8), number=3),
    )
    found = link_folders(folder).correlations
    by_id = {one.rule.id: one for one in found}
    assert len(by_id) == len(found)
    for place, one in enumerate(found):
        below = [feed.rule_id for feed in one.feeds if feed.rule_id != ID.format(1)]
        assert set(below) <= {lower.rule.id for lower in found[:place]}

    def count_filters(rule_id: str, *way: int) -> int:
        feed = by_id[rule_id].feeds[way[0]]
        return count_filters(feed.rule_id, *way[1:]) if way[1:] else len(feed.restrictions)

    assert count_filters(ID.format(5), 0) == 0
    assert count_filters(ID.format(6), 0, 0) == 1
    assert count_filters(ID.format(7), 0, 0) == 0
    assert count_filters(ID.format(8), 0, 0, 0) == 3
    assert count_filters(ID.format(8), 1, 0, 0) == 2


def test_the_engine_counts_for_each_correlation_what_its_filters_let_through(tmp_path: Path) -> None:
    lower = correlation(ID.format(1)).replace("{gte: 5}", "{gte: 2}")
    upper = correlation(ID.format(7), number=8).replace("{gte: 5}", "{gte: 1}\n  generate: true")
    engine = Engine(link_folders(write(tmp_path / "a", "r.yml", rule(1), lower, upper, make_filter(ID.format(8)))))

    def judge(user: str) -> list[list[str]]:
        found = []
        for serial in range(2):
            view = View("process_creation", "", "", {"F": "x", "User": user})
            identity = EventId("audit", None, 1_700_000_000_000, serial, user)
            found.append([match.rule.id[-1] for match in engine.judge(Event(identity, "audit", views=(view,)))])
        return found

    assert judge("root") == [[], ["7", "8"]]
    assert judge("backup") == [[], ["7"]]


def test_a_filter_on_a_correlation_of_other_log_sources_is_a_warning(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "a",
        "r.yml",
        rule(1),
        correlation(ID.format(1)),
        make_filter(ID.format(7), source="{category: file_event}"),
    )
    (problem,) = link_folders(folder).warnings
    assert "does nothing for 'Many'" in problem.message


MISTAKES = [
    (make_filter().replace("  rules: any\n", ""), (4, 1), "does not say for which rules", "rules: any"),
    (make_filter().replace("  rules: any", "  rule: any"), (4, 1), "does not say for which rules", "did you mean"),
    (make_filter("[5]"), (5, 11), "not a rule's id or name: 5", "rules: any"),
    (make_filter("[a, a]"), (5, 14), "'a' is named twice", ""),
    (make_filter(body="condition: [sel]\n  sel: {F: x}"), (6, 14), "one condition, not a list", "or"),
    (make_filter(body="sel: {F: x}"), (4, 1), "the filter has no condition", "condition: selection"),
    (make_filter(body="sel: {F|zz: x}\n  condition: not sel"), (6, 11), "unknown modifier 'zz'", ""),
    (make_filter(body="sel: {F: x}\n  condition: not sle"), (7, 18), "no detection is called 'sle'", "did you mean"),
    (make_filter(source="{}"), (3, 1), "the log source is empty", ""),
    (make_filter().replace("logsource", "logsauce"), (1, 1), "no log source", ""),
    (make_filter().replace("title: Not the backup\n", ""), (1, 1), "must have a title", ""),
    (make_filter().replace(f"id: {FILTER_ID.format(1)}\n", ""), (1, 1), "has no id", "uuidgen"),
    (make_filter().partition("filter:")[0] + "filter: any\n", (4, 1), "not a map", ""),
]


@pytest.mark.parametrize(("text", "where", "message", "hint"), MISTAKES, ids=[case[2] for case in MISTAKES])
def test_a_mistake_in_a_filter(tmp_path: Path, text: str, where: tuple[int, int], message: str, hint: str) -> None:
    (problem,) = refuse(write(tmp_path / "a", "r.yml", text))
    assert message in problem.message
    assert hint in problem.hint
    assert (problem.place.line, problem.place.column) == where


def test_a_filter_has_no_level(tmp_path: Path) -> None:
    (problem,) = link_folders(write(tmp_path / "a", "r.yml", rule(1), make_filter(more="level: low\n"))).warnings
    assert "has no level" in problem.message
