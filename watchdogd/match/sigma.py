"""Reads Sigma rule files with pySigma, in a process of its own that ends when it has answered.

pySigma takes about 17 MB and gives none of it back, so the daemon never imports it: `library.load_rules` starts this
module, and takes plain data (`syntax.Reading`, as msgpack) from its standard output. Nothing is downloaded: pySigma's
ATT&CK tables belong to its validators, which are not used.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
from sigma import exceptions as se
from sigma.conditions import ConditionIdentifier, ConditionItem, ConditionSelector, SigmaCondition
from sigma.correlations import SigmaCorrelationRule
from sigma.filters import SigmaFilter
from sigma.modifiers import modifier_mapping
from sigma.rule.detection import SigmaDetectionItem

from watchdogd.errors import Place, Problem, ProblemsError
from watchdogd.marks import load_documents, read_text
from watchdogd.match import syntax
from watchdogd.match.compile import compile_body
from watchdogd.match.files import find_rule_files, show_path
from watchdogd.match.flatten import UnusableError, flatten_condition, flatten_item
from watchdogd.match.header import Report, choose_view, read_extras, read_rule, suggest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watchdogd.marks import MarkedDocument

_RE2_HINT = "patterns run on RE2, in linear time: it has no lookaround and no backreferences"
_OTHER_KINDS: tuple[tuple[str, Any], ...] = (("correlation", SigmaCorrelationRule), ("filter", SigmaFilter))


def read_rules(folders: Sequence[Path]) -> syntax.Reading:
    """Read every rule of the folders, and report every mistake at once. Never raises for bad input."""
    files, problems = find_rule_files(folders)
    bodies: list[syntax.RuleBody] = []
    ids: dict[str, Place] = {}
    for path in files:
        try:
            text = read_text(path)
        except ProblemsError as error:
            problems += error.problems
            continue
        documents, found = load_documents(text, show_path(path))
        problems += found
        for document in documents:
            if document.data is not None:
                body, found = _read_document(document, text.splitlines(), ids)
                bodies += body
                problems += found
    if not bodies and not any(problem.severity == "error" for problem in problems):
        problems += [Problem(Place(show_path(folder)), "no rules in this folder") for folder in folders]
    return syntax.Reading(tuple(bodies), tuple(problems))


def _read_document(
    document: MarkedDocument, lines: list[str], ids: dict[str, Place]
) -> tuple[list[syntax.RuleBody], list[Problem]]:
    report = Report(document)
    try:
        body = _read_body(document, lines, ids, report)
        if body is not None:
            compile_body(body)
            msgspec.msgpack.encode(body)
    except Exception as error:  # noqa: BLE001 - whatever a file holds is a message to its author, never a crash
        report.add((), f"cannot be used as a rule: {type(error).__name__}: {error}"[:300])
        body = None
    return [] if body is None else [body], report.problems


def _read_body(
    document: MarkedDocument, lines: list[str], ids: dict[str, Place], report: Report
) -> syntax.RuleBody | None:
    if not isinstance(document.data, dict):
        report.add((), "not a Sigma rule: a map with title, logsource and detection is expected")
        return None
    if "action" in document.data:
        report.add(("action",), "`action` documents are not part of Sigma 2", "write each rule out in full")
        return None
    rule, extras = read_rule(document, report), read_extras(document, report)
    place = document.place("id")
    if rule is not None and (earlier := ids.setdefault(rule.id, place)) is not place:
        report.add_at(place, f"the id {rule.id} is used already, at {earlier}", "give each rule an id of its own")
    for key, kind in _OTHER_KINDS:
        if key in document.data:
            _check_other(document, key, kind, report)
            reason = f"{key} rules are not supported by this version"
            return None if rule is None else syntax.RuleBody(rule, place, "", {}, None, reason, extras)
    parsed = _read_detection(document, lines, report)
    if rule is None or parsed is None:
        return None
    view, reason = choose_view(rule)
    detections, condition = parsed if view else ({}, None)
    return syntax.RuleBody(rule, place, view, detections, condition, reason, extras)


def _check_other(document: MarkedDocument, key: str, kind: Any, report: Report) -> None:  # noqa: ANN401 - a class
    parsed = kind.from_dict(dict(document.data), collect_errors=True)
    for error in parsed.errors:
        if isinstance(error, (se.SigmaCorrelationRuleError, se.SigmaFilterError, se.SigmaDetectionError)):
            report.add((key,), str(error))


def _read_detection(
    document: MarkedDocument, lines: list[str], report: Report
) -> tuple[dict[str, syntax.Detection], syntax.Condition] | None:
    definition = document.data.get("detection")
    if not isinstance(definition, dict):
        report.add(("detection",), "the rule has no detection", "a map of named selections and a condition")
        return None
    before = len(report.problems)
    detections: dict[str, syntax.Detection | None] = {}
    for name, value in definition.items():
        if not isinstance(name, str):
            report.add(("detection", name), f"YAML reads this name as {name!r}", "quote it")
        elif name != "condition":
            detections[name] = _read_selection(value, ("detection", name), lines, report)
    conditions = _read_conditions(document, list(detections), lines, report)
    if len(report.problems) > before or not conditions:
        return None
    condition = conditions[0] if len(conditions) == 1 else syntax.Junction(tuple(conditions), every=False)
    return {name: found for name, found in detections.items() if found is not None}, condition


def _read_selection(
    value: Any,  # noqa: ANN401 - whatever the file holds
    keys: tuple[str | int, ...],
    lines: list[str],
    report: Report,
) -> syntax.Detection | None:
    """Sigma's shapes: a map is `and`, a list of maps is `or`, plain values are keywords."""
    if isinstance(value, dict | list) and not value:
        report.add(keys, "an empty selection")
        return None
    if isinstance(value, dict):
        tests = [_read_test(key, inner, (*keys, key), lines, report) for key, inner in value.items()]
        return syntax.Group(tuple(test for test in tests if test is not None), every=True)
    if isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        groups = [_read_selection(inner, (*keys, place), lines, report) for place, inner in enumerate(value)]
        return syntax.Group(tuple(group for group in groups if group is not None), every=False)
    return _read_test(None, value, keys, lines, report)


def _read_test(
    key: Any,  # noqa: ANN401 - whatever the file holds
    value: Any,  # noqa: ANN401
    keys: tuple[str | int, ...],
    lines: list[str],
    report: Report,
) -> syntax.Test | None:
    if key is not None and not isinstance(key, str):
        report.add(keys, f"not a field name: {key!r}", "quote it")
        return None
    try:
        return flatten_item(SigmaDetectionItem.from_mapping(key, value))
    except (se.SigmaError, UnusableError) as error:
        if isinstance(value, list):
            keys = (*keys, next((place for place, one in enumerate(value) if not _is_usable(key, one)), 0))
        message, hint = _explain(error)
        place = report.document.place(*keys)
        if isinstance(error, se.SigmaModifierError) and "Unknown modifier" in message:
            word = message.split("'")[1]
            message, hint = f"unknown modifier {word!r}", suggest(word, modifier_mapping)
            place = _point_at(report.document.place(*keys[: keys.index(key) + 1]), f"|{word}", lines, skip=1)
        report.add_at(place, message, hint)
        return None


def _is_usable(key: str | None, value: Any) -> bool:  # noqa: ANN401
    try:
        flatten_item(SigmaDetectionItem.from_mapping(key, value))
    except (se.SigmaError, UnusableError):
        return False
    return True


def _explain(error: Exception) -> tuple[str, str]:
    if isinstance(error, UnusableError):
        return error.message, error.hint
    if isinstance(error, se.SigmaRegularExpressionError):
        return str(error).replace("b'", "'"), _RE2_HINT
    if "Unsupported type" in str(error):
        kind = str(error).split("'")[1] if "'" in str(error) else "value"
        return f"a {kind} cannot be a value to match", "quote it if it is text"
    return str(error), ""


def _read_conditions(
    document: MarkedDocument, names: list[str], lines: list[str], report: Report
) -> list[syntax.Condition]:
    value = document.data["detection"].get("condition")
    if value is None or value == []:
        report.add(("detection",), "the detection has no condition", "such as `condition: selection`")
        return []
    conditions = []
    for place, text in enumerate(value if isinstance(value, list) else [value]):
        keys: tuple[str | int, ...] = ("detection", "condition", place)
        where = document.place_value(*keys if isinstance(value, list) else keys[:2])
        if isinstance(text, str):
            conditions += _read_condition(text, names, where, lines, report)
        else:
            report.add_at(where, f"not a condition: {text!r}", "names joined by and, or, not")
    return conditions


def _read_condition(
    text: str, names: list[str], where: Place, lines: list[str], report: Report
) -> list[syntax.Condition]:
    detections: Any = SimpleNamespace(detections=dict.fromkeys(names), policy=None)
    try:
        tree = SigmaCondition(text, detections).parse(postprocess=False)
    except se.SigmaConditionError as error:
        message = str(error).split(" (at char")[0].split(", found")[0].lower()
        hint = "names joined by and, or, not in lower case; `1 of name*`, `all of them`"
        if "|" in text:
            message, hint = "the pipe is not part of Sigma 2", "use a correlation rule instead"
        report.add_at(where, f"the condition cannot be read: {message}", hint)
        return []
    unknown = [name for name in _find_names(tree) if name not in names]
    for name in unknown:
        hint = suggest(name, names) or f"there are: {', '.join(names)}"
        report.add_at(_point_at(where, name, lines), f"no detection is called {name!r}", hint)
    if unknown:
        return []
    try:
        return [flatten_condition(tree, detections)]
    except UnusableError as error:
        report.add_at(where, error.message, error.hint)
        return []


def _find_names(tree: Any) -> list[str]:  # noqa: ANN401 - pySigma's parse tree
    if isinstance(tree, ConditionIdentifier):
        return [tree.identifier]
    if isinstance(tree, ConditionSelector):
        return []
    items = tree.args if isinstance(tree, ConditionItem) else tree
    return [name for item in items for name in _find_names(item)]


def _point_at(place: Place, word: str, lines: list[str], *, skip: int = 0) -> Place:
    """Return the place of a word on the line at which its text begins, where it stands on that line."""
    if place.line is None or place.column is None or place.line > len(lines):
        return place
    found = lines[place.line - 1].find(word, place.column - 1)
    return place if found < 0 else Place(place.path, place.line, found + skip + 1)


def main() -> None:
    """Read the folders named as arguments; write a `syntax.Reading` to standard output."""
    reading = read_rules([Path(argument) for argument in sys.argv[1:]])
    sys.stdout.buffer.write(msgspec.msgpack.encode(reading))


if __name__ == "__main__":
    main()
