"""Each thing that Sigma can say about a value, from YAML to yes or no."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.match.compile import pattern_matcher, text_matcher, time_part, to_number
from watchdogd.match.syntax import MANY, ONE, Text

if TYPE_CHECKING:
    from tests.match.conftest import MakeEngine, MakeEvent, MakeView

# What stands below `selection:`, values that satisfy it, values that do not.
CASES: list[tuple[str, list[Any], list[Any]]] = [
    ("F: abc", ["abc", "ABC", "aBc"], ["abcd", "xabc", "", None]),
    ("F: 'a*c'", ["ac", "abc", "AxyzC", "a\nc"], ["acd", "bac"]),
    ("F: 'a?c'", ["abc", "A*C"], ["ac", "abbc"]),
    (r"F: 'a\*c'", ["a*c"], ["abc", r"a\*c"]),
    (r"F: 'a\\*c'", [r"a\c", r"a\bc"], ["abc", "a*c"]),
    (r"F: 'C:\dir\x'", [r"c:\DIR\x"], ["C:dirx"]),
    ("F: ''", [""], ["x", None]),
    ("F: '*'", ["", "x"], [None]),
    ("F: '?'", ["x"], ["", "xx"]),
    ("F: '*a*b*c*'", ["abc", "xaxbxcx", "aabbcc"], ["acb", "cba", "ab"]),
    ("F: 'ab*ba'", ["abba", "abxba"], ["aba", "ab"]),
    ("F: 'a*?'", ["ab", "abc"], ["a"]),
    ("F: '*?b'", ["ab", "xxb"], ["b"]),
    ("F: 'a.c'", ["a.c"], ["abc"]),
    ("F|cased: aBc", ["aBc"], ["abc", "ABC"]),
    ("F|contains|cased: 'B*d'", ["aBcd"], ["abcd"]),
    ("F|contains: b", ["abc", "B"], ["ac"]),
    ("F|startswith: ab", ["ab", "ABc"], ["xab"]),
    ("F|endswith: bc", ["bc", "aBC"], ["bcx"]),
    ("F|contains: 'a*c'", ["xabcx"], ["xcax"]),
    ("F: [a, 'b*', '*c', '*d*', 'e?f']", ["a", "bx", "xc", "xdx", "exf"], ["x", "ax", "cx", "ef"]),
    ("F|contains|all: [a, b]", ["ab", "ba"], ["a", "b"]),
    ("F|contains|all: [a, 'b*c']", ["bca", "abxc"], ["acb"]),
    ("F|windash|contains: '-enc'", ["x /enc", "x -enc", "x \u2013enc"], ["enc"]),
    ("F|windash|contains|all: ['-a', '-b']", ["/a -b"], ["/a b"]),
    ("F|base64: foo", ["Zm9v"], ["foo", "xZm9v"]),
    ("F|base64offset|contains: attack", ["YXR0YWNr", "xhdHRhY2x", "xxxF0dGFja3"], ["attack"]),
    ("F|utf16|base64offset|contains: ping", ["//5wAGkAbgBnA"], ["ping"]),
    ("F|wide|base64offset|contains: ping", ["cABpAG4AZw"], ["cGluZw"]),
    ("F|utf16be|base64: ab", ["AGEAYg=="], ["YWI="]),
    ("F|re: '^a.+c$'", ["abc", "abbc"], ["ac", "ABC", "xabc"]),
    ("F|re: 'b+'", ["abc"], ["ac"]),
    ("F|re|i: 'B+'", ["abc"], ["ac"]),
    ("F|re|s: 'a.c'", ["a\nc"], ["ac"]),
    ("F|re: 'a.c'", ["abc"], ["a\nc"]),
    ("F|re|m: '^b$'", ["a\nb\nc"], ["a b c"]),
    ("F|re|i|m|s: '^B.c'", ["a\nb\nc"], ["abc"]),
    ("F|re: [a, b]", ["a", "b"], ["c"]),
    (r"F|re: '\d{2}\*'", ["12*"], ["12"]),
    ("F|cidr: 10.0.0.0/8", ["10.1.2.3", "::ffff:10.1.2.3"], ["11.0.0.1", "host", "", "10.1", None]),
    ("F|cidr: [192.168.0.0/16, 'fe80::/10']", ["192.168.3.4", "fe80::1"], ["::1", "192.169.0.1"]),
    ("F|exists: true", ["x", "", 0], [None]),
    ("F|exists: false", [None], ["x", 0]),
    ("F: null", [None], ["", "x", 0]),
    ("F: [null, '']", [None, ""], ["x"]),
    ("F: 42", [42, 42.0, "42"], [43, "042", "42x", None]),
    ("F: '42'", [42, "42"], [420]),
    ("F: [1, 2]", [1, "2"], [3]),
    ("F: 0.5", [0.5, "0.5"], [0.51]),
    ("F: true", ["true", "yes", "YES"], ["false", "1", 1]),
    ("F: no", ["no", "False"], ["yes", 0]),
    ("F|gt: 5", [6, "5.5", 5.1], [5, "5", "x", None, ""]),
    ("F|gte: 5", [5, "5"], [4.9]),
    ("F|lt: 5", ["-7", 4], [5, "4x"]),
    ("F|lte: 5.5", [5.5], ["5.6"]),
    ("F|neq: abc", ["x", None], ["abc", "ABC"]),
    ("F|contains|neq: [a, b]", ["x", None], ["a", "xbx"]),
    ("F|fieldref: G", ["ref", "REF"], ["refx", None]),
    ("F|fieldref|startswith: G", ["refx"], ["xref"]),
    ("F|fieldref|endswith: G", ["xref"], ["refx"]),
    ("F|fieldref|contains: G", ["xrefx"], ["re"]),
    ("F|fieldref: H", [], ["ref", None]),
    ("F|hour: 13", ["2024-05-06T13:59:59Z", 1715000400, 1715000400000], ["2024-05-06T12:00:00", "x", None]),
    ("F|minute|gte: 30", ["2024-05-06T13:30:00+00:00"], ["2024-05-06T13:29:00"]),
    ("F|week: 19", ["2024-05-06"], ["2024-05-05"]),
    ("F|day|lt: 7", ["2024-05-06"], ["2024-05-07"]),
    ("F|month: 5", ["2024-05-06"], ["2024-06-06"]),
    ("F|year: 2024", ["2024-05-06"], ["2025-05-06"]),
]


@pytest.mark.parametrize(("test", "fitting", "others"), CASES, ids=[case[0] for case in CASES])
def test_a_value_is_judged_as_sigma_says(
    make_engine: MakeEngine,
    make_event: MakeEvent,
    make_view: MakeView,
    test: str,
    fitting: list[Any],
    others: list[Any],
) -> None:
    engine = make_engine(f"selection:\n  {test}\ncondition: selection")
    for value in fitting:
        assert engine.judge(make_event(make_view(F=value, G="ref"))), value
    for value in others:
        assert not engine.judge(make_event(make_view(F=value, G="ref"))), value
    # Of several values any may match; one that is absent is as one that is null.
    if fitting and others and not any(word in test for word in ("neq", "null", "exists")):
        assert engine.judge(make_event(make_view(F=(*others, fitting[0]), G="ref")))
    absent = bool(engine.judge(make_event(make_view(G="ref"))))
    assert absent is (None in fitting)


SHAPES: list[tuple[str, dict[str, Any], bool]] = [
    ("a: {F: x, G: y}\ncondition: a", {"F": "x", "G": "y"}, True),
    ("a: {F: x, G: y}\ncondition: a", {"F": "x", "G": "z"}, False),
    ("a: [{F: x}, {G: y}]\ncondition: a", {"F": "n", "G": "y"}, True),
    ("a: [{F: x, G: n}, {G: y, F: n}]\ncondition: a", {"F": "x", "G": "y"}, False),
    ("a: {F: x}\nb: {G: y}\ncondition: a and not b", {"F": "x", "G": "n"}, True),
    ("a: {F: x}\nb: {G: y}\ncondition: a and not b", {"F": "x", "G": "y"}, False),
    # `not` binds before `and`, and `and` before `or`
    ("a: {F: x}\nb: {G: y}\nc: {H: z}\ncondition: a or b and c", {"F": "x"}, True),
    ("a: {F: x}\nb: {G: y}\nc: {H: z}\ncondition: (a or b) and c", {"F": "x"}, False),
    ("a: {F: x}\nb: {G: y}\ncondition: not a and b", {"G": "y"}, True),
    ("a: {F: x}\nb: {G: y}\ncondition: not (a and b)", {"F": "x"}, True),
    ("sel_1: {F: x}\nsel_2: {G: y}\ncondition: 1 of sel_*", {"G": "y"}, True),
    ("sel_1: {F: x}\nsel_2: {G: y}\ncondition: all of sel_*", {"G": "y"}, False),
    ("sel_1: {F: x}\nsel_2: {G: y}\ncondition: all of them", {"F": "x", "G": "y"}, True),
    ("sel: {F: x}\n_no: {G: y}\ncondition: 1 of them", {"G": "y"}, False),
    ("sel: {F: x}\nfilter_a: {G: y}\nfilter_b: {H: z}\ncondition: sel and not 1 of filter_*", {"F": "x"}, True),
    ("sel: {F: x}\nfilter_a: {G: y}\ncondition: sel and not 1 of filter_*", {"F": "x", "G": "y"}, False),
    ("a: {F: x}\nb: {G: y}\ncondition: [a, b]", {"G": "y"}, True),
    ("a: [one, two]\ncondition: a", {"F": "it is TWO"}, True),
    ("a: [one, two]\ncondition: a", {"F": "three"}, False),
    ("a: ['o*e']\ncondition: a", {"F": "xoxex"}, True),
    ("a: {'|all': [one, two]}\ncondition: a", {"F": "one", "G": "two"}, True),
    ("a: {'|all': [one, two]}\ncondition: a", {"F": "one"}, False),
    ("a: {'|re': 'o.e'}\ncondition: a", {"F": "xone"}, True),
    ("a: 6\ncondition: a", {"F": "run 6 now"}, True),
    ("a: 6\ncondition: a", {"F": "run 16 now"}, False),
]


@pytest.mark.parametrize(("detection", "fields", "expected"), SHAPES)
def test_selections_and_conditions(
    make_engine: MakeEngine,
    make_event: MakeEvent,
    make_view: MakeView,
    detection: str,
    fields: dict[str, Any],
    *,
    expected: bool,
) -> None:
    assert bool(make_engine(detection).judge(make_event(make_view(**fields)))) is expected


def fits(pattern: tuple[str | int, ...], text: str) -> bool:
    """The textbook definition, exponential and obvious."""
    if not pattern:
        return not text
    first, rest = pattern[0], pattern[1:]
    if first == MANY:
        return any(fits(rest, text[at:]) for at in range(len(text) + 1))
    if first == ONE:
        return bool(text) and fits(rest, text[1:])
    assert isinstance(first, str)
    return text.startswith(first) and fits(rest, text[len(first) :])


ALPHABET = st.sampled_from(["a", "b", "B", ".", "\n", "\udc80", "\u0130"])
PATTERNS = st.lists(st.one_of(st.just(MANY), st.just(ONE), st.text(ALPHABET, min_size=1, max_size=3)), max_size=7)


@given(PATTERNS.map(tuple), st.text(ALPHABET, max_size=9), st.sampled_from([True, False]))
def test_wildcards_mean_what_the_textbook_says(pattern: tuple[str | int, ...], text: str, cased: bool) -> None:  # noqa: FBT001 - drawn, not called
    if cased:
        assert text_matcher(Text(pattern, cased=True))(text) is fits(pattern, text)
    else:
        folded = tuple(part.casefold() if isinstance(part, str) else part for part in pattern)
        assert text_matcher(Text(pattern))(text.casefold()) is fits(folded, text.casefold())


@given(PATTERNS.map(tuple), st.text(ALPHABET, max_size=9))
def test_a_keyword_may_stand_anywhere(pattern: tuple[str | int, ...], text: str) -> None:
    assert text_matcher(Text(pattern, cased=True), anywhere=True)(text) is fits((MANY, *pattern, MANY), text)


def test_many_wildcards_on_a_long_value_end() -> None:
    matches = text_matcher(Text((MANY, *(part for _ in range(20) for part in ("a", MANY)), "b")))
    assert not matches("a" * 200_000)


@given(st.text(st.one_of(st.characters(), st.sampled_from(["\ud800", "\udcff", "a"]))))
def test_a_regex_takes_any_text(text: str) -> None:
    assert pattern_matcher("(?s)^.*$")(text)
    assert pattern_matcher("a")(text) is ("a" in re.sub("[\ud800-\udfff]", "", text) + _escapes(text))


def _escapes(text: str) -> str:
    """Letters that come in where a lone surrogate, which UTF-8 cannot hold, is written as an escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def test_a_lone_surrogate_is_matched_as_its_escape() -> None:
    assert pattern_matcher(r"^/tmp/\\udc80x$")("/tmp/\udc80x")


@pytest.mark.parametrize("pattern", ["(?=x)", r"(a)\1", "(?<!a)b", "(", "a{2000}"])
def test_what_re2_refuses_says_why(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"RE2 refuses the pattern: .+"):
        pattern_matcher(pattern)


@given(
    st.one_of(st.text(max_size=30), st.integers(), st.floats(), st.none()), st.sampled_from(["hour", "week", "year"])
)
def test_times_and_numbers_take_anything(value: str | float | None, part: str) -> None:
    time_part(value, part)
    to_number(value)
