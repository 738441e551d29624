"""pySigma's parsed objects as plain data. Runs in the reader process only: pySigma's memory stays there."""

from __future__ import annotations

import difflib
import itertools
import math
import re
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from pyparsing import ParseResults
from sigma import conditions as sc
from sigma import types as st
from sigma.rule.detection import SigmaDetectionItem

from watchdogd.match import syntax

if TYPE_CHECKING:
    from collections.abc import Iterator

    from watchdogd.match.placeholders import Placeholders

_PLACEHOLDER = re.compile(r"%([^%\\]+)%")
_NEEDS_FIELD = (syntax.Compare, syntax.TimePart, syntax.OtherField)
_Number = TypeVar("_Number", int, float)
MAX_NUMBER = 2**63 - 1
"""Larger whole numbers have no place between the processes."""
_MAX_EXPANSIONS = 10_000

_OPERATORS = {
    st.CompareOperators.LT: "lt",
    st.CompareOperators.LTE: "lte",
    st.CompareOperators.GT: "gt",
    st.CompareOperators.GTE: "gte",
}
_WILDCARDS = {st.SpecialChars.WILDCARD_MULTI: syntax.MANY, st.SpecialChars.WILDCARD_SINGLE: syntax.ONE}


class UnusableError(Exception):
    """A value that pySigma parses and this version cannot match."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def flatten_pair(key: str | None, value: Any, placeholders: Placeholders) -> syntax.Test:  # noqa: ANN401 - YAML
    """One field, its modifiers and its value or values. Raises UnusableError and SigmaError."""
    field, *modifiers = (key or "").split("|")
    values = value if isinstance(value, list) else [value]
    if "re" in modifiers and not all(isinstance(one, str) for one in values):
        raise UnusableError("`re` takes text", "quote the pattern")
    if "expand" not in modifiers:
        test = flatten_item(SigmaDetectionItem.from_mapping(key, value))
    elif not values:
        raise UnusableError("`expand` without a placeholder", "such as %admins%; its values come from a file")
    else:
        plain = "|".join([field, *(modifier for modifier in modifiers if modifier != "expand")])
        tests = [
            flatten_item(
                SigmaDetectionItem.from_mapping(plain, _expand(one, placeholders, is_pattern="re" in modifiers))
            )
            for one in values
        ]
        several = tuple(test.values[0] if len(test.values) == 1 else syntax.AnyOf(test.values) for test in tests)
        test = msgspec.structs.replace(tests[0], values=several)
    return _respect_case(test) if "cased" in modifiers else test


def _expand(value: Any, placeholders: Placeholders, *, is_pattern: bool) -> list[Any]:  # noqa: ANN401 - YAML
    """All texts that a text with placeholders stands for; a placeholder alone keeps its values' types."""
    if not isinstance(value, str):
        return [value]
    parts = _PLACEHOLDER.split(value)
    if len(parts) == 1:
        raise UnusableError("`expand` without a placeholder", "such as %admins%; its values come from a file")
    choices: list[tuple[Any, ...]] = [
        _find_values(part, placeholders) if place % 2 else (part,) for place, part in enumerate(parts)
    ]
    if math.prod(len(choice) for choice in choices) > _MAX_EXPANSIONS:
        raise UnusableError(f"the placeholders stand for more than {_MAX_EXPANSIONS} values together")
    if parts[0] == parts[-1] == "" and len(parts) == 3 and not is_pattern:  # noqa: PLR2004 - "", the name, ""
        return list(choices[1])
    return ["".join(str(text) for text in texts) for texts in itertools.product(*choices)]


def _find_values(name: str, placeholders: Placeholders) -> tuple[Any, ...]:
    found = placeholders.values.get(name)
    if found:
        return found
    if name in placeholders.values:
        raise UnusableError(f"the placeholder %{name}% has no values: its list in {placeholders.path} is empty")
    if placeholders.path:
        near = difflib.get_close_matches(name, placeholders.values, n=1)
        hint = f"did you mean %{near[0]}%?" if near else f"add `{name}: [...]` there"
        raise UnusableError(f"the placeholder %{name}% has no values in {placeholders.path}", hint)
    hint = "write the values out, or name a file of placeholders in the configuration (`rules.placeholders`)"
    raise UnusableError(f"the placeholder %{name}% has no values", hint)


def _respect_case(test: syntax.Test) -> syntax.Test:
    """Make `cased` hold for whatever other modifiers made of a text, in any order."""

    def respect(value: syntax.Value) -> syntax.Value:
        match value:
            case syntax.Text():
                return msgspec.structs.replace(value, cased=True)
            case syntax.AnyOf():
                return syntax.AnyOf(tuple(respect(inner) for inner in value.values))
            case syntax.OtherField():
                raise UnusableError("`cased` has no meaning beside `fieldref`", "fields compare without regard to case")
        return value

    return msgspec.structs.replace(test, values=tuple(respect(value) for value in test.values))


def flatten_item(item: Any) -> syntax.Test:  # noqa: ANN401 - pySigma's own type, known to the reader only
    """One SigmaDetectionItem, modifiers applied. Raises UnusableError."""
    values = tuple(flatten_value(value) for value in item.value) or (syntax.Null(),)
    if item.field is None and any(isinstance(value, (syntax.Null, syntax.Exists)) for value in values):
        raise UnusableError("a keyword without text", "give the field whose value is to be absent")
    if item.field is None and any(isinstance(value, _NEEDS_FIELD) for value in _spread(values)):
        raise UnusableError("a keyword has no value to compare", "give the field: `Field|gt: 5`")
    every = item.value_linking is sc.ConditionAND
    return syntax.Test(field=item.field, values=values, every=every, negated=bool(item.negated))


def _spread(values: tuple[syntax.Value, ...]) -> Iterator[syntax.Value]:
    for value in values:
        if isinstance(value, syntax.AnyOf):
            yield from _spread(value.values)
        else:
            yield value


def flatten_value(value: Any) -> syntax.Value:  # noqa: ANN401, C901, PLR0911 - one line for each type that Sigma has
    """One SigmaType. Raises UnusableError for what has no meaning here, placeholders above all."""
    match value:
        case st.SigmaExpansion():
            return syntax.AnyOf(tuple(flatten_value(inner) for inner in value.values))
        case st.SigmaString():
            return syntax.Text(_flatten_parts(value), cased=isinstance(value, st.SigmaCasedString))
        case st.SigmaTimestampPart():
            return syntax.TimePart(value.timestamp_part.name.lower(), _check_number(int(value.number)))
        case st.SigmaNumber():
            return syntax.Number(_check_number(value.number))
        case st.SigmaBool():
            return syntax.Truth(value.boolean)
        case st.SigmaNull():
            return syntax.Null()
        case st.SigmaExists():
            return syntax.Exists(value.exists)
        case st.SigmaRegularExpression():
            return syntax.Pattern(value.escape(escape_escape_char=False))
        case st.SigmaCIDRExpression():
            return syntax.Network(str(value.network))
        case st.SigmaCompareExpression():
            part = value.number.timestamp_part.name.lower() if isinstance(value.number, st.SigmaTimestampPart) else None
            return syntax.Compare(_OPERATORS[value.op], _check_number(value.number.number), part)
        case st.SigmaFieldReference():
            return syntax.OtherField(value.field, start=value.starts_with, end=value.ends_with)
    raise UnusableError(f"a value of a kind that cannot be matched here ({type(value).__name__})")


def _check_number(number: _Number) -> _Number:
    if isinstance(number, int) and not -MAX_NUMBER <= number <= MAX_NUMBER:
        raise UnusableError("a number of more than 64 bits", "no field holds one: quote it if it is text")
    return number


def _flatten_parts(text: Any) -> tuple[str | int, ...]:  # noqa: ANN401 - SigmaString
    parts: list[str | int] = []
    for part in text.s:
        if isinstance(part, st.SpecialChars):
            parts.append(_WILDCARDS[part])
        elif parts and isinstance(parts[-1], str):
            parts[-1] += part
        else:
            parts.append(part)
    return tuple(parts)


def flatten_condition(tree: Any, detections: Any) -> syntax.Condition:  # noqa: ANN401 - pySigma's parse tree
    """Turn a parse tree before pySigma's own post-processing, which would forget the detections' names, into data."""
    while isinstance(tree, ParseResults):
        tree = tree[0]
    if isinstance(tree, sc.ConditionIdentifier):
        return syntax.Named(tree.identifier)
    if isinstance(tree, sc.ConditionSelector):
        names = [item.identifier for item in tree.resolve_referenced_detections(detections)]
        if not names:
            raise UnusableError(f"no detection is called {tree.pattern!r}", "names that begin with '_' do not count")
        every = tree.cond_class is sc.ConditionAND
        return syntax.Junction(tuple(syntax.Named(name) for name in names), every=every)
    items = tuple(flatten_condition(item, detections) for item in tree.args)
    if isinstance(tree, sc.ConditionNOT):
        return syntax.Not(items[0])
    return syntax.Junction(items, every=isinstance(tree, sc.ConditionAND))
