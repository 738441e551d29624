"""What a rule says that is allowed and surely not meant: warnings of `watchdogd check`. Runs in the reader process.

Every warning has its place. A rule that draws none may still be wrong; one that draws one is nearly always.
"""

from __future__ import annotations

import difflib
import re
from datetime import date
from typing import TYPE_CHECKING, Any

from watchdogd.entities import Level, Rule
from watchdogd.labels import ALIASES, LABELS
from watchdogd.match import syntax
from watchdogd.match.attack import load_attack
from watchdogd.match.contradictions import decide, find_conflict, list_names, needs_nothing
from watchdogd.match.header import suggest
from watchdogd.match.lint_values import lint_field, lint_groups, lint_test
from watchdogd.match.logsources import choose_view

if TYPE_CHECKING:
    from collections.abc import Iterator

    from watchdogd.match.header import Report

_KEYS = (
    "title", "id", "name", "taxonomy", "related", "status", "description", "license", "author", "references", "date",
    "modified", "logsource", "detection", "fields", "falsepositives", "level", "tags", "scope", "correlation", "filter",
    "watchdogd", "regression_tests_path", "simulation",
)  # fmt: skip
"""Sigma's own keys, ours, and those that SigmaHQ adds. Others are allowed: only near misses are told."""
_SOURCE_KEYS = ("product", "category", "service", "definition")
_WORDS = {
    "product": ("linux",),
    "category": syntax.CATEGORIES,
    "service": ("auditd", "sshd", "sudo", "auth", "cron", "syslog"),
}
"""What a log source may say here; near misses are told, the rest is inactive with its reason."""
_NEAR = 0.8
_NAMESPACES = ("attack", "car", "cve", "d3fend", "detection", "emerging-threats", "stp", "tlp")
_TECHNIQUE = re.compile(r"t\d{4}(\.\d{3})?", re.IGNORECASE)
_OTHER_ATTACK = re.compile(r"([gsmc]|ta|ds)\d{4}", re.IGNORECASE)

Keys = tuple[str | int, ...]


def lint_document(report: Report, body: syntax.Body | None) -> None:
    """Add warnings about one document; `body` is None where it has mistakes that keep it from being used."""
    before = len(report.problems)
    try:
        _lint(report, body)
    except Exception as error:  # noqa: BLE001 - whatever a file holds: what was found so far is still told
        report.add((), f"not all of it could be checked: {type(error).__name__}: {error}"[:300], severity="warning")
    found = report.problems[before:]
    report.problems[before:] = sorted(found, key=lambda problem: (problem.place.line or 0, problem.place.column or 0))


def _lint(report: Report, body: syntax.Body | None) -> None:
    data = report.document.data
    if not isinstance(data, dict) or "action" in data:
        return
    _lint_keys(report, data)
    _lint_source(report, data)
    _lint_tags(report, data)
    _lint_dates(report, data)
    if isinstance(body, syntax.RuleBody) and body.view and body.condition is not None:
        _lint_detections(report, "detection", body.view, body.detections, body.condition)
        for number, field in enumerate(body.extras.group_by):
            if field not in LABELS and field not in ALIASES:
                lint_field(report, ("watchdogd", "group_by", number), field, body.view)
    elif isinstance(body, syntax.FilterBody):
        _lint_detections(report, "filter", _view_of_filter(body), body.detections, body.condition)


def _lint_keys(report: Report, data: dict[Any, Any]) -> None:
    for key in data:
        if key not in _KEYS and (hint := suggest(key, _KEYS)):
            report.add((key,), f"unknown key {key!r}: Sigma has none of this name", hint, severity="warning")


def _lint_source(report: Report, data: dict[Any, Any]) -> None:
    source = data.get("logsource")
    if not isinstance(source, dict):
        return
    for key in source:
        if key not in _SOURCE_KEYS:
            hint = suggest(key, _SOURCE_KEYS) or f"one of {', '.join(_SOURCE_KEYS)}"
            report.add(
                ("logsource", key), f"unknown key {key!r} of a log source: it is ignored", hint, severity="warning"
            )
    for key, known in _WORDS.items():
        word = source.get(key)
        near = difflib.get_close_matches(str(word).lower(), known, n=1, cutoff=_NEAR)
        if isinstance(word, str) and word not in known and near:
            where = report.document.place_value("logsource", key)
            message = f"no log source has the {key} {word!r}, so this never matches"
            report.add_at(where, message, f"did you mean {near[0]!r}?", severity="warning")


def _lint_tags(report: Report, data: dict[Any, Any]) -> None:
    tags = data.get("tags")
    seen: set[str] = set()
    for number, tag in enumerate(tags if isinstance(tags, list) else ()):
        if not isinstance(tag, str):
            continue
        namespace, _, name = tag.partition(".")
        complaint = _complain_attack(name) if namespace == "attack" else None
        if tag in seen:
            complaint = f"the tag {tag!r} stands there twice", "once is enough"
        elif namespace not in _NAMESPACES and (near := suggest(namespace, _NAMESPACES)):
            complaint = f"unknown namespace {namespace!r} of a tag", near
        seen.add(tag)
        if complaint is not None:
            report.add_at(report.document.place_value("tags", number), *complaint, severity="warning")


def _complain_attack(name: str) -> tuple[str, str] | None:
    """Message and hint where the part behind `attack.` is no tactic and no technique."""
    attack = load_attack()
    if _TECHNIQUE.fullmatch(name):
        return _complain_technique(name.upper())
    if _OTHER_ATTACK.fullmatch(name) or name in attack.tactic_names:
        return None
    if re.match(r"t?\d", name):
        return f"{name!r} is not how a technique is written", "such as attack.t1059 or attack.t1059.004"
    near = suggest(name.replace("_", "-").replace(" ", "-"), attack.tactic_names)
    near = near or f"one of {', '.join(attack.tactics)}"
    return f"ATT&CK has no tactic {name!r}", near.replace("did you mean '", "did you mean 'attack.")


def _complain_technique(number: str) -> tuple[str, str] | None:
    attack = load_attack()
    parent = number.partition(".")[0]
    if number in attack.techniques or parent > max(attack.techniques):  # what came later is not known here
        return None
    message = f"ATT&CK {attack.version} has no technique {number}"
    if parent not in attack.techniques:
        return message, "ATT&CK withdraws techniques in favour of others"
    below = [known for known in attack.techniques if known.startswith(f"{parent}.")]
    name = attack.techniques[parent][0]
    return message, f"{parent} ({name}) goes up to {below[-1]}" if below else f"{parent} ({name}) has no sub-techniques"


def _lint_dates(report: Report, data: dict[Any, Any]) -> None:
    written, modified = _read_date(data.get("date")), _read_date(data.get("modified"))
    if written is not None and modified is not None and modified < written:
        where = report.document.place_value("modified")
        report.add_at(where, f"modified on {modified}, before it was written on {written}", severity="warning")


def _read_date(value: object) -> date | None:
    try:
        return value if isinstance(value, date) else date.fromisoformat(str(value).replace("/", "-"))
    except ValueError:
        return None  # reported by the reader


def _view_of_filter(body: syntax.FilterBody) -> str:
    source = Rule("", "", Level.LOW, product=body.product, category=body.category, service=body.service)
    return choose_view(source)[0] if body.category or body.service else ""


def _lint_detections(
    report: Report, key: str, view: str, detections: dict[str, syntax.Detection], condition: syntax.Condition
) -> None:
    definition = report.document.data[key]
    used = set(list_names(condition))
    for name in detections:
        if name == "timeframe":
            what = "here it is text to look for" if name in used else "it does nothing"
            message = f"`timeframe` is not part of Sigma 2: {what}"
            report.add((key, name), message, "use a correlation with a `timespan`", severity="warning")
        elif name not in used:
            message = f"the condition does not use {name!r}"
            report.add((key, name), message, "name it there, or take it out", severity="warning")
    for name, detection in detections.items():
        for keys, test in walk_tests(detection, definition[name], (key, name)):
            lint_test(report, keys, test, view)
    guilty = {name for name, detection in detections.items() if lint_groups(report, (key, name), detection, view)}
    _lint_condition(report, key, view, detections, condition, guilty)


def _lint_condition(
    report: Report,
    key: str,
    view: str,
    detections: dict[str, syntax.Detection],
    condition: syntax.Condition,
    guilty: set[str],
) -> None:
    """`guilty` are detections of which it was said already that they can never hold."""
    where = report.document.place_value(key, "condition")
    answer = decide(condition)
    if answer is not None:
        said = (
            "is always true, whatever the event"
            if answer
            else "can never be true: it asks for a thing and its opposite"
        )
        report.add_at(where, f"the condition {said}", severity="warning")
        return
    if key == "detection" and needs_nothing(condition):
        message = "the condition holds for every event that is not excluded"
        report.add_at(where, message, "name what the rule looks for, then what it leaves out", severity="warning")
    if view:
        conflict = find_conflict(condition, detections, in_records=view == syntax.RECORDS)
        if conflict is not None and conflict[0] not in guilty:
            name, why = conflict
            report.add((key, name), f"the rule can never match: {why}", severity="warning")


def walk_tests(detection: syntax.Detection, value: Any, keys: Keys) -> Iterator[tuple[Keys, syntax.Test]]:  # noqa: ANN401
    """Every test of a detection with its place in the YAML, which has the same shape."""
    if isinstance(detection, syntax.Test):
        yield keys, detection
    elif isinstance(value, dict):
        for item, (name, inner) in zip(detection.items, value.items(), strict=False):
            yield from walk_tests(item, inner, (*keys, name))
    elif isinstance(value, list):
        for number, (item, inner) in enumerate(zip(detection.items, value, strict=False)):
            yield from walk_tests(item, inner, (*keys, number))
