"""Every modifier that pySigma knows is taken; how values match is tested with the closures (test_compile)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sigma.exceptions import SigmaError
from sigma.modifiers import modifier_mapping

from watchdogd.match import syntax
from watchdogd.match.flatten import UnusableError, flatten_pair
from watchdogd.match.placeholders import Placeholders

if TYPE_CHECKING:
    from tests.match.conftest import MakeEngine, MakeEvent, MakeView

# Modifier: a rule's line with it, a value of F that matches, one that does not. G is `ref`.
EXAMPLES: dict[str, tuple[str, object, object]] = {
    "all": ("F|contains|all: [a, b]", "ba", "a"),
    "neq": ("F|neq: a", "b", "a"),
    "base64": ("F|base64: foo", "Zm9v", "foo"),
    "base64offset": ("F|base64offset|contains: attack", "xhdHRhY2x", "attack"),
    "cased": ("F|cased: Ab", "Ab", "ab"),
    "cidr": ("F|cidr: 10.0.0.0/8", "10.1.2.3", "11.1.2.3"),
    "contains": ("F|contains: b", "abc", "ac"),
    "day": ("F|day: 6", "2024-05-06", "2024-05-07"),
    "dotall": ("F|re|dotall: 'a.c'", "a\nc", "ac"),
    "endswith": ("F|endswith: b", "ab", "ba"),
    "exists": ("F|exists: true", "x", None),
    "expand": ("F|expand: '%admins%'", "root", "bob"),
    "fieldref": ("F|fieldref: G", "ref", "x"),
    "gt": ("F|gt: 5", 6, 5),
    "gte": ("F|gte: 5", 5, 4),
    "hour": ("F|hour: 13", "2024-05-06T13:59:59Z", "2024-05-06T14:00:00Z"),
    "i": ("F|re|i: '^B$'", "b", "c"),
    "ignorecase": ("F|re|ignorecase: '^B$'", "b", "c"),
    "lt": ("F|lt: 5", 4, 5),
    "lte": ("F|lte: 5", 5, 6),
    "m": ("F|re|m: '^b$'", "a\nb", "ab"),
    "minute": ("F|minute|gte: 30", "2024-05-06T13:30:00Z", "2024-05-06T13:29:00Z"),
    "month": ("F|month: 5", "2024-05-06", "2024-06-06"),
    "multiline": ("F|re|multiline: '^b$'", "a\nb", "ab"),
    "re": ("F|re: 'a.c'", "xabcx", "ac"),
    "s": ("F|re|s: 'a.c'", "a\nc", "ac"),
    "startswith": ("F|startswith: a", "ab", "ba"),
    "utf16": ("F|utf16|base64offset|contains: ping", "//5wAGkAbgBnA", "ping"),
    "utf16be": ("F|utf16be|base64: ab", "AGEAYg==", "YWI="),
    "week": ("F|week: 19", "2024-05-06", "2024-05-05"),
    "wide": ("F|wide|base64offset|contains: ping", "cABpAG4AZw", "cGluZw"),
    "windash": ("F|windash|contains: '-enc'", "x /enc", "enc"),
    "year": ("F|year: 2024", "2024-05-06", "2025-05-06"),
}


def test_every_modifier_has_an_example() -> None:
    assert EXAMPLES.keys() == modifier_mapping.keys()


@pytest.mark.parametrize("modifier", EXAMPLES)
def test_every_modifier_is_taken(
    make_engine: MakeEngine, make_event: MakeEvent, make_view: MakeView, modifier: str
) -> None:
    line, match, other = EXAMPLES[modifier]
    if modifier == "expand":  # needs a file of values, which make_engine has none of
        values = Placeholders("values.yaml", "", {"admins": ("root", "adm")})
        test = flatten_pair("F|expand", "%admins%", values)
        assert test.values == (syntax.AnyOf((syntax.Text(("root",)), syntax.Text(("adm",)))),)
        return
    engine = make_engine(f"sel:\n  {line}\ncondition: sel")
    assert engine.judge(make_event(make_view(F=match, G="ref")))
    assert not engine.judge(make_event(make_view(F=other, G="ref")))


CASED = [
    ("F|cased|windash", "-A"),
    ("F|windash|cased", "-A"),
    ("F|cased|base64offset", "A"),
    ("F|startswith|cased", "A"),
    ("F|cased|expand", "%admins%"),
]


@pytest.mark.parametrize(("key", "value"), CASED)
def test_cased_holds_wherever_it_stands(key: str, value: str) -> None:
    (found,) = flatten_pair(key, value, Placeholders("f", "", {"admins": ("Root", "Adm")})).values
    texts = found.values if isinstance(found, syntax.AnyOf) else (found,)
    assert all(isinstance(text, syntax.Text) and text.cased for text in texts)


VALUES = ["abc", "a*c", "-x", "10.0.0.0/8", "%p%", 5, 2.5, True, None, ["a", 5], [], "", "a|b", "ünï"]


@pytest.mark.parametrize("first", modifier_mapping)
def test_any_pair_of_modifiers_is_taken_or_refused_with_a_reason(first: str) -> None:
    """What breaks pySigma itself would be told as a Python error, not as a mistake."""
    placeholders = Placeholders("f", "", {"p": ("a", "b*")})
    refusals = set()
    for second in modifier_mapping:
        for field in ("F", ""):
            for value in VALUES:
                try:
                    test = flatten_pair(f"{field}|{first}|{second}", value, placeholders)
                except (SigmaError, UnusableError) as error:
                    refusals.add(str(error))
                else:
                    assert test.field == (field or None)
    assert "" not in refusals
