"""Which events were given already, and by which source: the log and the kernel's socket tell of the same ones."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from watchdogd.entities import EventId

EVENTS_LIMIT: Final = 16_384
KEEP_MS: Final = 600_000
"""How long the slower source may take; past it an event is given twice, under the same id."""

_SERIAL_BITS: Final = 32


class _Given(NamedTuple):
    source: str
    node: str | None
    whole: bool
    at_ms: int


class Repeats:
    """Remembers the last events by time and serial, bounded in number and by age. Not thread-safe.

    A source may leave out the node's name where the other one writes it, so no name is like any name. Only an event
    that was given whole makes the other source's a repeat. Forgetting costs work and no more: alerts keep their id.
    """

    def __init__(self, *, limit: int = EVENTS_LIMIT, keep_ms: int = KEEP_MS) -> None:
        self._limit = limit
        self._keep_ms = keep_ms
        self._given: OrderedDict[int, _Given] = OrderedDict()

    def __len__(self) -> int:
        return len(self._given)

    def find(self, source: str, event_id: EventId) -> bool | None:
        """Whether another source gave this event whole (True) or with records missing (False); None for not at all."""
        given = self._given.get(_key(event_id))
        if given is None or given.source == source:
            return None
        if given.node is not None and event_id.node is not None and given.node != event_id.node:
            return None
        return given.whole

    def note(self, source: str, event_id: EventId, now_ms: int, *, whole: bool) -> None:
        """This source has given this event. Whole stays whole, whatever fragments follow."""
        key = _key(event_id)
        given = self._given.get(key)
        if given is not None and given.whole:
            return
        self._given[key] = _Given(source, event_id.node, whole, now_ms)
        self._given.move_to_end(key)
        while len(self._given) > self._limit or self._is_old(now_ms):
            self._given.popitem(last=False)

    def _is_old(self, now_ms: int) -> bool:
        return now_ms - next(iter(self._given.values())).at_ms > self._keep_ms


def _key(event_id: EventId) -> int:
    return event_id.time_ms << _SERIAL_BITS | event_id.serial
