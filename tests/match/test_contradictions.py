"""What can never hold, and what always does: nothing is claimed that some event disproves."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchdogd.match import syntax
from watchdogd.match.compile import compile_test
from watchdogd.match.contradictions import (
    decide,
    explain_conflict,
    find_conflict,
    hold_value,
    list_names,
    list_required,
    needs_nothing,
)

MANY = syntax.MANY
A, B, C = syntax.Named("a"), syntax.Named("b"), syntax.Named("c")


def all_of(*items: syntax.Condition) -> syntax.Condition:
    return syntax.Junction(items, every=True)


def one_of(*items: syntax.Condition) -> syntax.Condition:
    return syntax.Junction(items, every=False)


def ask(*values: syntax.Value, field: str = "Image", every: bool = False, negated: bool = False) -> syntax.Test:
    return syntax.Test(field, values, every, negated)


def text(*parts: str | int, cased: bool = False) -> syntax.Text:
    return syntax.Text(parts, cased)


@pytest.mark.parametrize(
    ("condition", "answer"),
    [
        (A, None),
        (one_of(A, syntax.Not(A)), True),
        (all_of(A, syntax.Not(A)), False),
        (all_of(A, syntax.Not(one_of(A, B))), False),
        (one_of(A, B, syntax.Not(all_of(A, B))), True),
        (all_of(one_of(A, B), syntax.Not(A)), None),
        (all_of(*(syntax.Named(str(number)) for number in range(13)), syntax.Not(syntax.Named("0"))), None),
    ],
)
def test_what_a_condition_decides_by_itself(condition: syntax.Condition, *, answer: bool | None) -> None:
    assert decide(condition) is answer


def test_what_a_condition_names_and_needs() -> None:
    condition = all_of(A, syntax.Not(one_of(B, C)), one_of(syntax.Named("d"), A))
    assert list(list_names(condition)) == ["a", "b", "c", "d", "a"]
    assert list(list_required(condition)) == [("a", True), ("b", False), ("c", False)]
    assert list(list_required(syntax.Not(all_of(A, B)))) == []
    assert needs_nothing(syntax.Not(A))
    assert not needs_nothing(condition)


@pytest.mark.parametrize(
    "tests",
    [
        [ask(text("a"), text("b"), every=True)],
        [ask(text("a")), ask(text("b"), text("c"))],
        [ask(text("/bin/a")), ask(text(MANY, "/b"))],
        [ask(text("a")), ask(text("b", MANY, "c"))],
        [ask(text("a", MANY)), ask(text("b", MANY))],
        [ask(text(MANY, "a"), text(MANY, "bb"), every=True)],
        [ask(text("a")), ask(syntax.Null())],
        [ask(text("a")), ask(syntax.Exists(present=False))],
        [ask(syntax.Number(5)), ask(syntax.Compare("gt", 6))],
        [ask(syntax.Compare("gt", 6)), ask(syntax.Compare("lt", 6))],
        [ask(syntax.Compare("gte", 7)), ask(syntax.Compare("lte", 6))],
        [ask(text("10.1.1.1")), ask(syntax.Network("10.2.0.0/16"))],
    ],
)
def test_no_value_satisfies_them(tests: list[syntax.Test]) -> None:
    found = explain_conflict(tests, in_records=False)
    assert found is not None
    assert found[0] is tests[-1]


@pytest.mark.parametrize(
    "tests",
    [
        [ask(text("a")), ask(text("A"))],
        [ask(text("a"), text("b")), ask(text("b"), text("c"))],
        [ask(text("a", MANY)), ask(text("ab", MANY))],
        [ask(text("/BIN/a")), ask(text("/bin", MANY, cased=True))],
        [ask(text("a")), ask(syntax.Pattern("b"))],
        [ask(text("a")), ask(syntax.OtherField("User"))],
        [ask(text("a")), ask(text("b"), negated=True)],
        [ask(text("a")), ask(text("b"), field="User")],
        [ask(text("a"), field="AncestorImages"), ask(text("b"), field="AncestorImages")],
        [ask(syntax.Compare("gte", 6)), ask(syntax.Compare("lte", 6))],
        [ask(syntax.Compare("gt", 6, "hour")), ask(syntax.Compare("lt", 5, "minute"))],
        [ask(text("a")), ask(syntax.Exists(present=True))],
    ],
)
def test_some_value_may_satisfy_them(tests: list[syntax.Test]) -> None:
    assert explain_conflict(tests, in_records=False) is None


def test_values_of_records_come_raw_and_interpreted_but_for_the_type() -> None:
    both = [ask(text("59"), field="syscall"), ask(text("execve"), field="syscall")]
    assert explain_conflict(both, in_records=True) is None
    types = [ask(text("PATH"), field="type"), ask(text("CWD"), field="type")]
    assert explain_conflict(types, in_records=True) is not None


def test_a_condition_by_which_nothing_matches() -> None:
    bash, shell = ask(text(MANY, "/bash")), ask(text(MANY, "/sh"))
    root = ask(text("root"), field="User")
    detections: dict[str, syntax.Detection] = {
        "a": syntax.Group((bash, root), every=True),
        "b": syntax.Group((root,), every=True),
        "c": syntax.Group((shell,), every=True),
        "d": syntax.Group((bash, shell), every=False),
    }
    excluded = find_conflict(all_of(A, syntax.Not(B)), detections, in_records=True)
    assert excluded == ("b", "whatever satisfies 'a' satisfies 'b' as well")
    apart = all_of(A, C)
    assert find_conflict(apart, detections, in_records=False) == ("c", "no value of Image ends in both ways")
    assert find_conflict(apart, detections, in_records=True) is None, "another record may satisfy it"
    assert find_conflict(all_of(A, syntax.Not(C)), detections, in_records=False) is None
    assert find_conflict(all_of(B, syntax.Not(A)), detections, in_records=False) is None
    assert find_conflict(one_of(A, C), detections, in_records=False) is None
    assert find_conflict(all_of(B, syntax.Named("d")), detections, in_records=False) is None


WORDS = st.text("ab/", max_size=3)
VALUES = st.one_of(
    WORDS.map(lambda word: text(word) if word else text()),
    WORDS.filter(bool).map(lambda word: text(word, MANY)),
    WORDS.filter(bool).map(lambda word: text(MANY, word)),
    WORDS.filter(bool).map(lambda word: text(MANY, word, MANY, cased=True)),
    st.integers(0, 3).map(syntax.Number),
    st.builds(syntax.Compare, st.sampled_from(["lt", "lte", "gt", "gte"]), st.integers(0, 3)),
    st.builds(syntax.Exists, st.booleans()),
    st.just(syntax.Null()),
)
TESTS = st.builds(
    syntax.Test, st.just("Image"), st.lists(VALUES, min_size=1, max_size=3).map(tuple), st.booleans(), st.booleans()
)
UNIVERSE = [
    *("".join(letters) for count in range(7) for letters in itertools.product("ab/", repeat=count)),
    *("AB", "Ab", "B/A", "bA", "/A"),
    *(number / 2 for number in range(-2, 10)),
    *range(-1, 5),
    None,
]


@settings(max_examples=150, deadline=None)
@given(st.lists(TESTS, min_size=1, max_size=3))
def test_a_conflict_is_never_claimed_where_a_value_disproves_it(tests: list[syntax.Test]) -> None:
    if explain_conflict(tests, in_records=False) is not None:
        asks = [compile_test(test) for test in tests if not test.negated]
        held = [value for value in UNIVERSE if all(holds(hold_value("Image", value)) for holds in asks)]
        assert held == []
