"""Correlations: what is read, what they refer to, in which order they come, and when they can never match."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import pytest

from tests.match.conftest import link_folders
from tests.match.test_link import ID, refuse, rule, write
from watchdogd.errors import Place
from watchdogd.match import syntax
from watchdogd.match.library import load_rules
from watchdogd.match.syntax import Bound, Feed, Junction, Named, Not

if TYPE_CHECKING:
    from pathlib import Path

A, B, C = (ID.format(number) for number in (1, 2, 3))
RULES = (rule(1, more="name: a\n"), rule(2, title="B", more="name: b\n"), rule(3, more="name: c\n"))
EXCEPTION = "{rules: any, sel: {F: y}, condition: not sel}"
SSHD = rule(4, more="name: ssh\n").replace("category: process_creation", "service: vsftpd")


def correlate(number: int = 7, name: str = "top", /, **keys: str) -> str:
    body = {"type": "event_count", "rules": "a", "timespan": "10m", "condition": "{gte: 5}"}
    body |= {key.replace("_", "-"): value for key, value in keys.items()}
    lines = [f"  {key}: {value}\n" for key, value in body.items() if value]
    return f"title: Top {number}\nid: {ID.format(number)}\nlevel: high\nname: {name}\ncorrelation:\n" + "".join(lines)


def link_one(tmp_path: Path, *documents: str) -> syntax.Correlation:
    ruleset = link_folders(write(tmp_path / "a", "r.yml", *RULES, SSHD, *documents))
    assert ruleset.warnings == ()
    return ruleset.correlations[-1]


KINDS = [
    ({}, {"kind": "event_count", "bounds": (Bound("gte", 5),)}),
    ({"type": "EVENT_COUNT", "condition": "{gt: 5, lte: 9.5}"}, {"bounds": (Bound("gt", 5), Bound("lte", 9.5))}),
    ({"condition": "{eq: 0}"}, {"bounds": (Bound("eq", 0),)}),
    ({"condition": "{neq: 3}"}, {"bounds": (Bound("neq", 3),)}),
    ({"type": "value_count", "condition": "{lt: 5, field: User}"}, {"bounds": (Bound("lt", 5),)}),
    ({"type": "value_sum", "condition": "{gte: 5.5, field: X}"}, {"bounds": (Bound("gte", 5.5),)}),
    ({"type": "value_avg", "condition": "{gte: 5, field: X}"}, {"percentile": None}),
    ({"type": "value_median", "condition": "{gte: 5, field: X}"}, {"percentile": None}),
    ({"type": "value_percentile", "condition": "{gte: 5, field: X, percentile: 95}"}, {"percentile": 95.0}),
    ({"type": "temporal", "rules": "[a, b]", "condition": ""}, {"bounds": (), "expression": None}),
    ({"type": "temporal", "rules": "[a, b, c]", "condition": "{gte: 2}"}, {"bounds": (Bound("gte", 2),)}),
    ({"type": "temporal_ordered", "rules": "[b, a]", "condition": ""}, {"kind": "temporal_ordered"}),
    (
        {"type": "temporal", "rules": "[a, b, c]", "condition": "a and (b or not c)"},
        {"expression": Junction((Named("a"), Junction((Named("b"), Not(Named("c"))), every=False)), every=True)},
    ),
    (
        {"type": "temporal_ordered", "rules": "", "condition": "((b and a))"},
        {"expression": Junction((Named("b"), Named("a")), every=True)},
    ),
    ({"timespan": "90s"}, {"timespan_ms": 90_000}),
    ({"timespan": "2d"}, {"timespan_ms": 172_800_000}),
    ({"group_by": "User"}, {"group_by": ("User",)}),
    ({"group_by": "[User, Image]"}, {"group_by": ("User", "Image")}),
]


@pytest.mark.parametrize(("keys", "expected"), KINDS, ids=[str(case[0]) for case in KINDS])
def test_every_kind(tmp_path: Path, keys: dict[str, str], expected: dict[str, object]) -> None:
    found = link_one(tmp_path, correlate(**keys))
    assert {name: getattr(found, name) for name in expected} == expected
    assert (found.rule.title, found.rule.level, found.reason) == ("Top 7", "high", "")
    assert found.rule.product is None


def test_feeds_keep_the_order_and_take_aliases(tmp_path: Path) -> None:
    found = link_one(
        tmp_path,
        correlate(
            type="value_count",
            rules=f"[b, {A}]",
            group_by="[who, Image]",
            aliases=f"{{who: {{b: User, a: ParentUser}}, what: {{{B}: X, a: Y}}}}",
            condition="{gte: 5, field: [what, Other]}",
        ),
    )
    assert found.feeds == (
        Feed(B, "b", ("User", "Image"), ("X", "Other")),
        Feed(A, A, ("ParentUser", "Image"), ("Y", "Other")),
    )


def test_rules_come_from_a_condition_that_names_them(tmp_path: Path) -> None:
    found = link_one(tmp_path, correlate(type="temporal", rules="", condition="b and not a"))
    assert [(feed.reference, feed.rule_id) for feed in found.feeds] == [("b", B), ("a", A)]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_each_stands_behind_those_that_it_builds_on(tmp_path: Path, order: tuple[int, ...]) -> None:
    chain = (
        correlate(7, "top", rules="[middle, bottom]"),
        correlate(8, "middle", rules="bottom"),
        correlate(9, "bottom"),
    )
    ruleset = link_folders(write(tmp_path / "a", "r.yml", *[chain[place] for place in order], *RULES))
    assert [found.rule.id[-1] for found in ruleset.correlations] == ["9", "8", "7"]


def test_what_only_correlations_hear_of_is_silent(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "a",
        "r.yml",
        *RULES,
        correlate(6, "one", rules="[a, b]"),
        correlate(7, "two", rules="b", generate="true"),
        correlate(8, "three", rules="one"),
    )
    ruleset = load_rules([folder])
    assert [(body.name, body.silent) for body in ruleset.bodies] == [("a", True), ("b", False), ("c", False)]
    assert [(found.rule.id[-1], found.silent) for found in ruleset.correlations] == [
        ("6", True),
        ("7", False),
        ("8", False),
    ]


INACTIVE = [
    ({"rules": "ssh"}, "'ssh', which is inactive: the service 'vsftpd'"),
    ({"rules": "[a, ssh]"}, ""),
    ({"type": "temporal", "rules": "[a, ssh]", "condition": ""}, "'ssh', which is inactive"),
    ({"type": "temporal_ordered", "rules": "[a, ssh]", "condition": ""}, "'ssh', which is inactive"),
    ({"type": "temporal", "rules": "[a, b, ssh]", "condition": "{gte: 2}"}, ""),
    ({"type": "temporal", "rules": "[a, ssh]", "condition": "a and ssh"}, "'ssh', which is inactive"),
    ({"type": "temporal", "rules": "[a, ssh]", "condition": "a or ssh"}, ""),
    ({"type": "temporal", "rules": "[a, ssh]", "condition": "a and not ssh"}, ""),
]


@pytest.mark.parametrize(("keys", "reason"), INACTIVE, ids=[str(case[0]) for case in INACTIVE])
def test_a_correlation_that_needs_an_inactive_rule_is_inactive(
    tmp_path: Path, keys: dict[str, str], reason: str
) -> None:
    found = link_one(tmp_path, correlate(**keys), correlate(8, "upper", rules="top"))
    assert reason in found.reason
    assert bool(found.reason) is bool(reason)


def test_a_disabled_rule_or_correlation_leaves_what_needs_it_inactive(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "r.yml", *RULES, correlate(), correlate(8, "upper", rules="top"))
    place = Place("config.yaml", 3, 5)
    by_rule = link_folders(folder, overrides=syntax.Overrides({A: place}))
    assert [found.id[-1] for found, _ in by_rule.inactive] == ["1", "7", "8"]
    assert [found.id[-1] for found in by_rule.rules] == ["2", "3"]
    below = link_folders(folder, overrides=syntax.Overrides({ID.format(7): place}))
    assert [(found.id[-1], reason) for found, reason in below.inactive] == [
        ("7", "disabled at config.yaml:3:5"),
        ("8", "it needs 'top', which is inactive: disabled at config.yaml:3:5"),
    ]
    assert below.bodies[0].silent  # its author did not mean it to alert by itself


LINKS = [
    (correlate(rules="[a, bb]"), (7, 14), "no rule has the id or the name 'bb'", "did you mean 'b' (B)?"),
    (correlate(rules="Top 8"), (7, 3), "no rule has the id or the name 'Top 8'", f"by its id, {ID.format(8)}"),
    (correlate(rules="zzz"), (7, 3), "no rule has the id or the name 'zzz'", ""),
    (correlate(rules=f"[a, {A}]"), (7, 14), f"'{A}' is a rule that is named already", "once"),
    (correlate(rules="top"), (7, 3), "builds on itself: 'Top 7' -> 'Top 7'", "take one of them out"),
    (correlate(rules="d"), (7, 3), "the name 'd' is borne by 2 documents: ", "give the id, such as "),
    (correlate(rules="except"), (7, 3), "'except' is a filter, not a rule", "name a rule"),
    (correlate(rules="deep", group_by="User"), (7, 3), "not grouped by 'User'", "it is grouped by Image"),
    (correlate(aliases="{who: {a: User, x: Y}}"), (10, 28), "no rule has the id or the name 'x'", ""),
]
OTHERS = (
    rule(5, more="name: d\n"),
    rule(6, more="name: d\n"),
    correlate(8, "deep", group_by="Image"),
    f"title: E\nid: {ID.format(9)}\nname: except\nlogsource: {{product: linux}}\nfilter: {EXCEPTION}\n",
)


@pytest.mark.parametrize(("text", "where", "message", "hint"), LINKS, ids=[case[2] for case in LINKS])
def test_a_mistake_in_what_a_correlation_refers_to(
    tmp_path: Path, text: str, where: tuple[int, int], message: str, hint: str
) -> None:
    folder = write(tmp_path / "a", "r.yml", *RULES, *OTHERS)
    write(folder, "z.yml", text)
    (problem,) = refuse(folder)
    assert message in problem.message
    assert hint in problem.hint
    assert problem.place.path == str(folder / "z.yml")
    assert (problem.place.line, problem.place.column) == where


def test_a_circle_is_told_once(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "a",
        "r.yml",
        *RULES,
        correlate(7, "x", rules="y"),
        correlate(8, "y", rules="[a, z]"),
        correlate(9, "z", rules="x"),
        correlate(6, "above", rules="x"),
    )
    (problem,) = refuse(folder)
    assert problem.message == "the correlation builds on itself: 'Top 7' -> 'Top 8' -> 'Top 9' -> 'Top 7'"


def test_correlations_may_be_stacked_up_to_a_depth(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "r.yml", *RULES)
    tower = [
        correlate(1, f"t{number}", rules=f"t{number - 1}" if number else "a").replace(
            ID.format(1), f"5f0b3f4e-6a1c-4a53-9a7e-0f6f1f7d{number:04}"
        )
        for number in range(40)
    ]
    write(folder, "t.yml", *tower[:16])
    assert len(link_folders(folder).correlations) == 16
    write(folder, "t.yml", *tower)
    assert "more than 16 deep" in refuse(folder)[0].message


@pytest.mark.parametrize(
    ("aliases", "message"),
    [
        ("{who: {a: User, c: User}}", "the alias 'who' is for 'c', which the correlation does not count"),
        ("{who: {a: User}}", "the alias 'who' says nothing of 'b'"),
    ],
)
def test_doubtful_aliases_are_warnings(tmp_path: Path, aliases: str, message: str) -> None:
    folder = write(tmp_path / "a", "r.yml", *RULES, correlate(rules="[a, b]", group_by="who", aliases=aliases))
    problems = link_folders(folder).warnings
    assert {problem.severity for problem in problems} == {"warning"}
    assert message in [problem.message for problem in problems]


MISTAKES = [
    ({"type": "event_cuont"}, (6, 3), "unknown type 'event_cuont'", "did you mean 'event_count'"),
    ({"type": ""}, (5, 1), "the correlation has no type", "one of event_count"),
    ({"type": "5"}, (6, 3), "unknown type 5", "one of"),
    ({"rules": ""}, (5, 1), "the correlation names no rules", "ids or names"),
    ({"rules": "[]"}, (7, 3), "the correlation names no rules", "ids or names"),
    ({"rules": "{a: b}"}, (7, 3), "not a rule's id or name: {'a': 'b'}", ""),
    ({"rules": "[a, 5]"}, (7, 14), "not a rule's id or name: 5", ""),
    ({"rules": "[a, a]"}, (7, 14), "'a' is named twice", ""),
    ({"timespan": ""}, (5, 1), "the correlation has no timespan", "such as 10m"),
    ({"timespan": "10 minutes"}, (8, 3), "not a timespan: '10 minutes'", "such as 10m"),
    ({"timespan": "0m"}, (8, 3), "not a timespan: '0m'", ""),
    ({"timespan": "10"}, (8, 3), "not a timespan: 10", ""),
    ({"timespan": "3y"}, (8, 3), "longer than anything is remembered", "a year"),
    ({"condition": ""}, (5, 1), "the correlation has no condition", "gte: 10"),
    ({"condition": "[a]"}, (9, 3), "not a condition: ['a']", "gte: 10"),
    ({"condition": "{}"}, (9, 3), "compares with nothing", "one of lt, lte"),
    ({"condition": "{gtt: 5}"}, (9, 15), "unknown key 'gtt'", "did you mean 'gt"),
    ({"condition": "{gte: many}"}, (9, 15), "not a number: 'many'", ""),
    ({"condition": "{gte: yes}"}, (9, 15), "not a number: True", ""),
    ({"condition": f"{{gte: {2**64}}}"}, (9, 15), "not a number: 18446744073709551616", ""),
    ({"condition": "{gte: .inf}"}, (9, 15), "not a number: inf", ""),
    ({"condition": "{gte: 5, field: User}"}, (9, 23), "event_count looks at no field", "group-by"),
    ({"condition": "{gte: 5, percentile: 5}"}, (9, 23), "event_count has no percentile", ""),
    ({"condition": "a and b"}, (9, 14), "the condition of event_count must be a number", "gte: 10"),
    ({"type": "value_count"}, (9, 3), "value_count needs the field", "field:"),
    ({"type": "value_sum", "condition": "{gte: 5, field: [X, Y]}"}, (9, 23), "value_sum looks at one field", ""),
    ({"type": "value_avg", "condition": "{gte: 5, field: 7}"}, (9, 23), "not a field name", ""),
    ({"type": "value_percentile", "condition": "{gte: 5, field: X}"}, (9, 3), "needs its percentile", "95"),
    (
        {"type": "value_percentile", "condition": "{gte: 5, field: X, percentile: 101}"},
        (9, 33),
        "not a percentile: 101",
        "0 to 100",
    ),
    ({"type": "temporal", "rules": "[a, b]", "condition": "a and"}, (9, 14), "condition cannot be read", "names of"),
    ({"type": "temporal", "rules": "[a, b]", "condition": "a AND b"}, (9, 14), "condition cannot be read", "lower"),
    ({"type": "temporal", "rules": "[a, b]", "condition": "a or d or b"}, (9, 19), "names 'd'", "add it to `rules`"),
    ({"type": "temporal", "rules": "[a, b]", "condition": "a or a"}, (7, 14), "leaves 'b' out", ""),
    ({"group_by": "[User, User]"}, (10, 3), "not a field name or a list of different ones", ""),
    ({"group_by": "{a: b}"}, (10, 3), "not a field name or a list of different ones", ""),
    ({"group-by": "[]", "xyzzy": "User"}, (11, 3), "unknown key 'xyzzy'", "one of type, rules, group-by"),
    ({"timespam": "5m"}, (10, 3), "unknown key 'timespam'", "did you mean 'timespan'"),
    ({"aliases": "[a]"}, (10, 3), "not a map", "{rule: Field"),
    ({"aliases": "{who: User}"}, (10, 13), "'who' is not the fields of rules", "{rule: Field"),
    ({"aliases": "{who: {a: 5}}"}, (10, 13), "'who' is not the fields of rules", "{rule: Field"),
    ({"generate": "maybe"}, (10, 3), "not true or false: 'maybe'", ""),
]


@pytest.mark.parametrize(("keys", "where", "message", "hint"), MISTAKES, ids=[f"{c[0]}" for c in MISTAKES])
def test_a_mistake_in_a_correlation(
    tmp_path: Path, keys: dict[str, str], where: tuple[int, int], message: str, hint: str
) -> None:
    folder = write(tmp_path / "a", "r.yml", *RULES)
    write(folder, "z.yml", correlate(**keys))
    (problem,) = refuse(folder)
    assert message in problem.message
    assert hint in problem.hint
    assert problem.severity == "error"
    assert (problem.place.line, problem.place.column) == where


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (correlate().partition("correlation:")[0] + "correlation: 5\n", "not a map"),
        (correlate() + "detection: {sel: {F: x}, condition: sel}\n", "a correlation has no detection of its own"),
        (correlate() + "filter: {rules: any}\n", "a correlation has no filter of its own"),
        (correlate().replace("level: high", "level: hgih"), "unknown level"),
        (correlate().replace(f"id: {ID.format(7)}", "id: 7"), "not a UUID"),
    ],
)
def test_a_mistake_around_a_correlation(tmp_path: Path, text: str, message: str) -> None:
    folder = write(tmp_path / "a", "r.yml", *RULES, text)
    (problem,) = refuse(folder)
    assert message in problem.message
