"""Selections and conditions of rules and filters, each mistake at its place. Runs in the reader process."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sigma import exceptions as se
from sigma.conditions import ConditionIdentifier, ConditionItem, ConditionSelector, SigmaCondition
from sigma.modifiers import modifier_mapping, reverse_modifier_mapping

from watchdogd.match import syntax
from watchdogd.match.flatten import UnusableError, flatten_condition, flatten_pair
from watchdogd.match.header import suggest

if TYPE_CHECKING:
    from collections.abc import Collection

    from watchdogd.errors import Place
    from watchdogd.match.header import Report
    from watchdogd.match.placeholders import Placeholders

_STAR_HINT = "in a pattern `*` repeats what stands before it: `.*` is any text; without `re`, `*` is a wildcard"
_RE2_HINT = "patterns run on RE2, in linear time: it has no lookaround and no backreferences"
_INCOMPATIBLE = re.compile(r"Modifier (\w+) incompatible to value type of '(.*)'", re.DOTALL)
_TAKES = {
    **dict.fromkeys(("gt", "gte", "lt", "lte"), "it takes a number, without quotes"),
    **dict.fromkeys(("minute", "hour", "day", "week", "month", "year"), "it takes a whole number, and stands first"),
    **dict.fromkeys(("i", "ignorecase", "m", "multiline", "s", "dotall"), "it stands behind `re`"),
    "exists": "it takes true or false",
}


class DetectionReader:
    """Reads the map `key` of a document: its selections by name, and its condition."""

    def __init__(self, report: Report, placeholders: Placeholders, key: str, also: Collection[str] = ()) -> None:
        """`also` are keys of the map that are no selections."""
        self._report = report
        self._placeholders = placeholders
        self._key = key
        self._also = frozenset(("condition", *also))

    def read(self) -> tuple[dict[str, syntax.Detection], syntax.Condition] | None:
        """None where there is a mistake in it (reported)."""
        definition = self._report.document.data.get(self._key)
        if not isinstance(definition, dict):
            what = "the rule has no detection" if self._key == "detection" else f"`{self._key}` is not a map"
            self._report.add((self._key,), what, "a map of named selections and a condition")
            return None
        before = len(self._report.problems)
        detections: dict[str, syntax.Detection | None] = {}
        for name, value in definition.items():
            if not isinstance(name, str):
                self._report.add((self._key, name), f"YAML reads this name as {name!r}", "quote it")
            elif name not in self._also:
                detections[name] = self._read_selection(value, (self._key, name))
        conditions = self._read_conditions(definition.get("condition"), list(detections))
        if len(self._report.problems) > before or not conditions:
            return None
        condition = conditions[0] if len(conditions) == 1 else syntax.Junction(tuple(conditions), every=False)
        return {name: found for name, found in detections.items() if found is not None}, condition

    def _read_selection(self, value: Any, keys: tuple[str | int, ...]) -> syntax.Detection | None:  # noqa: ANN401
        """Sigma's shapes: a map is `and`, a list of maps is `or`, plain values are keywords."""
        if isinstance(value, dict | list) and not value:
            self._report.add(keys, "an empty selection")
            return None
        if isinstance(value, dict):
            tests = [self._read_test(key, inner, (*keys, key)) for key, inner in value.items()]
            return syntax.Group(tuple(test for test in tests if test is not None), every=True)
        if isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
            groups = [self._read_selection(inner, (*keys, place)) for place, inner in enumerate(value)]
            return syntax.Group(tuple(group for group in groups if group is not None), every=False)
        return self._read_test(None, value, keys)

    def _read_test(
        self,
        key: Any,  # noqa: ANN401 - whatever the file holds
        value: Any,  # noqa: ANN401
        keys: tuple[str | int, ...],
    ) -> syntax.Test | None:
        if key is not None and not isinstance(key, str):
            self._report.add(keys, f"not a field name: {key!r}", "quote it")
            return None
        try:
            return flatten_pair(key, value, self._placeholders)
        except (se.SigmaError, UnusableError) as error:
            self._explain_test(error, key, value, keys)
            return None

    def _explain_test(self, error: Exception, key: str | None, value: object, keys: tuple[str | int, ...]) -> None:
        message, hint = _explain(error)
        if isinstance(error, se.SigmaModifierError) and "Unknown modifier" in message:
            word = message.split("'")[1]
            place = self._report.document.place(*keys[: keys.index(key or "") + 1])
            message, hint = f"unknown modifier {word!r}", suggest(word, modifier_mapping)
            self._report.add_at(self._report.point_at(place, f"|{word}", skip=1), message, hint)
            return
        if isinstance(value, list):
            keys = (*keys, next((place for place, one in enumerate(value) if not self._is_usable(key, one)), 0))
        self._report.add(keys, message, hint)

    def _is_usable(self, key: str | None, value: object) -> bool:
        try:
            flatten_pair(key, value, self._placeholders)
        except (se.SigmaError, UnusableError):
            return False
        return True

    def _read_conditions(self, value: object, names: list[str]) -> list[syntax.Condition]:
        if value is None or value == []:
            self._report.add((self._key,), f"the {self._key} has no condition", "such as `condition: selection`")
            return []
        conditions = []
        for place, text in enumerate(value if isinstance(value, list) else [value]):
            keys: tuple[str | int, ...] = (self._key, "condition", place)
            where = self._report.document.place_value(*keys if isinstance(value, list) else keys[:2])
            if isinstance(text, str):
                conditions += self._read_condition(text, names, where)
            else:
                self._report.add_at(where, f"not a condition: {text!r}", "names joined by and, or, not")
        return conditions

    def _read_condition(self, text: str, names: list[str], where: Place) -> list[syntax.Condition]:
        detections: Any = SimpleNamespace(detections=dict.fromkeys(names), policy=None)
        try:
            tree = SigmaCondition(text, detections).parse(postprocess=False)
        except se.SigmaConditionError as error:
            message = str(error).split(" (at char")[0].split(", found")[0].lower()
            hint = "names joined by and, or, not in lower case; `1 of name*`, `all of them`"
            if "|" in text:
                message, hint = "the pipe is not part of Sigma 2", "use a correlation rule instead"
            self._report.add_at(where, f"the condition cannot be read: {message}", hint)
            return []
        unknown = [name for name in _find_names(tree) if name not in names]
        for name in unknown:
            hint = suggest(name, names) or f"there are: {', '.join(names)}"
            self._report.add_at(self._report.point_at(where, name), f"no detection is called {name!r}", hint)
        if unknown:
            return []
        try:
            return [flatten_condition(tree, detections)]
        except UnusableError as error:
            self._report.add_at(where, error.message, error.hint)
            return []


def _explain(error: Exception) -> tuple[str, str]:
    if isinstance(error, UnusableError):
        return error.message, error.hint
    if found := _INCOMPATIBLE.fullmatch(str(error)):
        modifier = reverse_modifier_mapping.get(found[1], found[1])
        return f"`{modifier}` cannot be applied to {found[2]!r}", _TAKES.get(modifier, "quote it if it is text")
    if isinstance(error, se.SigmaRegularExpressionError):
        is_wildcard = "no argument for repetition operator: *" in str(error)
        return str(error).replace("b'", "'"), _STAR_HINT if is_wildcard else _RE2_HINT
    if "Unsupported type" in str(error):
        kind = str(error).split("'")[1] if "'" in str(error) else "value"
        return f"a {kind} cannot be a value to match", "quote it if it is text"
    return str(error), ""


def _find_names(tree: Any) -> list[str]:  # noqa: ANN401 - pySigma's parse tree
    if isinstance(tree, ConditionIdentifier):
        return [tree.identifier]
    if isinstance(tree, ConditionSelector):
        return []
    items = tree.args if isinstance(tree, ConditionItem) else tree
    return [name for item in items for name in _find_names(item)]
