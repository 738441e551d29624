"""Events that mean something together: Sigma's correlations over a stream, in event time, within bounds.

`gt` and `gte` (and temporal kinds) hold the moment an event makes them true, and are said again once a timespan for as
long as they stay true. `lt`, `lte`, `eq`, `neq` and what must *not* happen can be known only when the window that a
group's first event opened has passed. See docs/rules.md.
"""

from __future__ import annotations

import heapq
import operator
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from watchdogd.entities import CorrelationRow, Event, Match
from watchdogd.match import syntax
from watchdogd.match.grouping import (
    GroupKey,
    digest_correlation,
    read_groups,
    read_key,
    read_values,
    write_key,
)
from watchdogd.match.subject import GroupSubject, show_value
from watchdogd.match.windows import Entry, Window, is_judged_late, open_window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from watchdogd.entities import EventId
    from watchdogd.match.subject import SourceSubject, Subject
    from watchdogd.telemetry import Counters

    Holds: TypeAlias = Callable[[Sequence[Subject]], bool]

GROUPS_OF_ONE = 4_096
"""Groups that one correlation remembers; the one that was quiet for longest goes first."""
GROUPS_OF_ALL = 16_384
SHOWN_EVENTS = 64
"""Contributing events that an alert names: the newest."""
KEPT_MS = 600_000
"""A group is remembered for so long after its window, so that what comes again is known."""
SET_BACK_MS = 3_600_000
"""An event so much older than its window is no late one: the clock was set back, and the group begins anew."""

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
    "eq": operator.eq,
    "neq": operator.ne,
}
_MEASURES = {
    "event_count": "count",
    "value_count": "values",
    "temporal": "rules",
    "temporal_ordered": "rules",
    "value_sum": "sum",
    "value_avg": "average",
    "value_median": "median",
    "value_percentile": "percentile",
}


class Hit(msgspec.Struct, frozen=True):
    """A rule that an event satisfied, and where its fields are read: the satisfying record or view first."""

    rule_id: str
    match: Match
    subjects: Sequence[SourceSubject]


class Firing(msgspec.Struct, frozen=True):
    """A correlation that holds, and the event that completed it (None where a restart has forgotten it)."""

    match: Match
    event: Event | None


class _Saved(msgspec.Struct, frozen=True, array_like=True):
    """A group as it is written to disk."""

    shown: tuple[str, ...]
    entries: list[Entry]
    fired_ms: int | None
    holding: bool
    opened_ms: int | None


class _Group:
    """What one correlation knows of one combination of values."""

    __slots__ = ("category", "fired_ms", "holding", "last", "newest_ms", "opened_ms", "shown", "window")

    def __init__(self, window: Window, shown: tuple[str, ...]) -> None:
        self.window = window
        self.shown = shown
        self.newest_ms = -(1 << 62)
        self.fired_ms: int | None = None
        self.holding = False
        self.opened_ms: int | None = None
        self.last: Event | None = None
        self.category = ""


class _Running:
    """One correlation with its groups."""

    def __init__(self, number: int, correlation: syntax.Correlation) -> None:
        self.number = number
        self.correlation = correlation
        self.span_ms = correlation.timespan_ms
        self.digest = digest_correlation(correlation)
        self.judged_late = is_judged_late(correlation)
        self.names = {feed.reference: place for place, feed in enumerate(correlation.feeds)}
        self.groups: OrderedDict[GroupKey, _Group] = OrderedDict()

    def holds(self, window: Window) -> bool:
        """Whether expression and bounds are satisfied."""
        correlation = self.correlation
        if correlation.expression is not None:
            present = window.feeds()
            if not _evaluate(correlation.expression, {name: place in present for name, place in self.names.items()}):
                return False
            if correlation.kind != "temporal_ordered":
                return True
            return bool(window.measure() == len(present))
        number = window.measure()
        if not correlation.bounds:
            return number is not None and number >= len(correlation.feeds)
        return number is not None and all(_OPERATORS[b.operator](number, b.number) for b in correlation.bounds)


class Correlator:
    """Holds the state of all correlations. `take_changes` hands it to the store, `adopt` takes it over.

    `restrict` compiles a filter that acts on a correlation only.
    """

    def __init__(
        self,
        correlations: Iterable[syntax.Correlation],
        restrict: Callable[[str, syntax.Restriction], Holds],
    ) -> None:
        active = [correlation for correlation in correlations if not correlation.reason]
        self._running = [_Running(number, correlation) for number, correlation in enumerate(active)]
        self._counters: Counters | None = None
        self._feeds: dict[str, list[tuple[_Running, int, tuple[Holds, ...]]]] = {}
        for running in self._running:
            for place, feed in enumerate(running.correlation.feeds):
                restrictions = tuple(restrict(feed.rule_id, found) for found in feed.restrictions)
                self._feeds.setdefault(feed.rule_id, []).append((running, place, restrictions))
        self._closing: list[tuple[int, int, GroupKey]] = []
        self._dirty: dict[tuple[int, GroupKey], None] = {}
        self._gone: list[tuple[str, str, GroupKey]] = []
        self._now_ms = -(1 << 62)
        self._total = 0

    @property
    def fed_by(self) -> frozenset[str]:
        """Rules (and correlations) that a correlation hears of."""
        return frozenset(self._feeds)

    @property
    def waits(self) -> bool:
        """Whether a window is open that only time will judge."""
        return bool(self._closing)

    def offer(self, event: Event, hits: Sequence[Hit]) -> list[Match]:
        """Take in what an event satisfied; the correlations that hold now, chained ones included."""
        found: list[Match] = []
        waiting = list(hits)
        while waiting:
            hit = waiting.pop(0)
            for running, place, restrictions in self._feeds.get(hit.rule_id, ()):
                if all(holds(hit.subjects) for holds in restrictions):
                    for match in self._take(running, place, hit, event):
                        waiting.append(_as_hit(match))
                        if not running.correlation.silent:
                            found.append(match)
        return found

    def advance(self, time_ms: int) -> list[Firing]:
        """Judge the windows that have passed at this time; call it with each event's time before the event itself."""
        self._now_ms = max(self._now_ms, time_ms)
        found: list[Firing] = []
        while self._closing and self._closing[0][0] < time_ms:
            closes_ms, number, key = heapq.heappop(self._closing)
            running = self._running[number]
            group = running.groups.get(key)
            if group is None or group.opened_ms is None or group.opened_ms + running.span_ms != closes_ms:
                continue
            held, match = running.holds(group.window), self._build(running, key, group)
            self._drop(running, key)
            if held and match is not None:
                if not running.correlation.silent:
                    found.append(Firing(match, group.last))
                chained = self.offer(group.last, [_as_hit(match)]) if group.last is not None else []
                found += [Firing(above, group.last) for above in chained]
        return found

    def count_in(self, counters: Counters) -> None:
        """Say from now on what is lost."""
        self._counters = counters

    # --- state ----------------------------------------------------------------------------------------------------

    def take_changes(self) -> list[CorrelationRow]:
        """Groups that changed since the last call, and those that are gone (without a state)."""
        rows = [CorrelationRow(rule_id, digest, write_key(key), None, 0) for rule_id, digest, key in self._gone]
        for number, key in self._dirty:
            running = self._running[number]
            group = running.groups.get(key)
            if group is not None:
                saved = _Saved(group.shown, group.window.entries, group.fired_ms, group.holding, group.opened_ms)
                state = msgspec.msgpack.encode(saved)
                rows.append(
                    CorrelationRow(running.correlation.rule.id, running.digest, write_key(key), state, group.newest_ms)
                )
        self._gone, self._dirty = [], {}
        return rows

    def restore(self, rows: Iterable[CorrelationRow]) -> None:
        """Take over what an earlier run left; rows of correlations that have changed or are gone are dropped."""
        by_digest = {(running.correlation.rule.id, running.digest): n for n, running in enumerate(self._running)}
        for row in sorted(rows, key=lambda row: row.updated_ms):
            number = by_digest.get((row.rule_id, row.digest))
            key = read_key(row.group_key)
            try:
                saved = msgspec.msgpack.decode(row.state or b"", type=_Saved)
            except msgspec.MsgspecError:
                self._count("match_correlation_states_unread_total")
                saved = None
            if number is None or saved is None:
                self._gone.append((row.rule_id, row.digest, key))
                continue
            group = self._open(number, key, saved.shown)
            for entry in saved.entries:
                group.window.add(entry)
                group.newest_ms = max(group.newest_ms, entry.time_ms)
            group.fired_ms, group.holding = saved.fired_ms, saved.holding
            if saved.opened_ms is not None:
                self._open_until(number, key, group, saved.opened_ms)
            self._now_ms = max(self._now_ms, group.newest_ms)

    def adopt(self, other: Correlator) -> None:
        """Go on with the state of the correlations that are the same in another one (a reload)."""
        theirs = {(one.correlation.rule.id, one.digest): one for one in other._running}
        self._now_ms = other._now_ms
        self._gone += other._gone
        for number, running in enumerate(self._running):
            before = theirs.pop((running.correlation.rule.id, running.digest), None)
            for key, group in before.groups.items() if before else ():
                running.groups[key] = group
                self._total += 1
                self._dirty[number, key] = None
                if group.opened_ms is not None:
                    heapq.heappush(self._closing, (group.opened_ms + running.span_ms, number, key))
        self._gone += [(one.correlation.rule.id, one.digest, key) for one in theirs.values() for key in one.groups]

    # --- one group ------------------------------------------------------------------------------------------------

    def _take(self, running: _Running, place: int, hit: Hit, event: Event) -> list[Match]:
        time_ms, feed = hit.match.event_ids[-1].time_ms, running.correlation.feeds[place]
        found: list[Match] = []
        groups, dropped = read_groups(hit.subjects, feed)
        self._count("match_correlation_combinations_dropped_total", dropped)
        for shown in groups:
            key = tuple(text.casefold() for text in shown)
            for value in read_values(running.correlation.kind, hit.subjects, feed):
                entry = Entry(time_ms, hit.match.event_ids[-1], place, value)
                match = self._add(running.number, key, shown, entry, event, hit.match.category)
                if match is not None:
                    found.append(match)
        self._sweep()
        return found

    def _add(
        self, number: int, key: GroupKey, shown: tuple[str, ...], entry: Entry, event: Event, category: str
    ) -> Match | None:
        running = self._running[number]
        group = running.groups.get(key) or self._open(number, key, shown)
        span_ms = running.span_ms
        if entry.time_ms < group.newest_ms - span_ms:
            if group.newest_ms - span_ms - entry.time_ms <= SET_BACK_MS:
                self._count("match_correlation_late_total")
                return None
            self._count("match_correlation_restarts_total")
            self._now_ms = entry.time_ms
            self._drop(running, key)
            group = self._open(number, key, shown)
        dropped = group.window.add(entry)
        if dropped < 0:
            return None
        self._count("match_correlation_entries_dropped_total", dropped)
        running.groups.move_to_end(key)
        self._dirty[number, key] = None
        if entry.time_ms >= group.newest_ms:
            group.newest_ms, group.category = entry.time_ms, category
            group.last = event if running.judged_late else None
        self._now_ms = max(self._now_ms, entry.time_ms)
        if running.judged_late:
            if group.opened_ms is None:
                self._open_until(number, key, group, entry.time_ms)
            return None
        group.window.prune(group.newest_ms - span_ms)
        return self._judge(running, key, group, entry)

    def _judge(self, running: _Running, key: GroupKey, group: _Group, entry: Entry) -> Match | None:
        if not running.holds(group.window):
            group.holding = False
            return None
        if group.holding and group.fired_ms is not None and entry.time_ms - group.fired_ms < running.span_ms:
            return None
        group.holding, group.fired_ms = True, entry.time_ms
        return self._build(running, key, group, entry)

    def _build(self, running: _Running, key: GroupKey, group: _Group, entry: Entry | None = None) -> Match | None:
        """The match, the completing event last."""
        entries = group.window.entries
        if not entries:
            return None
        correlation = running.correlation
        ids = list(dict.fromkeys(found.event for found in entries))
        completing = entries[-1].event if entry is None else entry.event
        before: list[EventId] = [found for found in ids if found != completing][1 - SHOWN_EVENTS :]
        number = group.window.measure()
        fields = dict(zip(correlation.group_by, group.shown, strict=True))
        fields[_MEASURES[correlation.kind]] = "" if number is None else show_value(round(number, 6))
        return Match(
            rule=correlation.rule,
            event_ids=(*before, completing),
            fields=fields,
            category=group.category,
            group=key,
            first_seen_ms=entries[0].time_ms,
        )

    def _open(self, number: int, key: GroupKey, shown: tuple[str, ...]) -> _Group:
        running = self._running[number]
        group = running.groups[key] = _Group(open_window(running.correlation), shown)
        self._total += 1
        if len(running.groups) > GROUPS_OF_ONE:
            self._drop(running, next(iter(running.groups)))
            self._count("match_correlation_groups_evicted_total")
        if self._total > GROUPS_OF_ALL:
            most = max(self._running, key=lambda one: len(one.groups))
            self._drop(most, next(iter(most.groups)))
            self._count("match_correlation_groups_evicted_total")
        return group

    def _open_until(self, number: int, key: GroupKey, group: _Group, time_ms: int) -> None:
        group.opened_ms = time_ms
        heapq.heappush(self._closing, (time_ms + self._running[number].span_ms, number, key))

    def _drop(self, running: _Running, key: GroupKey) -> None:
        del running.groups[key]
        self._total -= 1
        self._gone.append((running.correlation.rule.id, running.digest, key))
        del self._gone[: -2 * GROUPS_OF_ALL]  # nobody takes them in replay

    def _sweep(self) -> None:
        """Forget groups whose window has long passed; a few at a time, the quietest first."""
        for running in self._running:
            for _ in range(2):
                key = next(iter(running.groups), None)
                if key is None:
                    break
                group = running.groups[key]
                if group.opened_ms is not None or group.newest_ms + running.span_ms + KEPT_MS >= self._now_ms:
                    break
                self._drop(running, key)

    def _count(self, name: str, number: int = 1) -> None:
        if self._counters is not None and number:
            self._counters.add(name, number)


def _evaluate(condition: syntax.Condition, present: Mapping[str, bool]) -> bool:
    if isinstance(condition, syntax.Named):
        return present.get(condition.name, False)
    if isinstance(condition, syntax.Not):
        return not _evaluate(condition.item, present)
    answers = (_evaluate(item, present) for item in condition.items)
    return all(answers) if condition.every else any(answers)


def _as_hit(match: Match) -> Hit:
    return Hit(match.rule.id, match, (GroupSubject(match.fields),))
