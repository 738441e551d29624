"""Sigma's correlations: rules over what other rules match. Runs in the reader process.

Source of the format: Sigma's correlation rules specification 2.1; whole conditions (`a and not b`) as pySigma 2 reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyparsing import ParseException
from sigma import exceptions as se
from sigma.correlations import (
    CorrelationConditionAND,
    CorrelationConditionNOT,
    SigmaCorrelationTimespan,
    SigmaExtendedCorrelationCondition,
    SigmaRuleReference,
)

from watchdogd.match import syntax
from watchdogd.match.flatten import MAX_NUMBER
from watchdogd.match.header import one_of, read_name, suggest
from watchdogd.match.read_filter import read_references
from watchdogd.match.windows import ENTRIES_LIMIT

if TYPE_CHECKING:
    from watchdogd.entities import Rule
    from watchdogd.match.header import Report

_KINDS = (
    "event_count",
    "value_count",
    "temporal",
    "temporal_ordered",
    "value_sum",
    "value_avg",
    "value_percentile",
    "value_median",
)
_TEMPORAL = ("temporal", "temporal_ordered")
_OPERATORS = ("lt", "lte", "gt", "gte", "eq", "neq")
_KEYS = ("type", "rules", "group-by", "timespan", "condition", "aliases", "generate")
_RULES_HINT = "ids or names of the rules to count"
_EXPRESSION_HINT = "names of rules joined by and, or, not in lower case; a rule's `name`, as an id cannot stand here"
_MAX_PERCENTILE = 100
_LONGEST_S = 366 * 86400


class CorrelationReader:
    """Reads the map `correlation` of a document."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._data: dict[Any, Any] = report.document.data["correlation"]

    def read(self, rule: Rule | None, extras: syntax.Extras) -> syntax.CorrelationBody | None:
        """None where there is a mistake in it (reported), or in its head."""
        before = len(self._report.problems)
        for key in self._data:
            if key not in _KEYS:
                near = suggest(str(key).replace("_", "-"), _KEYS)
                self._add(key, message=f"unknown key {key!r}", hint=near or one_of(_KEYS))
        kind, timespan_s = self._read_kind(), self._read_timespan()
        expression, rules = self._read_expression(kind), self._read_rules(kind)
        bounds, fields, percentile = self._read_bounds(kind)
        group_by, aliases, generate = self._read_fields("group-by"), self._read_aliases(), self._read_generate()
        if rule is None or len(self._report.problems) > before:
            return None
        return syntax.CorrelationBody(
            rule=rule,
            place=self._report.document.place("id"),
            kind=kind,
            rules=rules,
            group_by=group_by,
            timespan_s=timespan_s,
            bounds=bounds,
            fields=fields,
            percentile=percentile,
            expression=expression,
            aliases=aliases,
            generate=generate,
            extras=extras,
            name=read_name(self._report.document.data),
        )

    def _add(self, *keys: str | int, message: str, hint: str = "") -> None:
        self._report.add(("correlation", *keys), message, hint)

    def _read_kind(self) -> str:
        kind = self._data.get("type")
        if isinstance(kind, str) and kind.lower() in _KINDS:
            return kind.lower()
        if kind is None:
            self._add(message="the correlation has no type", hint=one_of(_KINDS))
        else:
            self._add("type", message=f"unknown type {kind!r}", hint=suggest(kind, _KINDS) or one_of(_KINDS))
        return ""

    def _read_timespan(self) -> int:
        value = self._data.get("timespan")
        hint = "a number and one of s, m, h, d, w, M (months), y: such as 10m"
        if value is None:
            self._add(message="the correlation has no timespan", hint=hint)
            return 0
        try:
            seconds = SigmaCorrelationTimespan(value).seconds
        except se.SigmaTimespanError:
            self._add("timespan", message=f"not a timespan: {value!r}", hint=hint)
            return 0
        if seconds > _LONGEST_S:
            self._add("timespan", message=f"{value} is longer than anything is remembered here", hint="at most a year")
        return seconds

    def _read_rules(self, kind: str) -> tuple[syntax.Reference, ...]:
        value = self._data.get("rules")
        if value:
            return read_references(value, ("correlation", "rules"), _RULES_HINT, self._report)
        text = self._data.get("condition")
        if kind in _TEMPORAL and isinstance(text, str):
            try:
                names = SigmaExtendedCorrelationCondition(text).get_referenced_rules()
            except (se.SigmaError, ParseException):
                return ()
            where = self._report.document.place_value("correlation", "condition")
            return tuple(syntax.Reference(name, self._report.point_at(where, name)) for name in names)
        self._add("rules", message="the correlation names no rules", hint=_RULES_HINT)
        return ()

    def _read_expression(self, kind: str) -> syntax.Condition | None:
        text = self._data.get("condition")
        if not isinstance(text, str):
            return None
        where = self._report.document.place_value("correlation", "condition")
        if kind and kind not in _TEMPORAL:
            hint = "such as `condition: {gte: 10}`; names of rules are for temporal and temporal_ordered"
            self._report.add_at(where, f"the condition of {kind} must be a number, not text", hint)
            return None
        try:
            parsed = SigmaExtendedCorrelationCondition(text)
        except se.SigmaError as error:
            message = str(error).partition("expression: ")[2].split(" (at char")[0].split(", found")[0].lower()
            self._report.add_at(where, f"the condition cannot be read: {message}", _EXPRESSION_HINT)
            return None
        self._compare_names(parsed.get_referenced_rules())
        return _flatten(parsed.parsed)

    def _compare_names(self, used: list[str]) -> None:
        """The condition and `rules` must name the same rules."""
        value = self._data.get("rules")
        rules = [value] if isinstance(value, str) else value
        if not rules or not isinstance(rules, list):
            return
        where = self._report.document.place_value("correlation", "condition")
        known = [rule for rule in rules if isinstance(rule, str)]
        for name in used:
            if name not in known:
                place = self._report.point_at(where, name)
                hint = suggest(name, known) or "add it to `rules`"
                self._report.add_at(place, f"the condition names {name!r}, which is not among the rules", hint)
        for number, name in enumerate(rules):
            if isinstance(name, str) and name not in used:
                keys = ("rules", number) if isinstance(value, list) else ("rules",)
                self._add(*keys, message=f"the condition leaves {name!r} out", hint=_EXPRESSION_HINT)

    def _read_bounds(self, kind: str) -> tuple[tuple[syntax.Bound, ...], tuple[str, ...], float | None]:
        value = self._data.get("condition")
        if isinstance(value, str):
            return (), (), None
        if value is None:
            if kind and kind not in _TEMPORAL:
                self._add(message="the correlation has no condition", hint="such as `condition: {gte: 10}`")
            return (), (), None
        if not isinstance(value, dict):
            self._add("condition", message=f"not a condition: {value!r}", hint="such as `condition: {gte: 10}`")
            return (), (), None
        bounds = [self._read_bound(key, value[key]) for key in value if key not in ("field", "percentile")]
        if not bounds:
            self._add("condition", message="the condition compares with nothing", hint=one_of(_OPERATORS))
        found = tuple(bound for bound in bounds if bound is not None)
        if kind in {"event_count", "value_count"}:
            for bound in found:
                if bound.number >= ENTRIES_LIMIT:
                    hint = "count less of it: a narrower rule, or a shorter timespan"
                    message = f"no window holds so many: {ENTRIES_LIMIT - 1} can be told apart"
                    self._add("condition", bound.operator, message=message, hint=hint)
        return found, self._read_value_fields(kind, value), self._read_percentile(kind, value)

    def _read_bound(self, key: object, number: object) -> syntax.Bound | None:
        if not isinstance(key, str) or key not in _OPERATORS:
            known = (*_OPERATORS, "field", "percentile")
            self._add("condition", str(key), message=f"unknown key {key!r}", hint=suggest(key, known) or one_of(known))
            return None
        if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= MAX_NUMBER:
            self._add("condition", key, message=f"not a number: {number!r}")
            return None
        return syntax.Bound(key, number)

    def _read_value_fields(self, kind: str, condition: dict[Any, Any]) -> tuple[str, ...]:
        if not kind.startswith("value_"):
            if kind and "field" in condition:
                hint = "value_count, value_sum and the like do: `group-by` divides into groups"
                self._add("condition", "field", message=f"{kind} looks at no field", hint=hint)
            return ()
        if "field" not in condition:
            self._add("condition", message=f"{kind} needs the field to look at", hint="`field:` beside the number")
            return ()
        fields = self._read_fields("condition", "field")
        if len(fields) > 1 and kind != "value_count":
            self._add("condition", "field", message=f"{kind} looks at one field", hint="value_count can take several")
        return fields

    def _read_percentile(self, kind: str, condition: dict[Any, Any]) -> float | None:
        value = condition.get("percentile")
        if kind != "value_percentile":
            if value is not None and kind:
                self._add("condition", "percentile", message=f"{kind} has no percentile", hint="value_percentile has")
            return None
        if value is None:
            self._add("condition", message="value_percentile needs its percentile", hint="such as `percentile: 95`")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_PERCENTILE:
            self._add("condition", "percentile", message=f"not a percentile: {value!r}", hint="a number from 0 to 100")
        else:
            return float(value)
        return None

    def _read_fields(self, *keys: str) -> tuple[str, ...]:
        value: Any = self._data
        for key in keys:
            value = value.get(key)
        if value is None:
            return ()
        names = value if isinstance(value, list) else [value]
        if all(isinstance(name, str) and name for name in names) and len(set(names)) == len(names):
            return tuple(names)
        self._add(*keys, message=f"not a field name or a list of different ones: {value!r}")
        return ()

    def _read_aliases(self) -> tuple[syntax.Alias, ...]:
        value = self._data.get("aliases")
        hint = "`name: {rule: Field, other_rule: OtherField}`"
        if value is None:
            return ()
        if not isinstance(value, dict):
            self._add("aliases", message="not a map", hint=hint)
            return ()
        aliases = []
        for name, fields in value.items():
            is_usable = isinstance(name, str) and isinstance(fields, dict) and fields
            if not is_usable or not all(isinstance(part, str) and part for pair in fields.items() for part in pair):
                self._add("aliases", name, message=f"{name!r} is not the fields of rules", hint=hint)
                continue
            keys = ("correlation", "aliases", name)
            named = [
                (syntax.Reference(to, self._report.document.place(*keys, to)), field) for to, field in fields.items()
            ]
            aliases.append(syntax.Alias(name, tuple(named)))
        return tuple(aliases)

    def _read_generate(self) -> bool:
        value = self._data.get("generate", False)
        if not isinstance(value, bool):
            self._add("generate", message=f"not true or false: {value!r}")
        return value is True


def read_correlation(report: Report, rule: Rule | None, extras: syntax.Extras) -> syntax.CorrelationBody | None:
    """None where it cannot be used (reported)."""
    data = report.document.data
    for key in ("detection", "filter"):
        if key in data:
            report.add((key,), f"a correlation has no {key} of its own", "write a document of its own, behind a `---`")
    if not isinstance(data["correlation"], dict):
        report.add(("correlation",), "not a map", one_of(_KEYS))
        return None
    return CorrelationReader(report).read(rule, extras)


def _flatten(tree: Any) -> syntax.Condition:  # noqa: ANN401 - pySigma's parse tree
    if isinstance(tree, SigmaRuleReference):
        return syntax.Named(tree.reference)
    items = tuple(_flatten(item) for item in tree.args)
    if isinstance(tree, CorrelationConditionNOT):
        return syntax.Not(items[0])
    return syntax.Junction(items, every=isinstance(tree, CorrelationConditionAND))
