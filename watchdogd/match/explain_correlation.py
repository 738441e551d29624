"""Why a correlation did or did not fire: what counted, group by group, and how far that got within one timespan.

Counted anew from the events, apart from the engine's own state, so that the answer is a second opinion on it, too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from watchdogd.match.engine import Engine
from watchdogd.match.explain import name_event
from watchdogd.match.subject import RecordSubject, ViewSubject, show_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from watchdogd.entities import Event, Match
    from watchdogd.match import syntax
    from watchdogd.match.library import RuleSet
    from watchdogd.match.subject import Subject

_SIGNS = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">=", "eq": "=", "neq": "!="}
_TEMPORAL = ("temporal", "temporal_ordered")


class Contribution(msgspec.Struct, frozen=True):
    """One event that counts."""

    event: str
    time_ms: int
    rule: str
    """As the correlation calls the rule."""
    values: tuple[str, ...] = ()
    """Of the fields that a value_* kind looks at."""


class Group(msgspec.Struct, frozen=True):
    """All that counts for one set of `group-by` values."""

    by: dict[str, str]
    contributions: tuple[Contribution, ...]
    reached: str
    """The most that one timespan held, as a person would say it."""
    reached_number: float
    """The figure that the bounds ask about."""


class CorrelationExplanation(msgspec.Struct, frozen=True):
    """What a correlation asks for, and what each group got."""

    kind: str
    wanted: str
    timespan_ms: int
    fired: tuple[str, ...]
    """Events at which the engine let it fire."""
    groups: tuple[Group, ...]
    """Those that got furthest first."""
    counts: dict[str, int]
    """Events that each rule matched, grouped or not."""


def explain_correlation(part: RuleSet, rule_id: str, events: Iterable[Event]) -> CorrelationExplanation:
    """Explain the last correlation of a set that holds nothing but it and what it builds on."""
    correlation = next(found for found in part.correlations if found.rule.id == rule_id)
    engine = Engine(_speak(part))
    fired: list[str] = []
    counts = {feed.reference: 0 for feed in correlation.feeds}
    grouped: dict[tuple[str, ...], list[Contribution]] = {}
    for event in events:
        for match in engine.judge(event):
            if match.rule.id == rule_id:
                fired.append(name_event(event))
            for feed in correlation.feeds:
                if feed.rule_id == match.rule.id:
                    counts[feed.reference] += 1
                    values = [_read(event, match, field) for field in feed.group_by]
                    if None not in values:
                        key = tuple(str(value) for value in values)
                        seen = tuple(
                            found for field in feed.fields if (found := _read(event, match, field)) is not None
                        )
                        grouped.setdefault(key, []).append(
                            Contribution(name_event(event), event.id.time_ms, feed.reference, seen)
                        )
    groups = [_sum_up(correlation, key, found) for key, found in grouped.items()]
    groups.sort(key=lambda group: group.reached_number, reverse=True)
    return CorrelationExplanation(
        correlation.kind, describe_wanted(correlation), correlation.timespan_ms, tuple(fired), tuple(groups), counts
    )


def _speak(part: RuleSet) -> RuleSet:
    """Return the set with all its rules heard: what they match is to be seen."""
    replace = msgspec.structs.replace
    return replace(
        part,
        bodies=tuple(replace(body, silent=False) for body in part.bodies),
        correlations=tuple(replace(found, silent=False) for found in part.correlations),
    )


def _read(event: Event, match: Match, field: str) -> str | None:
    """First value of a field in the view that matched, or in any record; of a correlation, what it was grouped by."""
    if field in match.fields:
        return match.fields[field]
    subjects: list[Subject] = [
        ViewSubject(view, event.records) for view in event.views if view.category == match.category
    ]
    subjects = subjects or [RecordSubject(record) for record in event.records]
    found = (value for subject in subjects for value in subject.values(field) if value is not None)
    value = next(found, None)
    return None if value is None else show_value(value)


def describe_wanted(correlation: syntax.Correlation) -> str:
    """What must come together, in words."""
    bounds = " and ".join(f"{_SIGNS[bound.operator]} {bound.number}" for bound in correlation.bounds)
    if correlation.kind in _TEMPORAL:
        order = " in this order" if correlation.kind == "temporal_ordered" else ""
        names = ", ".join(feed.reference for feed in correlation.feeds)
        return f"{f'{bounds} of' if bounds else 'each of'} {names}{order}"
    if correlation.kind == "event_count":
        return f"{bounds} events"
    fields = ", ".join(dict.fromkeys(field for feed in correlation.feeds for field in feed.fields))
    what = {"value_count": "different values of"}.get(correlation.kind, f"{correlation.kind.removeprefix('value_')} of")
    return f"{bounds}: {what} {fields}"


def _sum_up(correlation: syntax.Correlation, key: tuple[str, ...], found: list[Contribution]) -> Group:
    best, said = -math.inf, ""
    start = 0
    for end, last in enumerate(found):
        while found[start].time_ms < last.time_ms - correlation.timespan_ms:
            start += 1
        number, words = _measure(correlation, found[start : end + 1])
        if number > best:
            best, said = number, f"{words} by {last.event}"
    return Group(dict(zip(correlation.group_by, key, strict=False)), tuple(found), said, best)


def _measure(correlation: syntax.Correlation, window: Sequence[Contribution]) -> tuple[float, str]:  # noqa: PLR0911 - one for each kind
    """The figure of one timespan, and how to say it."""
    if correlation.kind == "event_count":
        return len(window), f"{len(window)} events"
    if correlation.kind in _TEMPORAL:
        seen = list(dict.fromkeys(one.rule for one in window))
        return len(seen), f"{len(seen)} of {len(correlation.feeds)} rules ({', '.join(seen)})"
    if correlation.kind == "value_count":
        different = {one.values for one in window if one.values}
        return len(different), f"{len(different)} different values"
    numbers = sorted(number for one in window for text in one.values[:1] if (number := _to_number(text)) is not None)
    if not numbers:
        return 0, "no number"
    if correlation.kind == "value_sum":
        return sum(numbers), f"a sum of {sum(numbers):g}"
    if correlation.kind == "value_avg":
        return sum(numbers) / len(numbers), f"an average of {sum(numbers) / len(numbers):g}"
    share = 0.5 if correlation.kind == "value_median" else (correlation.percentile or 0) / 100
    number = numbers[min(len(numbers) - 1, math.floor(share * len(numbers)))]
    return number, f"about {number:g}"


def _to_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
