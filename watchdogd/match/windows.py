"""What a correlation has seen in one group, within its timespan: as little of it as its question needs.

A window covers `[newest - timespan, newest]` of event time, both ends included. Records may come out of order; what is
older than the window is refused.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from watchdogd.entities import EventId  # noqa: TC001 - msgspec reads the annotations
from watchdogd.match import syntax

if TYPE_CHECKING:
    from collections.abc import Sequence

Value: TypeAlias = str | float | None

ENTRIES_LIMIT = 4_096
"""What a window holds at most; a question that needs more is answered by the newest, and the rest is counted."""
_ORDERED_LIMIT = 256


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One event that takes part. `feed` is the place of its rule in the correlation."""

    time_ms: int
    event: EventId
    feed: int
    value: Value = None


def sort_key(entry: Entry) -> tuple[int, int, str, str, int]:
    """Order in time; serials tell what came first within a millisecond."""
    event = entry.event
    return entry.time_ms, event.serial, event.node or "", event.name, entry.feed


class Window:
    """Entries in order of time. `limit` bounds them, the oldest go first."""

    def __init__(self, limit: int = ENTRIES_LIMIT) -> None:
        self.entries: list[Entry] = []
        self.feeds: Counter[int] = Counter()
        """How many entries each of the rules has."""
        self._known: set[tuple[EventId, int, Value]] = set()
        self._limit = max(1, min(limit, ENTRIES_LIMIT))
        self._cut_ms: int | None = None
        self._pruned_ms = -(1 << 62)

    @property
    def is_cut(self) -> bool:
        """Whether entries that belong here had to go: what is measured is at least so much."""
        return self._cut_ms is not None and bool(self.entries) and self._cut_ms >= self._pruned_ms

    def add(self, entry: Entry) -> int:
        """Take an entry in; how many others had to go for it, -1 where it is known already or adds nothing."""
        identity = (entry.event, entry.feed, entry.value)
        if identity in self._known:
            return -1
        if len(self.entries) >= self._limit and sort_key(entry) < sort_key(self.entries[0]):
            return -1
        self._known.add(identity)
        self.feeds[entry.feed] += 1
        insort(self.entries, entry, key=sort_key)
        dropped = 0
        while len(self.entries) > self._limit:
            self._cut_ms = self.entries[0].time_ms
            self._forget(0)
            dropped += 1
        return dropped

    def prune(self, before_ms: int) -> None:
        """Forget what is older than that."""
        self._pruned_ms = before_ms
        if self.entries and self.entries[0].time_ms < before_ms:
            for _ in range(bisect_left(self.entries, before_ms, key=lambda entry: entry.time_ms)):
                self._forget(0)

    def measure(self) -> float | None:
        """The number that the correlation's bounds ask for (here how many of the rules have occurred).

        None where nothing can be said yet.
        """
        return len(self.feeds)

    def _forget(self, place: int) -> None:
        entry = self.entries.pop(place)
        self._known.discard((entry.event, entry.feed, entry.value))
        self.feeds[entry.feed] -= 1
        if not self.feeds[entry.feed]:
            del self.feeds[entry.feed]


class CountWindow(Window):
    """`event_count`: an event counts once, however many of the rules it satisfies."""

    def add(self, entry: Entry) -> int:
        """As Window.add; more than the bound asks for is not worth keeping, and not a loss."""
        dropped = super().add(msgspec.structs.replace(entry, feed=0))
        return min(dropped, 0) if self._limit < ENTRIES_LIMIT else dropped

    def measure(self) -> float:
        """How many events."""
        return len(self.entries)


class DistinctWindow(Window):
    """`value_count`: the newest entry of each value."""

    def __init__(self, limit: int = ENTRIES_LIMIT) -> None:
        super().__init__(limit)
        self._newest: dict[Value, Entry] = {}

    def add(self, entry: Entry) -> int:
        """As Window.add; an older entry of the same value makes place."""
        known = self._newest.get(entry.value)
        if known is not None:
            if sort_key(known) >= sort_key(entry):
                return -1
            self._forget(bisect_left(self.entries, sort_key(known), key=sort_key))
        dropped = super().add(entry)
        if dropped >= 0:
            self._newest[entry.value] = entry
        return min(dropped, 0) if self._limit < ENTRIES_LIMIT else dropped

    def measure(self) -> float:
        """How many different values."""
        return len(self.entries)

    def _forget(self, place: int) -> None:
        entry = self.entries[place]
        if self._newest.get(entry.value) is entry:
            del self._newest[entry.value]
        super()._forget(place)


class ValuesWindow(Window):
    """`value_count` where only the end of the window tells: every entry, as it is not known yet which ones belong."""

    def measure(self) -> float:
        """How many different values."""
        return len({entry.value for entry in self.entries})


class NumberWindow(Window):
    """`value_sum`, `value_avg`, `value_median`, `value_percentile`; percentiles are interpolated between ranks.

    The sum is exact whatever comes and goes; the values are kept in order. An event counts once, as in CountWindow.
    """

    def __init__(self, kind: str, percentile: float | None) -> None:
        super().__init__()
        self._kind = kind
        self._percentile = 50.0 if percentile is None else percentile
        self._ordered: list[float] = []
        self._sum: int | Fraction = 0

    def add(self, entry: Entry) -> int:
        """As Window.add."""
        if not isinstance(entry.value, int | float):
            return -1
        dropped = super().add(msgspec.structs.replace(entry, feed=0))
        if dropped >= 0:
            insort(self._ordered, entry.value)
            self._sum += _make_exact(entry.value)
        return dropped

    def measure(self) -> float | None:
        """The number over all values of the window, None without any."""
        if not self._ordered:
            return None
        if self._kind == "value_sum":
            return _make_float(self._sum)
        if self._kind == "value_avg":
            return _make_float(Fraction(self._sum) / len(self._ordered))
        return pick_percentile(self._ordered, self._percentile)

    def _forget(self, place: int) -> None:
        value = self.entries[place].value
        super()._forget(place)
        if isinstance(value, int | float):
            del self._ordered[bisect_left(self._ordered, value)]
            self._sum -= _make_exact(value)


class TemporalWindow(Window):
    """`temporal`: the newest entry of each rule."""

    def add(self, entry: Entry) -> int:
        """As Window.add; an older entry of the same rule makes place."""
        for place, known in enumerate(self.entries):
            if known.feed == entry.feed:
                if sort_key(known) >= sort_key(entry):
                    return -1
                self._forget(place)
                break
        return super().add(entry)


class OrderedWindow(Window):
    """`temporal_ordered`: how far the rules have occurred one after the other, each by an event of its own."""

    def __init__(self) -> None:
        super().__init__(_ORDERED_LIMIT)

    def measure(self) -> float:
        """Length of the longest chain of events whose rules stand in order."""
        if len(self.feeds) < 2:  # noqa: PLR2004 - nothing to put in order
            return len(self.feeds)
        best: dict[int, int] = {}
        pending: list[tuple[int, int]] = []
        moment: tuple[int, int, str, str] | None = None
        for entry in self.entries:
            here = sort_key(entry)[:4]
            if here != moment:
                _merge(best, pending)
                pending, moment = [], here
            longest = max((length for feed, length in best.items() if feed < entry.feed), default=0)
            pending.append((entry.feed, longest + 1))
        _merge(best, pending)
        return max(best.values(), default=0)


def _merge(best: dict[int, int], pending: list[tuple[int, int]]) -> None:
    for feed, length in pending:
        best[feed] = max(best.get(feed, 0), length)


def pick_percentile(ordered: Sequence[float], percentile: float) -> float:
    """Percentile between 0 and 100 of numbers in order, linear between the two nearest ranks."""
    place = (len(ordered) - 1) * percentile / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _make_exact(number: float) -> int | Fraction:
    return int(number) if number == int(number) else Fraction(number)


def _make_float(number: int | Fraction) -> float:
    try:
        return int(number) if number == int(number) else float(number)
    except OverflowError:
        return math.copysign(math.inf, number)


def open_window(correlation: syntax.Correlation) -> Window:
    """An empty window of the kind that a correlation needs."""
    kind = correlation.kind
    if kind == "event_count":
        return CountWindow(_count_needed(correlation))
    if kind == "value_count":
        return ValuesWindow() if is_judged_late(correlation) else DistinctWindow(_count_needed(correlation))
    if kind == "temporal":
        return Window() if is_judged_late(correlation) else TemporalWindow()
    if kind == "temporal_ordered":
        return OrderedWindow()
    return NumberWindow(kind, correlation.percentile)


def _count_needed(correlation: syntax.Correlation) -> int:
    """How many entries decide the bounds: more change nothing."""
    if is_judged_late(correlation):
        return ENTRIES_LIMIT
    numbers = [int(bound.number) + 1 for bound in correlation.bounds]
    return max(numbers, default=1)


def is_judged_late(correlation: syntax.Correlation) -> bool:
    """Whether only the end of the window can tell: an upper bound, or something that must not happen."""
    return any(bound.operator not in {"gt", "gte"} for bound in correlation.bounds) or _denies(correlation.expression)


def _denies(condition: syntax.Condition | None) -> bool:
    if isinstance(condition, syntax.Not):
        return True
    return isinstance(condition, syntax.Junction) and any(_denies(item) for item in condition.items)
