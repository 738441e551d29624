"""How often a pattern was seen on this host: a program, below its parent program, by a kind of user."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import TYPE_CHECKING

from watchdogd.entities import DAY_MS, RECENT_DAYS, Rarity, Seen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from watchdogd.entities import Process

_FIRST_HUMAN_UID = 1000
_LAST_DAY = (1 << 31) - 1
_NOBODY_UIDS = frozenset({65534, 4294967295})


class Baseline:
    """Counts of patterns, bounded: the one unseen for longest is forgotten first.

    `take_changes` hands what changed to the store, so that rarity survives a restart.
    """

    def __init__(self, known: Mapping[str, Seen] | None = None, *, limit: int = 8_192) -> None:
        self._limit = limit
        self._counts: OrderedDict[str, _Counted] = OrderedDict(
            (pattern, _Counted(seen)) for pattern, seen in (known or {}).items()
        )
        self._changes: dict[str, _Counted] = {}

    def observe(self, process: Process, lineage: tuple[Process, ...], time_ms: int) -> Rarity:
        """Count one start of a program; the rarity returned is that of the moment before."""
        rarity = self.look_up(process, lineage, time_ms)
        pattern = rarity.pattern
        for counts in (self._counts, self._changes):
            counted = counts.get(pattern)
            if counted is None:
                first_ms = time_ms if rarity.first_seen_ms is None else rarity.first_seen_ms
                counted = counts[pattern] = _Counted(Seen(0, first_ms))
            counted.add(time_ms)
        self._counts.move_to_end(pattern)
        while len(self._counts) > self._limit:
            self._counts.popitem(last=False)
        while len(self._changes) > self._limit:  # nobody takes them in replay
            del self._changes[next(iter(self._changes))]
        return rarity

    def look_up(self, process: Process, lineage: tuple[Process, ...], time_ms: int) -> Rarity:
        """Rarity of a process at that time, without counting it."""
        pattern = name_pattern(process, lineage)
        counted = self._counts.get(pattern)
        if counted is None:
            return Rarity(pattern=pattern, seen=0, first_seen_ms=None, observed=len(self._counts), recent=0)
        return Rarity(
            pattern=pattern,
            seen=counted.count,
            first_seen_ms=counted.first_ms,
            observed=len(self._counts),
            recent=counted.count_recent(time_ms),
        )

    def take_changes(self) -> dict[str, Seen]:
        """By pattern, what came since the last call; forgets it."""
        changes, self._changes = self._changes, {}
        return {pattern: counted.freeze() for pattern, counted in changes.items()}


class _Counted:
    """A count in all, and by day: day and count in turn, the last 30 days that had any."""

    __slots__ = ("count", "days", "days_from", "first_ms", "recent", "recent_day")

    def __init__(self, seen: Seen) -> None:
        self.count = seen.count
        self.first_ms = seen.first_ms
        self.days = array("Q", [number for day in seen.days for number in day])
        self.days_from = seen.days_from
        self.recent: int | None = None
        self.recent_day = -1

    def add(self, time_ms: int) -> None:
        """Count one. What comes with a time before the last day's belongs to the last day."""
        self.count += 1
        self.recent_day = -1
        day = _name_day(time_ms)
        if self.days and day <= self.days[-2]:
            self.days[-1] += 1
            return
        self.days.extend((day, 1))
        del self.days[: -2 * RECENT_DAYS]

    def count_recent(self, time_ms: int) -> int | None:
        """How often in the 30 days up to that time; None where not all of those days were counted."""
        today = _name_day(time_ms)
        if today != self.recent_day:
            self.recent_day = today
            since = today - RECENT_DAYS + 1
            unknown = self.days_from > since and _name_day(self.first_ms) < self.days_from
            days = iter(self.days)
            counts = (count for day, count in zip(days, days, strict=True) if day >= since)
            self.recent = None if unknown else sum(counts)
        return self.recent

    def freeze(self) -> Seen:
        """As the store takes it."""
        days = iter(self.days)
        return Seen(self.count, self.first_ms, tuple(zip(days, days, strict=True)), self.days_from)


def _name_day(time_ms: int) -> int:
    """Days since the epoch; a garbled time must not stop an event."""
    return min(max(time_ms // DAY_MS, 0), _LAST_DAY)


def name_pattern(process: Process, lineage: tuple[Process, ...]) -> str:
    """Program, parent program and kind of user (root, service or person: a name says nothing on another host)."""
    parent = lineage[0].exe if lineage else None
    return f"{process.exe or '?'} < {parent or '?'} < {_name_kind(process.uid)}"


def _name_kind(uid: int | None) -> str:
    if uid is None:
        return "?"
    if uid == 0:
        return "root"
    return "person" if uid >= _FIRST_HUMAN_UID and uid not in _NOBODY_UIDS else "service"
