"""pySigma's parsed objects as plain data. Runs in the reader process only: pySigma's memory stays there."""

from __future__ import annotations

from typing import Any

from pyparsing import ParseResults
from sigma import conditions as sc
from sigma import types as st

from watchdogd.match import syntax

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


def flatten_item(item: Any) -> syntax.Test:  # noqa: ANN401 - pySigma's own type, known to the reader only
    """One SigmaDetectionItem, modifiers applied. Raises UnusableError."""
    values = tuple(flatten_value(value) for value in item.value) or (syntax.Null(),)
    if item.field is None and any(isinstance(value, (syntax.Null, syntax.Exists)) for value in values):
        raise UnusableError("a keyword without text", "give the field whose value is to be absent")
    every = item.value_linking is sc.ConditionAND
    return syntax.Test(field=item.field, values=values, every=every, negated=bool(item.negated))


def flatten_value(value: Any) -> syntax.Value:  # noqa: ANN401, C901, PLR0911 - one line for each type that Sigma has
    """One SigmaType. Raises UnusableError for what has no meaning here, placeholders above all."""
    match value:
        case st.SigmaExpansion():
            return syntax.AnyOf(tuple(flatten_value(inner) for inner in value.values))
        case st.SigmaString():
            return syntax.Text(_flatten_parts(value), cased=isinstance(value, st.SigmaCasedString))
        case st.SigmaTimestampPart():
            return syntax.TimePart(value.timestamp_part.name.lower(), int(value.number))
        case st.SigmaNumber():
            return syntax.Number(value.number)
        case st.SigmaBool():
            return syntax.Truth(value.boolean)
        case st.SigmaNull():
            return syntax.Null()
        case st.SigmaExists():
            return syntax.Exists(value.exists)
        case st.SigmaRegularExpression():
            _flatten_parts(value.regexp)
            return syntax.Pattern(value.escape(escape_escape_char=False))
        case st.SigmaCIDRExpression():
            return syntax.Network(str(value.network))
        case st.SigmaCompareExpression():
            part = value.number.timestamp_part.name.lower() if isinstance(value.number, st.SigmaTimestampPart) else None
            return syntax.Compare(_OPERATORS[value.op], value.number.number, part)
        case st.SigmaFieldReference():
            return syntax.OtherField(value.field, start=value.starts_with, end=value.ends_with)
    raise UnusableError(f"a value of a kind that cannot be matched here ({type(value).__name__})")


def _flatten_parts(text: Any) -> tuple[str | int, ...]:  # noqa: ANN401 - SigmaString
    parts: list[str | int] = []
    for part in text.s:
        if isinstance(part, st.Placeholder):
            raise UnusableError(
                f"the placeholder %{part.name}% has no values", "write the values out, or drop the expand modifier"
            )
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
