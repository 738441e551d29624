"""By which values events belong together, and what of them is counted."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from watchdogd.match.compile import to_number
from watchdogd.match.subject import show_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watchdogd.entities import FieldValue
    from watchdogd.match import syntax
    from watchdogd.match.subject import SourceSubject
    from watchdogd.match.windows import Value

GroupKey: TypeAlias = tuple[str, ...]

COMBINATIONS = 16
"""Groups that one event with several values may belong to."""
_LONGEST_CHARS = 256


def read_groups(subjects: Sequence[SourceSubject], feed: syntax.Feed) -> tuple[list[tuple[str, ...]], int]:
    """Every combination of the values of the group's fields, and how many were too many.

    None where one of the fields is absent: such an event takes no part.
    """
    texts = [[_cut(show_value(value)) for value in _read(subjects, name)] for name in feed.group_by]
    number = math.prod(len(values) for values in texts)
    return list(itertools.islice(itertools.product(*texts), COMBINATIONS)), max(0, number - COMBINATIONS)


def read_values(kind: str, subjects: Sequence[SourceSubject], feed: syntax.Feed) -> list[Value]:
    """What the event adds: one None where events are counted, nothing where the values are absent."""
    if not feed.fields:
        return [None]
    if kind == "value_count":
        texts = [[_cut(show_value(value).casefold()) for value in _read(subjects, f)] for f in feed.fields]
        return ["\x1f".join(found) for found in itertools.islice(itertools.product(*texts), COMBINATIONS)]
    for name in feed.fields:
        for value in _read(subjects, name):
            number = to_number(value)
            if number is not None and math.isfinite(number):
                return [number]
    return []


def digest_correlation(correlation: syntax.Correlation) -> str:
    """What makes the state of a correlation usable for another: everything but how it is shown."""
    bare = msgspec.structs.asdict(correlation)
    for name in ("rule", "place", "extras", "silent"):
        del bare[name]
    return hashlib.sha256(json.dumps(msgspec.to_builtins(bare)).encode()).hexdigest()[:32]


def write_key(key: GroupKey) -> str:
    """A group's key as text in ASCII: whatever the host's text holds, it is read back as it was."""
    return json.dumps(key)


def read_key(text: str) -> GroupKey:
    """The opposite of `write_key`."""
    return tuple(json.loads(text))


def _cut(text: str) -> str:
    """Text that is short enough to be kept by the thousand, and still another where its end is another."""
    if len(text) <= _LONGEST_CHARS:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{text[:_LONGEST_CHARS]}...[{digest[:16]}]"


def _read(subjects: Sequence[SourceSubject], field: str) -> tuple[FieldValue, ...]:
    """The field's values in the first subject that has it."""
    for subject in subjects:
        values = tuple(value for value in subject.shown(field) if value is not None)
        if values:
            return values
    return ()
