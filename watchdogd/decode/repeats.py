"""Which events were given already, and by which source: the log and the kernel's socket tell of the same ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from watchdogd.entities import EventId

EVENTS_LIMIT: Final = 16_384
KEEP_MS: Final = 300_000
"""How long the slower source may take at least; past it an event is given twice, under the same id."""

_SERIAL_BITS: Final = 32
_TIME_MASK: Final = 2**28 - 1
"""Three days in milliseconds: with the serial a number that takes 32 bytes, where the whole time would take 48."""
_KINDS_LIMIT: Final = 256


class _Given(NamedTuple):
    source: str
    node: str | None
    whole: bool


class Repeats:
    """Remembers the last events by time and serial, bounded in number and by age. Not thread-safe.

    A source may leave out the node's name where the other one writes it, so no name is like any name. Only an event
    that was given whole makes the other source's a repeat. Forgetting costs work and no more: alerts keep their id.

    Two generations are kept, and the former one is forgotten when the present one is full or old: at 90 bytes an event,
    with no time of its own to each, an hour of work takes 1 MB where it took 4.
    """

    def __init__(self, *, limit: int = EVENTS_LIMIT, keep_ms: int = KEEP_MS) -> None:
        """At least `limit` events are remembered for `keep_ms`, at most twice as many for twice as long."""
        self._limit = limit
        self._keep_ms = keep_ms
        self._given: dict[int, _Given] = {}
        self._former: dict[int, _Given] = {}
        self._since_ms = 0
        self._kinds: dict[_Given, _Given] = {}

    def __len__(self) -> int:
        return len(self._given.keys() | self._former.keys())

    def find(self, source: str, event_id: EventId) -> bool | None:
        """Whether another source gave this event whole (True) or with records missing (False); None for not at all."""
        given = self._find(_key(event_id))
        if given is None or given.source == source:
            return None
        if given.node is not None and event_id.node is not None and given.node != event_id.node:
            return None
        return given.whole

    def note(self, source: str, event_id: EventId, now_ms: int, *, whole: bool) -> None:
        """This source has given this event. Whole stays whole, whatever fragments follow."""
        key = _key(event_id)
        given = self._find(key)
        if given is not None and given.whole:
            return
        if len(self._given) >= self._limit or not 0 <= now_ms - self._since_ms < self._keep_ms:
            self._former, self._given, self._since_ms = self._given, {}, now_ms
        self._given[key] = self._share(_Given(source, event_id.node, whole))

    def _find(self, key: int) -> _Given | None:
        return self._given.get(key) or self._former.get(key)

    def _share(self, given: _Given) -> _Given:
        """The same object for all that are alike. The log says what nodes are called, so there may be any number."""
        if len(self._kinds) >= _KINDS_LIMIT:
            self._kinds.clear()
        return self._kinds.setdefault(given, given)


def _key(event_id: EventId) -> int:
    return (event_id.time_ms & _TIME_MASK) << _SERIAL_BITS | event_id.serial
