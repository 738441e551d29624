"""One correlation at work: its groups, and whether what is in a group's window makes it hold."""

from __future__ import annotations

import json
import operator
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from watchdogd.entities import Match
from watchdogd.match import syntax
from watchdogd.match.grouping import GroupKey, digest_correlation
from watchdogd.match.subject import show_value
from watchdogd.match.windows import Entry, Window, is_judged_late, open_window

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from watchdogd.entities import EventId
    from watchdogd.match.subject import Subject

    Holds: TypeAlias = Callable[[Sequence[Subject]], bool]

LATE = "\x00late"
"""Last part of the key of a group that holds what comes much too late: a log read after a pause, a clock set back."""

SHOWN_EVENTS = 64
"""Contributing events that an alert names: the newest."""

_LONG_AGO = -(1 << 62)
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
"""Under which name an alert, and what builds on a correlation, finds its number."""


class Saved(msgspec.Struct, frozen=True, array_like=True):
    """A group as it is written to disk."""

    shown: tuple[str, ...]
    entries: list[Entry]
    fired_ms: int | None
    holding: bool
    opened_ms: int | None
    closed_ms: int
    category: str


def read_saved(state: bytes) -> Saved:
    """What `Group.save` wrote. Raises ValueError where it is something else."""
    if state.startswith(b"["):
        return msgspec.convert(json.loads(state), Saved)
    return msgspec.msgpack.decode(state, type=Saved)


class Group:
    """What one correlation knows of one combination of values."""

    __slots__ = (
        "category",
        "closed_ms",
        "due_ms",
        "fired_ms",
        "holding",
        "newest_ms",
        "opened_ms",
        "shown",
        "touched_ms",
        "window",
    )

    def __init__(self, window: Window, shown: tuple[str, ...]) -> None:
        self.window = window
        self.shown = shown
        self.newest_ms = _LONG_AGO
        self.touched_ms = _LONG_AGO
        """The correlator's time when something was last added."""
        self.fired_ms: int | None = None
        self.holding = False
        self.opened_ms: int | None = None
        """Time of the first event, where only the end of the window can tell."""
        self.closed_ms = _LONG_AGO
        """End of the last window that was judged so."""
        self.due_ms = _LONG_AGO
        """The correlator's time when this one is to be judged."""
        self.category = ""

    def save(self) -> bytes:
        """What `Saved` lists, as the database keeps it."""
        saved = Saved(
            self.shown, self.window.entries, self.fired_ms, self.holding, self.opened_ms, self.closed_ms, self.category
        )
        try:
            return msgspec.msgpack.encode(saved)
        except (UnicodeEncodeError, OverflowError):  # lone surrogates, whole numbers of more than 64 bits
            return json.dumps(msgspec.to_builtins(saved)).encode()

    def load(self, saved: Saved, newest_ms: int) -> None:
        """Go on where another run stopped."""
        for entry in saved.entries:
            self.window.add(entry)
        self.newest_ms = newest_ms
        self.fired_ms, self.holding, self.category = saved.fired_ms, saved.holding, saved.category
        self.opened_ms, self.closed_ms = saved.opened_ms, saved.closed_ms


class Running:
    """One correlation with its groups, the one quiet for longest first."""

    def __init__(self, number: int, correlation: syntax.Correlation, restrictions: Sequence[tuple[Holds, ...]]) -> None:
        """`restrictions`: the filters of each feed, compiled."""
        self.number = number
        self.correlation = correlation
        self.restrictions = restrictions
        self.span_ms = correlation.timespan_ms
        self.digest = digest_correlation(correlation)
        self.judged_late = is_judged_late(correlation)
        self.groups: OrderedDict[GroupKey, Group] = OrderedDict()
        self.entries = 0
        """In all groups together."""
        self._names = {feed.reference: place for place, feed in enumerate(correlation.feeds)}

    def open_group(self, key: GroupKey, shown: tuple[str, ...]) -> Group:
        """Return a new group without entries."""
        group = self.groups[key] = Group(open_window(self.correlation), shown)
        return group

    def find_limit_ms(self, group: Group) -> int:
        """Return the oldest time that still belongs to the group's window."""
        if not self.judged_late:
            return group.newest_ms - self.span_ms
        opened_ms = group.closed_ms + 1 if group.opened_ms is None else group.opened_ms - self.span_ms
        return max(opened_ms, group.closed_ms + 1)

    def fill(self, entries: Sequence[Entry]) -> Window:
        """Return a window with just these entries."""
        window = open_window(self.correlation)
        for entry in entries:
            window.add(entry)
        return window

    def build_match(self, group: Group, key: GroupKey, window: Window, completing: EventId) -> Match:
        """Return the match, the completing event last. A number that may be greater ends in `+`."""
        correlation = self.correlation
        ids = dict.fromkeys(entry.event for entry in window.entries)
        ids.pop(completing, None)
        number = window.measure()
        measured = "" if number is None else show_value(round(number, 6))
        fields = dict(zip(correlation.group_by, group.shown, strict=True))
        fields.pop(_MEASURES[correlation.kind], None)
        fields[_MEASURES[correlation.kind]] = f"{measured}+" if window.is_cut else measured
        return Match(
            rule=correlation.rule,
            event_ids=(*tuple(ids)[1 - SHOWN_EVENTS :], completing),
            fields=fields,
            category=group.category,
            group=key[: len(correlation.group_by)],
            first_seen_ms=window.entries[0].time_ms,
        )

    def holds(self, window: Window) -> bool:
        """Whether expression and bounds are satisfied."""
        correlation = self.correlation
        if correlation.expression is not None:
            present = {name: place in window.feeds for name, place in self._names.items()}
            if not _evaluate(correlation.expression, present):
                return False
            return correlation.kind != "temporal_ordered" or window.measure() == len(window.feeds)
        number = window.measure()
        if not correlation.bounds:
            return number is not None and number >= len(correlation.feeds)
        return number is not None and all(_OPERATORS[b.operator](number, b.number) for b in correlation.bounds)


def strip_sign(fields: Mapping[str, str]) -> dict[str, str]:
    """Fields of a correlation's match with its number (the last one) bare of the sign that there is more."""
    *_, name = fields
    return {**fields, name: fields[name].removesuffix("+")}


def _evaluate(condition: syntax.Condition, present: Mapping[str, bool]) -> bool:
    if isinstance(condition, syntax.Named):
        return present.get(condition.name, False)
    if isinstance(condition, syntax.Not):
        return not _evaluate(condition.item, present)
    answers = (_evaluate(item, present) for item in condition.items)
    return all(answers) if condition.every else any(answers)
