"""Why a correlation did or did not fire: what counted, group by group, and how far that got within one timespan."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from watchdogd.match.correlate import Hit
from watchdogd.match.engine import Engine, compile_restriction
from watchdogd.match.explain import name_event, name_id
from watchdogd.match.grouping import read_groups, read_values
from watchdogd.match.running import strip_sign
from watchdogd.match.subject import GroupSubject
from watchdogd.match.windows import Entry, open_window, sort_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from watchdogd.entities import Event, Match
    from watchdogd.match import syntax
    from watchdogd.match.correlate import Correlator, Firing
    from watchdogd.match.library import RuleSet
    from watchdogd.match.windows import Window

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
    """Explain the last correlation of a set that holds nothing but it and what it builds on.

    Behind the last event time goes on: windows that only their end can judge are judged.
    """
    correlation = next(found for found in part.correlations if found.rule.id == rule_id)
    engine = Engine(_speak(part))
    counting = _Counting(correlation, {body.rule.id: body.view for body in part.bodies})
    counting.listen_to(engine.correlator)
    fired: list[str] = []
    for event in events:
        fired += _name_firings(engine.advance(event.id.time_ms), rule_id)
        matches = engine.judge(event)
        fired += [name_id(match.event_ids[-1]) for match in matches if match.rule.id == rule_id]
        counting.take(event, matches)
    fired += _name_firings(engine.finish(), rule_id)
    groups = [_sum_up(correlation, key, found) for key, found in counting.grouped.items()]
    groups.sort(key=lambda group: group.reached_number, reverse=True)
    return CorrelationExplanation(
        correlation.kind,
        describe_wanted(correlation),
        correlation.timespan_ms,
        tuple(dict.fromkeys(fired)),
        tuple(groups),
        counting.counts,
    )


def _name_firings(firings: Iterable[Firing], rule_id: str) -> list[str]:
    return [name_id(firing.match.event_ids[-1]) for firing in firings if firing.match.rule.id == rule_id]


class _Counting:
    """What each feed of a correlation gets, by group: read as the engine reads it, and kept in full."""

    def __init__(self, correlation: syntax.Correlation, views: Mapping[str, str]) -> None:
        self._correlation = correlation
        self._feeds = [
            (feed, tuple(compile_restriction(found, views.get(feed.rule_id, "")) for found in feed.restrictions))
            for feed in correlation.feeds
        ]
        self._hits: list[Hit] = []
        self.counts = {feed.reference: 0 for feed in correlation.feeds}
        self.grouped: dict[tuple[str, ...], list[_Counted]] = {}

    def listen_to(self, correlator: Correlator) -> None:
        """Hear what the engine's own rules hit; what lower correlations say comes with the matches."""
        offer = correlator.offer

        def listen(event: Event, hits: Sequence[Hit]) -> list[Match]:
            self._hits += hits
            return offer(event, hits)

        correlator.offer = listen  # type: ignore[method-assign]  # this one object's

    def take(self, event: Event, matches: Sequence[Match]) -> None:
        """Count what the event hit."""
        lower = [
            Hit(match.rule.id, match, (GroupSubject(strip_sign(match.fields)),))
            for match in matches
            if match.group is not None
        ]
        for hit in (*self._hits, *lower):
            for place, (feed, restrictions) in enumerate(self._feeds):
                if feed.rule_id == hit.rule_id and all(holds(hit.subjects) for holds in restrictions):
                    self.counts[feed.reference] += 1
                    self._add(event, place, feed, hit)
        self._hits.clear()

    def _add(self, event: Event, place: int, feed: syntax.Feed, hit: Hit) -> None:
        values = read_values(self._correlation.kind, hit.subjects, feed)
        for key in read_groups(hit.subjects, feed)[0]:
            for value in values:
                entry = Entry(event.id.time_ms, event.id, place, value)
                shown = () if value is None else tuple(str(value).split("\x1f"))
                one = Contribution(name_event(event), event.id.time_ms, feed.reference, shown)
                self.grouped.setdefault(key, []).append(_Counted(entry, one))


class _Counted(NamedTuple):
    entry: Entry
    shown: Contribution


def _speak(part: RuleSet) -> RuleSet:
    """Return the set with all its rules heard: what they match is to be seen."""
    replace = msgspec.structs.replace
    return replace(
        part,
        bodies=tuple(replace(body, silent=False) for body in part.bodies),
        correlations=tuple(replace(found, silent=False) for found in part.correlations),
    )


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


def _sum_up(correlation: syntax.Correlation, key: tuple[str, ...], found: list[_Counted]) -> Group:
    found = sorted(found, key=lambda one: sort_key(one.entry))
    window = open_window(correlation)
    best, said, start = -math.inf, "", 0
    for end, last in enumerate(found):
        oldest_ms = last.entry.time_ms - correlation.timespan_ms
        while found[start].entry.time_ms < oldest_ms:
            start += 1
        window.add(last.entry)
        window.prune(oldest_ms)
        number, words = _measure(correlation, found[start : end + 1], window)
        if number > best:
            best, said = number, f"{words} by {last.shown.event}"
    by = dict(zip(correlation.group_by, key, strict=False))
    return Group(by, tuple(one.shown for one in found), said, best)


def _measure(correlation: syntax.Correlation, counted: Sequence[_Counted], window: Window) -> tuple[float, str]:
    """The figure of one timespan, and how to say it. `window` is the engine's own, which keeps what it needs."""
    if correlation.kind == "event_count":
        number = len({one.entry.event for one in counted})
        return number, f"{number} event{'s' if number != 1 else ''}"
    if correlation.kind == "value_count":
        number = len({one.entry.value for one in counted})
        return number, f"{number} different value{'s' if number != 1 else ''}"
    measured = window.measure()
    if correlation.kind in _TEMPORAL:
        seen = ", ".join(dict.fromkeys(one.shown.rule for one in counted))
        order = " in order" if correlation.kind == "temporal_ordered" else ""
        return measured or 0, f"{measured:g} of {len(correlation.feeds)} rules{order} (seen: {seen})"
    if measured is None:
        return -math.inf, "no number"
    return measured, f"{_NUMBERS[correlation.kind]} of {measured:g}"


_NUMBERS = {
    "value_sum": "a sum",
    "value_avg": "an average",
    "value_median": "a median",
    "value_percentile": "a percentile",
}
