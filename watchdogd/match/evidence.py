"""What made a rule match: the fields that its positive selections looked at, with the values they found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watchdogd.match import syntax
from watchdogd.match.subject import show_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from watchdogd.entities import FieldValue
    from watchdogd.match.compile import Compiled
    from watchdogd.match.subject import Subject

KEYWORDS = "keywords"
"""Name under which a line that held a keyword is shown."""
_LONGEST_CHARS = 512


class _OneValue:
    """A subject in which one field has just one of its values: asks which of them it was that matched."""

    def __init__(self, subject: Subject, field: str, value: FieldValue) -> None:
        self._subject = subject
        self._field = field
        self._value = value

    def values(self, field: str) -> tuple[FieldValue, ...]:
        return (self._value,) if field == self._field else self._subject.values(field)

    def plain(self, field: str) -> tuple[str, ...]:
        if field != self._field:
            return self._subject.plain(field)
        return () if self._value is None else (show_value(self._value),)

    def folded(self, field: str) -> tuple[str, ...]:
        return tuple(text.casefold() for text in self.plain(field))

    def lines(self) -> tuple[str, ...]:
        return self._subject.lines()

    def folded_lines(self) -> tuple[str, ...]:
        return self._subject.folded_lines()


def hold_to_one_value(subject: Subject, field: str, value: FieldValue) -> Subject:
    """Return the subject with that field reduced to one of its values."""
    return _OneValue(subject, field, value)


def find_names(condition: syntax.Condition) -> Iterator[str]:
    """Detections that stand in a condition without `not` before them."""
    if isinstance(condition, syntax.Named):
        yield condition.name
    elif isinstance(condition, syntax.Junction):
        for item in condition.items:
            yield from find_names(item)


def collect_fields(detections: Sequence[Compiled], subjects: Sequence[tuple[str, Subject]]) -> dict[str, str]:
    """Fields and values by which the detections hold; subjects come with the prefix of their fields' names."""
    found: dict[str, str] = {}
    for detection in detections:
        told: set[str] = set()
        for prefix, subject in subjects:
            if prefix not in told and detection.holds(subject):
                if _tells_all(detection):
                    told.add(prefix)
                for name, text in _collect(detection, subject):
                    found.setdefault(prefix + name, text[:_LONGEST_CHARS])
    return found


def _tells_all(compiled: Compiled) -> bool:
    """True where another subject could add no other field: the first value of each is kept."""
    detection = compiled.detection
    return not isinstance(detection, syntax.Group) or (
        detection.every and not any(isinstance(item, syntax.Group) for item in detection.items)
    )


def _collect(compiled: Compiled, subject: Subject) -> Iterator[tuple[str, str]]:
    detection = compiled.detection
    if isinstance(detection, syntax.Group):
        for item in compiled.items:
            if item.holds(subject):
                yield from _collect(item, subject)
    elif detection.negated:
        return
    elif detection.field is None:
        held = (line for line in subject.lines() if _holds_in_line(detection, line))
        yield KEYWORDS, next(held, "")
    else:
        field = detection.field
        values = subject.values(field)
        first = values[0] if values else None
        if len(values) > 1:
            first = next((value for value in values if compiled.holds(_OneValue(subject, field, value))), first)
        yield field, show_value(first) if first is not None else ""


def _holds_in_line(test: syntax.Test, line: str) -> bool:
    """Whether a line holds one of the longest fixed parts of the keywords: good enough to choose the line to show."""
    folded = line.casefold()
    for value in test.values:
        for text in value.values if isinstance(value, syntax.AnyOf) else (value,):
            if isinstance(text, syntax.Text):
                literals = [part.casefold() for part in text.parts if isinstance(part, str)]
                if literals and max(literals, key=len) in folded:
                    return True
    return False
