"""How often a pattern was seen on this host: a program, below its parent program, by a kind of user."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from watchdogd.entities import Rarity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from watchdogd.entities import Process

_FIRST_HUMAN_UID = 1000
_NOBODY_UIDS = frozenset({65534, 4294967295})


class Baseline:
    """Counts of patterns, bounded: the one unseen for longest is forgotten first.

    `take_changes` hands what changed to the store, so that rarity survives a restart.
    """

    def __init__(self, known: Mapping[str, tuple[int, int]] | None = None, *, limit: int = 8_192) -> None:
        self._limit = limit
        self._counts: OrderedDict[str, tuple[int, int]] = OrderedDict(known or {})
        self._changes: dict[str, tuple[int, int]] = {}

    def observe(self, process: Process, lineage: tuple[Process, ...], time_ms: int) -> Rarity:
        """Count one start of a program; the rarity returned is that of the moment before."""
        rarity = self.look_up(process, lineage)
        count, first_ms = self._counts.get(rarity.pattern, (0, time_ms))
        self._counts[rarity.pattern] = (count + 1, first_ms)
        self._counts.move_to_end(rarity.pattern)
        delta, _ = self._changes.get(rarity.pattern, (0, first_ms))
        self._changes[rarity.pattern] = (delta + 1, first_ms)
        while len(self._counts) > self._limit:
            self._counts.popitem(last=False)
        while len(self._changes) > self._limit:  # nobody takes them in replay
            del self._changes[next(iter(self._changes))]
        return rarity

    def look_up(self, process: Process, lineage: tuple[Process, ...]) -> Rarity:
        """Rarity of a process without counting it."""
        pattern = name_pattern(process, lineage)
        count, first_ms = self._counts.get(pattern, (0, None))
        return Rarity(pattern=pattern, seen=count, first_seen_ms=first_ms, observed=len(self._counts))

    def take_changes(self) -> dict[str, tuple[int, int]]:
        """Pattern to (how often since the last call, first seen in ms); forgets them."""
        changes, self._changes = self._changes, {}
        return changes


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
