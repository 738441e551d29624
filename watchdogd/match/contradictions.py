"""Conditions that can never hold, or always do, as far as their own words show it.

Pure. What cannot be decided is taken as fine: whatever is reported is so for every event.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from watchdogd.entities import View
from watchdogd.match import syntax
from watchdogd.match.compile import compile_test
from watchdogd.match.fields import SEVERAL
from watchdogd.match.subject import ViewSubject, show_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from watchdogd.entities import FieldValue
    from watchdogd.match.subject import Subject

_MAX_NAMES = 12
_MAX_CANDIDATES = 200
_UPPER = {"lt": "<", "lte": "<="}


def hold_value(field: str, value: FieldValue) -> Subject:
    """Return a subject with one field and one value, to ask whether this value could satisfy a test."""
    return ViewSubject(View("", "", "", {field: value}))


def decide(condition: syntax.Condition) -> bool | None:
    """Whether a condition is true, or false, whatever its detections say; None where it depends on them."""
    names = sorted(set(list_names(condition)))
    if len(names) > _MAX_NAMES:
        return None
    answers = {
        _evaluate(condition, dict(zip(names, values, strict=True)))
        for values in itertools.product((False, True), repeat=len(names))
    }
    return answers.pop() if len(answers) == 1 else None


def needs_nothing(condition: syntax.Condition) -> bool:
    """Whether the condition holds of an event in which no detection holds: it matches nearly everything."""
    return _evaluate(condition, dict.fromkeys(list_names(condition), False))


def list_names(condition: syntax.Condition) -> Iterator[str]:
    """Every detection that the condition asks, those behind `not` too."""
    if isinstance(condition, syntax.Named):
        yield condition.name
    elif isinstance(condition, syntax.Not):
        yield from list_names(condition.item)
    else:
        for item in condition.items:
            yield from list_names(item)


def _evaluate(condition: syntax.Condition, values: Mapping[str, bool]) -> bool:
    if isinstance(condition, syntax.Named):
        return values[condition.name]
    if isinstance(condition, syntax.Not):
        return not _evaluate(condition.item, values)
    answers = [_evaluate(item, values) for item in condition.items]
    return all(answers) if condition.every else any(answers)


def list_required(condition: syntax.Condition) -> Iterator[tuple[str, bool]]:
    """Detections that must hold (or, False, must not) wherever the condition does."""
    if isinstance(condition, syntax.Named):
        yield condition.name, True
    elif isinstance(condition, syntax.Not) and isinstance(condition.item, syntax.Named):
        yield condition.item.name, False
    elif isinstance(condition, syntax.Not) and isinstance(condition.item, syntax.Junction):
        if not condition.item.every:  # not one of them
            for item in condition.item.items:
                yield from list_required(syntax.Not(item))
    elif isinstance(condition, syntax.Junction) and (condition.every or len(condition.items) == 1):
        for item in condition.items:
            yield from list_required(item)


def list_tests(detection: syntax.Detection) -> Iterator[syntax.Test]:
    """Tests that must hold wherever the detection does."""
    if isinstance(detection, syntax.Test):
        yield detection
    elif detection.every or len(detection.items) == 1:
        for item in detection.items:
            yield from list_tests(item)


def explain_conflict(tests: Iterable[syntax.Test], *, in_records: bool) -> tuple[syntax.Test, str] | None:
    """The last test of those that no value of one field can satisfy together, and why; None where none is found."""
    by_field: dict[str, list[syntax.Test]] = {}
    for test in tests:
        if test.field is not None and not test.negated and (test.field == "type" or not in_records):
            by_field.setdefault(test.field, []).append(test)
    for field, found in by_field.items():
        if field in SEVERAL:
            continue
        why = _conflict(field, found)
        if why:
            return found[-1], why
    return None


def _conflict(field: str, tests: Sequence[syntax.Test]) -> str:
    """Why one value cannot satisfy all tests of its field."""
    choices = [choice for test in tests for choice in _list_choices(test) if all(map(_is_plain, choice))]
    exact = [choice for choice in choices if all(_exact(value) is not None for value in choice)]
    if exact:
        candidates = [text for value in exact[0][:_MAX_CANDIDATES] if (text := _exact(value)) is not None]
        wanted = [compile_test(syntax.Test(field, tuple(choice))) for choice in choices]
        if len(exact[0]) <= _MAX_CANDIDATES and not any(
            all(holds(hold_value(field, text)) for holds in wanted) for text in candidates
        ):
            others = [text for choice in exact[1:2] for value in choice if (text := _exact(value)) is not None]
            rest = f"{_say(others)} at once" if others else "satisfy the rest as well"
            return f"{field} has one value, which cannot be {_say(candidates)} and {rest}"
        return ""
    for end in (0, -1):
        texts = [_fixed_ends(choice, end) for choice in choices]
        if any(
            one and other and not any(_agree(a, b, end) for a in one for b in other)
            for one, other in itertools.combinations(texts, 2)
        ):
            return f"no value of {field} {'starts' if end == 0 else 'ends'} in both ways"
    return _conflict_of_bounds(choices)


def _list_choices(test: syntax.Test) -> list[tuple[syntax.Value, ...]]:
    """What the test asks as `one of these, and one of these`."""
    whole = [value.values if isinstance(value, syntax.AnyOf) else (value,) for value in test.values]
    return whole if test.every else [tuple(value for choice in whole for value in choice)]


def _is_plain(value: syntax.Value) -> bool:
    """Whether one value without regard to case tells whether it is satisfied."""
    return not isinstance(value, (syntax.Pattern, syntax.OtherField)) and not (
        isinstance(value, syntax.Text) and value.cased
    )


def _exact(value: syntax.Value) -> str | None:
    match value:
        case syntax.Text(parts=(str() as text,)):
            return text
        case syntax.Number():
            return show_value(value.number)
    return None


def _fixed_ends(choice: Sequence[syntax.Value], end: int) -> list[str]:
    """Fixed beginnings (or ends) of all values; empty where one has none."""
    found = []
    for value in choice:
        part = value.parts[end] if isinstance(value, syntax.Text) and value.parts else None
        if not isinstance(part, str):
            return []
        found.append(part.casefold())
    return found


def _agree(one: str, other: str, end: int) -> bool:
    if end == 0:
        return one.startswith(other) or other.startswith(one)
    return one.endswith(other) or other.endswith(one)


def _conflict_of_bounds(choices: Sequence[Sequence[syntax.Value]]) -> str:
    low, high, strict = float("-inf"), float("inf"), False
    for choice in choices:
        if len(choice) != 1 or not isinstance(choice[0], syntax.Compare) or choice[0].part is not None:
            continue
        bound = choice[0]
        strict = strict or bound.operator in ("lt", "gt")
        if bound.operator in _UPPER:
            high = min(high, bound.number)
        else:
            low = max(low, bound.number)
    if low < high or (low == high and not strict):
        return ""
    return f"no number is above {low:g} and below {high:g}"


def _say(texts: Sequence[str]) -> str:
    shown = " or ".join(repr(text) for text in texts[:3])
    return f"{shown} ..." if len(texts) > 3 else shown  # noqa: PLR2004 - as many as a message holds


def find_conflict(
    condition: syntax.Condition, detections: Mapping[str, syntax.Detection], *, in_records: bool
) -> tuple[str, str] | None:
    """The detection by which a whole condition can never hold, and why; None where none is found."""
    required = dict.fromkeys(list_required(condition))
    must = [name for name, holds in required if holds]
    for name in must:
        found = explain_conflict(list_tests(detections[name]), in_records=in_records)
        if found:
            return name, found[1]
    if not in_records:
        found = explain_conflict(
            (test for name in must for test in list_tests(detections[name])), in_records=in_records
        )
        if found:
            guilty = next(name for name in reversed(must) if found[0] in list_tests(detections[name]))
            return guilty, found[1]
    for name, holds in required:
        if not holds:
            by = _find_implied(detections[name], [detections[other] for other in must], in_records=in_records)
            if by is not None:
                return name, f"whatever satisfies {must[by]!r} satisfies {name!r} as well"
    return None


def _find_implied(unwanted: syntax.Detection, wanted: Sequence[syntax.Detection], *, in_records: bool) -> int | None:
    """Which of the wanted detections implies the unwanted one: it asks for all that the other asks for."""
    asked = set(list_tests(unwanted))
    if isinstance(unwanted, syntax.Group) and not unwanted.every and len(unwanted.items) > 1:
        return None
    for number, detection in enumerate(wanted):
        if asked and asked <= set(list_tests(detection)):
            return number
    everything = {test for detection in wanted for test in list_tests(detection)}
    return len(wanted) - 1 if asked and not in_records and asked <= everything and wanted else None
