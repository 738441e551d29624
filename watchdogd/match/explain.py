"""Why a rule did or did not match an event: its condition part by part, with the values that were seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec

from watchdogd.match import syntax
from watchdogd.match.compile import Compiled, compile_body, compile_test
from watchdogd.match.evidence import hold_to_one_value
from watchdogd.match.index import find_types
from watchdogd.match.subject import RecordSubject, ViewSubject, show_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watchdogd.entities import Event, EventId
    from watchdogd.match.subject import Subject

    Subjects: TypeAlias = Sequence[tuple[str, Subject]]

_SYMBOLS = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">=", "eq": "=", "neq": "!="}


class Finding(msgspec.Struct, frozen=True):
    """One part of a rule, held against one event. `near` is 1 where it holds, 0 where nothing of it does."""

    text: str
    held: bool
    near: float
    seen: tuple[str, ...] = ()
    """Values of the field that was asked for."""
    note: str = ""
    """Which record was looked at, or what else explains the answer."""
    items: tuple[Finding, ...] = ()


class Explanation(msgspec.Struct, frozen=True):
    """One view of an event (or all its records) against a whole rule."""

    event: str
    """`time:serial`, as audit writes it."""
    time_ms: int
    line: int | None
    subject: str
    held: bool
    near: float
    condition: Finding | None
    """None where the event has nothing that the rule looks at; `note` says what it has."""
    note: str = ""


class Explainer:
    """Explains one rule; made once for many events."""

    def __init__(self, body: syntax.RuleBody) -> None:
        """Compile the rule as the engine does."""
        self._body = body
        self._detections = compile_body(body)
        self._types = {name: find_types(detection) for name, detection in body.detections.items()}

    @property
    def rule_id(self) -> str:
        """Of the rule that is explained."""
        return self._body.rule.id

    def explain(self, event: Event) -> list[Explanation]:
        """All that the rule looks at in the event; at least one explanation."""
        found = [self._explain_one(event, label, subjects) for label, subjects in self._find_subjects(event)]
        return found or [_explain_nothing(event, self._body)]

    def _find_subjects(self, event: Event) -> list[tuple[str, Subjects]]:
        if self._body.view == syntax.RECORDS:
            records = [(record.type, RecordSubject(record)) for record in event.records]
            return [(f"{len(records)} record{'s' if len(records) != 1 else ''}", records)] if records else []
        views = [view for view in event.views if view.category == self._body.view]
        return [(f"{view.category} ({view.action})", [("", ViewSubject(view, event.records))]) for view in views]

    def _explain_one(self, event: Event, label: str, subjects: Subjects) -> Explanation:
        condition = self._body.condition
        finding = None if condition is None else self._explain_condition(condition, subjects)
        return Explanation(
            event=name_event(event),
            time_ms=event.id.time_ms,
            line=first_line(event),
            subject=label,
            held=finding is not None and finding.held,
            near=finding.near if finding is not None else 0.0,
            condition=finding,
        )

    def _explain_condition(self, condition: syntax.Condition, subjects: Subjects) -> Finding:
        if isinstance(condition, syntax.Named):
            return self._explain_named(condition.name, subjects)
        if isinstance(condition, syntax.Not):
            inner = self._explain_condition(condition.item, subjects)
            return Finding("not", not inner.held, 0.0 if inner.held else 1.0, items=(inner,))
        items = tuple(self._explain_condition(item, subjects) for item in condition.items)
        if len(items) == 1:
            return items[0]
        return _join("all of" if condition.every else "one of", items, every=condition.every)

    def _explain_named(self, name: str, subjects: Subjects) -> Finding:
        """The record that satisfies a selection, or the one that comes nearest."""
        types = self._types[name]
        fitting = [
            (label, subject) for label, subject in subjects if types is None or not label or label.casefold() in types
        ]
        if not fitting:
            wanted = ", ".join(sorted(found.upper() for found in types or ()))
            return Finding(name, held=False, near=0.0, note=f"the event has no record of type {wanted}")
        findings = [(label, _explain_detection(self._detections[name], subject)) for label, subject in fitting]
        label, best = max(findings, key=lambda found: (found[1].held, found[1].near))
        note = f"{'record' if best.held else 'nearest record'} {label}" if label else ""
        items = best.items if isinstance(self._body.detections[name], syntax.Group) else (best,)
        return Finding(name, best.held, best.near, note=note, items=items)


def name_event(event: Event) -> str:
    """`SEC.MILLI:SERIAL`, as audit's own stamp, by which a person finds the lines."""
    return name_id(event.id)


def name_id(event_id: EventId) -> str:
    """As `name_event`, of the id."""
    return f"{event_id.time_ms // 1000}.{event_id.time_ms % 1000:03d}:{event_id.serial}"


def first_line(event: Event) -> int | None:
    """Line number of the event's first record, where its position counts lines (`samples.read_events`)."""
    places = [record.position.start for record in event.records if record.position is not None]
    return min(places, default=None)


def _explain_nothing(event: Event, body: syntax.RuleBody) -> Explanation:
    views = ", ".join(dict.fromkeys(view.category for view in event.views)) or "none"
    note = body.reason or f"the rule looks at {body.view}; of this event there is: {views}"
    return Explanation(name_event(event), event.id.time_ms, first_line(event), "", held=False, near=-1.0,
                       condition=None, note=note)  # fmt: skip


def _join(text: str, items: tuple[Finding, ...], *, every: bool) -> Finding:
    near = sum(item.near for item in items) / len(items) if every else max(item.near for item in items)
    held = all(item.held for item in items) if every else any(item.held for item in items)
    return Finding(text, held, near, items=items)


def _explain_detection(compiled: Compiled, subject: Subject) -> Finding:
    detection = compiled.detection
    if isinstance(detection, syntax.Test):
        return _explain_test(detection, compiled.holds(subject), subject)
    items = tuple(_explain_detection(item, subject) for item in compiled.items)
    return _join("all of" if detection.every else "one of", items, every=detection.every)


def _explain_test(test: syntax.Test, held: bool, subject: Subject) -> Finding:  # noqa: FBT001 - an answer, no switch
    name = test.field or "a line"
    seen = tuple(show_value(value) if value is not None else "null" for value in subject.values(test.field or ""))
    values = _list_values(test)
    joint = ", all of" if test.every else ", any of"
    text = f"{name} {describe_value(values[0], anywhere=test.field is None)}" if len(values) == 1 else f"{name}{joint}"
    note = ""
    if test.field is not None and not seen and not held:
        note = "no such field here"
    items: tuple[Finding, ...] = ()
    if len(values) > 1:
        items = tuple(_explain_value(test, value, subject) for value in values)
    if test.negated:
        text = f"not: {text}"
    elif held and test.field is not None and len(seen) > 1:
        note = f"by {_find_matching(test, subject)}"
    near = 1.0 if held else (sum(item.held for item in items) / len(items) * 0.9 if items and test.every else 0.0)
    return Finding(text, held, near, seen, note, items)


def _list_values(test: syntax.Test) -> list[syntax.Value]:
    """Values of a test; what one modifier made of a single value stands for itself."""
    if len(test.values) == 1 and isinstance(test.values[0], syntax.AnyOf):
        return list(test.values[0].values)
    return list(test.values)


def _explain_value(test: syntax.Test, value: syntax.Value, subject: Subject) -> Finding:
    held = compile_test(syntax.Test(test.field, (value,)))(subject)
    return Finding(describe_value(value, anywhere=test.field is None), held, float(held))


def _find_matching(test: syntax.Test, subject: Subject) -> str:
    field = test.field or ""
    holds = compile_test(test)
    found = [value for value in subject.values(field) if holds(hold_to_one_value(subject, field, value))]
    return repr(show_value(found[0])) if found and found[0] is not None else "all of them together"


def describe_value(value: syntax.Value, *, anywhere: bool = False) -> str:
    """A value as a person would say it: `ends with '/bash'`. `anywhere`: keywords."""
    match value:
        case syntax.AnyOf():
            return " or ".join(describe_value(inner, anywhere=anywhere) for inner in value.values)
        case syntax.Text():
            return _describe_text(value.parts, anywhere=anywhere) + (" (case counts)" if value.cased else "")
        case syntax.Pattern():
            return f"matches the pattern {value.pattern}"
        case syntax.Number():
            return f"is the number {value.number}"
        case syntax.Truth():
            return "is true or yes" if value.value else "is false or no"
    return _describe_other(value)


def _describe_other(value: syntax.Value) -> str:  # noqa: PLR0911 - one for each type
    match value:
        case syntax.Null():
            return "is absent or null"
        case syntax.Exists():
            return "has a value" if value.present else "has no value"
        case syntax.Network():
            return f"is an address in {value.network}"
        case syntax.Compare():
            return f"{value.part + ' ' if value.part else ''}{_SYMBOLS[value.operator]} {value.number}"
        case syntax.TimePart():
            return f"{value.part} = {value.number}"
        case syntax.OtherField():
            how = {(True, True): "contains", (True, False): "starts with", (False, True): "ends with"}
            return f"{how.get((value.start, value.end), 'equals')} the field {value.field}"
    return type(value).__name__


def _describe_text(parts: tuple[str | int, ...], *, anywhere: bool) -> str:
    said: tuple[str, str | int] | None = None
    match parts:
        case (str() as only,):
            said = "contains" if anywhere else "is", only
        case (str() as start, syntax.MANY):
            said = "contains" if anywhere else "starts with", start
        case (syntax.MANY, str() as end):
            said = "contains" if anywhere else "ends with", end
        case (syntax.MANY, str() as middle, syntax.MANY):
            said = "contains", middle
    if said is not None:
        return f"{said[0]} {said[1]!r}"
    shown = "".join("*" if part == syntax.MANY else "?" if part == syntax.ONE else _escape(str(part)) for part in parts)
    return f"is like {shown!r}" if parts else "is empty"


def _escape(text: str) -> str:
    return text.replace("*", "\\*").replace("?", "\\?")
