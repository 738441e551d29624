"""Events that mean something together: Sigma's correlations over a stream, in event time, within bounds.

`gt` and `gte` (and temporal kinds) hold the moment an event makes them true, and are said again once a timespan for as
long as they stay true. `lt`, `lte`, `eq`, `neq` and what must *not* happen can be known only when the window that a
group's first event opened has passed. See docs/rules.md.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from watchdogd.entities import CorrelationRow, Event
from watchdogd.match.grouping import GroupKey, read_groups, read_key, read_values, write_key
from watchdogd.match.running import LATE, Group, Running, Saved, read_saved, strip_sign
from watchdogd.match.subject import GroupSubject
from watchdogd.match.windows import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from watchdogd.entities import EventId, Match
    from watchdogd.match import syntax
    from watchdogd.match.subject import SourceSubject, Subject
    from watchdogd.telemetry import Counters

    Holds: TypeAlias = Callable[[Sequence[Subject]], bool]

GROUPS_OF_ONE = 4_096
"""Groups that one correlation remembers; the one that was quiet for longest goes first."""
GROUPS_OF_ALL = 16_384
ENTRIES_OF_ALL = 50_000
"""Events that all windows hold together; the correlation with the most of them gives up a group."""
COMPLETING_EVENTS = 128
"""Events that are kept whole because an alert may be about them once their window has passed."""
SETTLED_MS = 5_000
"""Events may come in another order than they happened: a window is judged so long after its end."""
KEPT_MS = 600_000
"""A group is remembered for so long after its window, so that what comes again is known."""
LATE_MS = 60_000
"""What is so much older than its window is not merely out of order: a log is read after a pause, or the clock was set
back. It counts apart, together with others as old."""
SET_BACK_MS = 3_600_000
"""If even among those one is so much older, the clock was set back again, and the group begins anew."""

_LONG_AGO = -(1 << 62)


class Hit(msgspec.Struct, frozen=True):
    """A rule that an event satisfied, and where its fields are read: the satisfying record or view first."""

    rule_id: str
    match: Match
    subjects: Sequence[SourceSubject]


class Firing(msgspec.Struct, frozen=True):
    """A correlation that holds, and the event that completed it: nothing but its id where the rest is forgotten."""

    match: Match
    event: Event


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
        self._running = [
            Running(number, one, [tuple(restrict(feed.rule_id, r) for r in feed.restrictions) for feed in one.feeds])
            for number, one in enumerate(active)
        ]
        self._hearing: dict[str, set[int]] = {}
        for running in self._running:
            for feed in running.correlation.feeds:
                self._hearing.setdefault(feed.rule_id, set()).add(running.number)
        self._counters: Counters | None = None
        self._closing: list[tuple[int, int, GroupKey]] = []
        self._completing: OrderedDict[EventId, Event] = OrderedDict()
        self._dirty: dict[tuple[int, GroupKey], None] = {}
        self._gone: list[tuple[str, str, GroupKey]] = []
        self._overdue: list[Firing] = []
        self._entries = 0
        self._now_ms = _LONG_AGO

    @property
    def fed_by(self) -> frozenset[str]:
        """Rules (and correlations) that a correlation hears of."""
        return frozenset(self._hearing)

    @property
    def waits(self) -> bool:
        """Whether a window is open that only time will judge."""
        return bool(self._closing or self._overdue)

    def offer(self, event: Event, hits: Sequence[Hit]) -> list[Match]:
        """Take in what an event satisfied; the correlations that hold now, chained ones included."""
        found: list[Match] = []
        heard: dict[str, list[Hit]] = {}
        waiting: set[int] = set()
        for hit in hits:
            heard.setdefault(hit.rule_id, []).append(hit)
            waiting |= self._hearing.get(hit.rule_id, set())
        while waiting:
            number = min(waiting)  # each stands behind those that it builds on
            waiting.discard(number)
            running = self._running[number]
            for match in self._take(running, heard, event):
                heard.setdefault(match.rule.id, []).append(_as_hit(match))
                waiting |= self._hearing.get(match.rule.id, set())
                if not running.correlation.silent:
                    found.append(match)
        return found

    def advance(self, time_ms: int, *, is_wall: bool = False) -> list[Firing]:
        """Judge the windows that have passed at this time; call it with each event's time before the event itself.

        With `is_wall` it is the time of the clock on the wall, which is believed where it was set back.
        """
        if is_wall and time_ms < self._now_ms - SET_BACK_MS:
            self._set_back(time_ms)
        self._now_ms = max(self._now_ms, time_ms)
        return self._close_until(self._now_ms - SETTLED_MS)

    def finish(self) -> list[Firing]:
        """Judge every window that is still open, as at the end of a recording."""
        return self._close_until(None)

    def _close_until(self, time_ms: int | None) -> list[Firing]:
        found, self._overdue = self._overdue, []
        while self._closing and (time_ms is None or self._closing[0][0] < time_ms):
            due_ms, number, key = heapq.heappop(self._closing)
            group = self._running[number].groups.get(key)
            if group is not None and group.opened_ms is not None and group.due_ms == due_ms:
                found += self._close(self._running[number], key, group)
        return found

    def _set_back(self, time_ms: int) -> None:
        self._now_ms = time_ms
        self._closing = []
        for running in self._running:
            for key, group in running.groups.items():
                group.touched_ms = time_ms
                if group.opened_ms is not None:
                    self._wait(running, key, group, time_ms)

    def count_in(self, counters: Counters) -> None:
        """Say from now on what is lost."""
        self._counters = counters

    # --- state ----------------------------------------------------------------------------------------------------

    def take_changes(self) -> list[CorrelationRow]:
        """Groups that changed since the last call, and those that are gone (without a state)."""
        self._sweep()
        rows = [CorrelationRow(rule_id, digest, write_key(key), None, 0) for rule_id, digest, key in self._gone]
        for number, key in self._dirty:
            running = self._running[number]
            group = running.groups[key]
            rule_id = running.correlation.rule.id
            rows.append(CorrelationRow(rule_id, running.digest, write_key(key), group.save(), group.newest_ms))
        self._gone, self._dirty = [], {}
        return rows

    def restore(self, rows: Iterable[CorrelationRow], now_ms: int = _LONG_AGO) -> None:
        """Take over what an earlier run left; rows of correlations that have changed or are gone are dropped.

        Windows that passed while nothing ran stay open for a timespan from `now_ms` on: the log is to be read first.
        """
        by_digest = {(running.correlation.rule.id, running.digest): running for running in self._running}
        rows = sorted(rows, key=lambda row: row.updated_ms)
        self._now_ms = max([now_ms] if now_ms > _LONG_AGO else [row.updated_ms for row in rows], default=_LONG_AGO)
        for row in rows:
            running = by_digest.get((row.rule_id, row.digest))
            key = read_key(row.group_key)
            saved = self._read(row)
            if running is None or saved is None:
                self._gone.append((row.rule_id, row.digest, key))
                continue
            group = self._open(running, key, saved.shown)
            group.load(saved, row.updated_ms)
            self._note_size(running, len(group.window.entries))
            group.touched_ms = self._now_ms
            if group.opened_ms is not None:
                self._wait(running, key, group, max(group.opened_ms, self._now_ms))

    def _read(self, row: CorrelationRow) -> Saved | None:
        try:
            return read_saved(row.state or b"")
        except ValueError:
            self._count("match_correlation_states_unread_total")
            return None

    def adopt(self, other: Correlator) -> None:
        """Go on with the state of the correlations that are the same in another one (a reload)."""
        theirs = {(one.correlation.rule.id, one.digest): one for one in other._running}
        self._now_ms, self._completing, self._overdue = other._now_ms, other._completing, other._overdue
        self._gone += other._gone
        for running in self._running:
            before = theirs.pop((running.correlation.rule.id, running.digest), None)
            if before is None:
                continue
            running.groups = before.groups
            self._note_size(running, before.entries)
            for key, group in running.groups.items():
                self._dirty[running.number, key] = None
                if group.opened_ms is not None:
                    heapq.heappush(self._closing, (group.due_ms, running.number, key))
        self._gone += [(one.correlation.rule.id, one.digest, key) for one in theirs.values() for key in one.groups]

    # --- one group ------------------------------------------------------------------------------------------------

    def _take(self, running: Running, heard: Mapping[str, Sequence[Hit]], event: Event) -> list[Match]:
        """Add all that one event brings, then judge each group that it belongs to."""
        touched: dict[GroupKey, Entry] = {}
        for place, feed in enumerate(running.correlation.feeds):
            for hit in heard.get(feed.rule_id, ()):
                if not all(holds(hit.subjects) for holds in running.restrictions[place]):
                    continue
                groups, dropped = read_groups(hit.subjects, feed)
                self._count("match_correlation_combinations_dropped_total", dropped)
                for value in read_values(running.correlation.kind, hit.subjects, feed) if groups else ():
                    event_id = hit.match.event_ids[-1]
                    entry = Entry(event_id.time_ms, event_id, place, value)
                    for shown in groups:
                        key = self._add(running, shown, entry, hit.match.category)
                        if key is not None:
                            touched[key] = entry
        found = []
        if touched and running.judged_late:
            self._keep_whole(event)
        elif touched:
            found = [match for key, entry in touched.items() if (match := self._judge(running, key, entry)) is not None]
        self._sweep()
        return found

    def _add(self, running: Running, shown: tuple[str, ...], entry: Entry, category: str) -> GroupKey | None:
        """Return the group whose window the entry is in now; None where it changes nothing."""
        key = self._choose_group(running, tuple(text.casefold() for text in shown), entry.time_ms)
        if key is None:
            return None
        group = running.groups.get(key) or self._open(running, key, shown)
        while group.opened_ms is not None and entry.time_ms > group.opened_ms + running.span_ms + SETTLED_MS:
            self._overdue += self._close(running, key, group)
        before = len(group.window.entries)
        dropped = group.window.add(entry)
        if dropped < 0:
            return None
        self._count("match_correlation_entries_dropped_total", dropped)
        group.newest_ms, group.category = max(group.newest_ms, entry.time_ms), category
        if not running.judged_late:
            group.window.prune(group.newest_ms - running.span_ms)
        self._note_size(running, len(group.window.entries) - before)
        self._now_ms = group.touched_ms = max(self._now_ms, entry.time_ms)
        running.groups.move_to_end(key)
        self._dirty[running.number, key] = None
        if running.judged_late:
            if group.opened_ms is None:
                self._wait(running, key, group, self._now_ms)
            group.opened_ms = entry.time_ms if group.opened_ms is None else min(group.opened_ms, entry.time_ms)
        while self._entries > ENTRIES_OF_ALL:
            self._evict(max(self._running, key=lambda one: one.entries))
        return key

    def _choose_group(self, running: Running, key: GroupKey, time_ms: int) -> GroupKey | None:
        """The group itself, the one of what comes much too late, or none (counted)."""
        over_ms = 0
        for chosen, patience_ms in ((key, LATE_MS), ((*key, LATE), SET_BACK_MS)):
            group = running.groups.get(chosen)
            over_ms = 0 if group is None else running.find_limit_ms(group) - time_ms
            if over_ms <= 0:
                return chosen
            if over_ms <= patience_ms:
                self._count("match_correlation_late_total")
                return None
        self._count("match_correlation_restarts_total")
        self._drop(running, (*key, LATE))
        return (*key, LATE)

    def _judge(self, running: Running, key: GroupKey, entry: Entry) -> Match | None:
        group = running.groups.get(key)
        if group is None or not running.holds(group.window):
            if group is not None:
                group.holding = False
            return None
        if group.holding and group.fired_ms is not None and group.newest_ms - group.fired_ms < running.span_ms:
            return None
        group.holding, group.fired_ms = True, group.newest_ms
        return running.build_match(group, key, group.window, entry.event)

    def _wait(self, running: Running, key: GroupKey, group: Group, from_ms: int) -> None:
        group.due_ms = from_ms + running.span_ms
        heapq.heappush(self._closing, (group.due_ms, running.number, key))

    def _close(self, running: Running, key: GroupKey, group: Group) -> list[Firing]:
        """Judge the window that has passed. What came after its end is the beginning of the next one."""
        end_ms = (group.opened_ms or 0) + running.span_ms
        entries = group.window.entries
        cut = bisect_right(entries, end_ms, key=lambda entry: entry.time_ms)
        window, group.window = running.fill(entries[:cut]), running.fill(entries[cut:])
        self._note_size(running, len(group.window.entries) - len(entries))
        group.opened_ms, group.closed_ms = None, end_ms
        self._dirty[running.number, key] = None
        if group.window.entries:
            group.opened_ms = group.window.entries[0].time_ms
            self._wait(running, key, group, group.opened_ms + max(0, group.due_ms - end_ms))
        if not window.entries or not running.holds(window):
            return []
        event_id = window.entries[-1].event
        event = self._completing.get(event_id) or Event(event_id, event_id.source)
        match = running.build_match(group, key, window, event_id)
        own = [] if running.correlation.silent else [Firing(match, event)]
        return own + [Firing(above, event) for above in self.offer(event, [_as_hit(match)])]

    def _keep_whole(self, event: Event) -> None:
        self._completing[event.id] = event
        self._completing.move_to_end(event.id)
        if len(self._completing) > COMPLETING_EVENTS:
            self._completing.popitem(last=False)

    # --- bounds ---------------------------------------------------------------------------------------------------

    def _open(self, running: Running, key: GroupKey, shown: tuple[str, ...]) -> Group:
        if len(running.groups) >= GROUPS_OF_ONE:
            self._evict(running)
        if sum(len(one.groups) for one in self._running) >= GROUPS_OF_ALL:
            self._evict(max(self._running, key=lambda one: len(one.groups)))
        return running.open_group(key, shown)

    def _evict(self, running: Running) -> None:
        self._drop(running, next(iter(running.groups)))
        self._count("match_correlation_groups_evicted_total")

    def _drop(self, running: Running, key: GroupKey) -> None:
        group = running.groups.pop(key)
        self._note_size(running, -len(group.window.entries))
        self._dirty.pop((running.number, key), None)
        self._gone.append((running.correlation.rule.id, running.digest, key))
        del self._gone[: -2 * GROUPS_OF_ALL]  # nobody takes them in replay

    def _note_size(self, running: Running, change: int) -> None:
        running.entries += change
        self._entries += change

    def _sweep(self) -> None:
        """Forget groups that nothing was added to for long; a few at a time, the quietest first."""
        for running in self._running:
            for _ in range(2):
                key = next(iter(running.groups), None)
                if key is None:
                    break
                group = running.groups[key]
                if group.opened_ms is not None or group.touched_ms + running.span_ms + KEPT_MS >= self._now_ms:
                    break
                self._drop(running, key)

    def _count(self, name: str, number: int = 1) -> None:
        if self._counters is not None and number:
            self._counters.add(name, number)


def _as_hit(match: Match) -> Hit:
    """A correlation as the event that it is to those above: its number stands without the sign that there is more."""
    return Hit(match.rule.id, match, (GroupSubject(strip_sign(match.fields)),))
