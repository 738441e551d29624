"""Records back into events. Records of one event interleave with those of others and may arrive in any order.

Events leave in the order of their first lines, so an event is let go when it is at the head and ready. Ready means:
- live: at once for a type that stands alone (`tables.stands_alone`) and once SYSCALL and EOE were seen; 20 ms after the
  last record once PROCTITLE was seen; when lines of newer events come 20 ms or more after the last record (that a
  reader pauses is no quiet); else 1 s after the first record. Time is the caller's clock.
- replay: when 256 newer events were opened. No clock takes part, so the same lines always give the same events.
- both: when more than 256 newer events or 64 MiB are open.
Records that come after their event left form an event of the same id, marked `late`. A line that was there before, byte
for byte, is a duplicate and no part of an event.
"""

from __future__ import annotations

import heapq
import operator
from array import array
from collections import deque
from collections.abc import Sequence  # noqa: TC003 - msgspec reads annotations at run time
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.decode import tables
from watchdogd.decode.record import AuditLine, match_plain_header, parse_header, split_stamp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from watchdogd.entities import Record

WINDOW_EVENTS: Final = 256
QUIET_MS: Final = 20
AGE_MS: Final = 1_000
OPEN_BYTES: Final = 64 << 20
REMEMBERED_EVENTS: Final = 1024
"""How many events that left are remembered, to know a late record."""

_REMEMBERED_BYTES: Final = 4096
"""In replay, lines of an event that left are kept up to this; they are digested when one comes late, others at once.
Live all are digested, which takes 0.1 MB instead of 1."""

Key = bytes | tuple[str, bytes]
"""A header's stamp; with the node in front where there is one."""

_DATA: Final = operator.attrgetter("data")
_NO_STAMP: Final = b"no stamp"
"""No line has it behind its first space."""

_CLOSING: Final = frozenset({"PROCTITLE", "EOE"})
_BEGINNING: Final = frozenset({"SYSCALL", "URINGOP"})
_SERIALS: Final = 2**32
_LATE_MS: Final = 2_000
"""A serial from before that comes with a time this much newer belongs to another boot."""

_FARTHEST_GAP: Final = 2**20
"""A jump beyond this is another boot or another host's log, not loss."""


class OpenEvent(msgspec.Struct, gc=False, eq=False):
    """Records of one event so far."""

    key: Key
    number: int
    time_ms: int
    serial: int
    first_ms: int
    last_ms: int
    late: bool
    broken: bool = False
    records: list[AuditLine] = []
    duplicates: Sequence[AuditLine] = ()
    closing: bool = False
    alone: bool = False
    begun: bool = False
    ended: bool = False
    scanned: int = 0

    @property
    def node(self) -> str | None:
        """The host that recorded it, where the line says so."""
        return None if isinstance(self.key, bytes) else self.key[0]

    @property
    def stamp(self) -> bytes:
        """What stands in the header of each record."""
        return self.key if isinstance(self.key, bytes) else self.key[1]

    def is_ready(self, now_ms: int, newer_ms: int | None) -> bool:
        """True where a live reader need not wait any longer; `newer_ms` is when lines of newer events came last."""
        for line in self.records[self.scanned :]:
            kind = line.type
            self.begun = self.begun or kind in _BEGINNING
            self.closing = self.closing or kind in _CLOSING
            self.ended = self.ended or kind == "EOE"
            self.alone = self.alone or tables.stands_alone(kind)
        self.scanned = len(self.records)
        if self.alone or (self.begun and self.ended):
            return True
        if self.closing and not 0 <= now_ms - self.last_ms < QUIET_MS:
            return True
        if newer_ms is not None and not 0 <= newer_ms - self.last_ms < QUIET_MS:
            return True
        return not 0 <= now_ms - self.first_ms < AGE_MS


class Reassembler:
    """Keeps open events. `live` decides whose time counts: the caller's clock, or the log's own."""

    def __init__(self, *, live: bool) -> None:
        self._live = live
        self._kept_bytes = 0 if live else _REMEMBERED_BYTES
        self._open: dict[Key, OpenEvent] = {}
        self._queue: deque[OpenEvent] = deque()
        self._ready: list[OpenEvent] = []
        self._left: dict[Key, Sequence[bytes] | array[int]] = {}
        self._left_order: deque[Key] = deque()
        self._opened = 0
        self._size = 0
        self._kinds = {b"type=" + name: kind for name, kind in tables.names_of_types().items()}
        self._garbage: list[Record] = []
        self._hole_ms = 0
        self._fed_ms = 0

    @property
    def pending(self) -> int:
        """Events that are still open."""
        return len(self._queue)

    @property
    def pending_lines(self) -> int:
        """Lines that were taken and did not leave yet."""
        waiting = sum(len(event.records) + len(event.duplicates) for event in (*self._queue, *self._ready))
        return waiting + len(self._garbage)

    def take_garbage(self) -> list[Record]:
        """Lines that were no audit records, since this was last called."""
        garbage, self._garbage = self._garbage, []
        return garbage

    def note_hole(self, hole_ms: int) -> None:
        """Lines were lost here, the last of them at this time: what is under way may lack records.

        Those are events that have not seen their last record, and those still to come that began before.
        """
        self._hole_ms = max(self._hole_ms, hole_ms)
        for event in self._queue:
            event.broken = event.broken or not any(line.type in _CLOSING for line in event.records)

    def feed(self, records: Sequence[Record], now_ms: int) -> list[OpenEvent]:
        """Take lines; give back the events that are ready. `now_ms` is the caller's clock (unused in replay)."""
        if records:
            self._fed_ms = now_ms
        size = sum(map(len, map(_DATA, records)))
        if self._size + size <= OPEN_BYTES:
            self._size += size
            self._take(records, now_ms)
        else:  # line by line: what leaves does not depend on where a batch ends
            for record in records:
                self._size += len(record.data)
                self._take((record,), now_ms)
                if self._size > OPEN_BYTES:
                    self._shed()
        return self.release(now_ms)

    def _take(self, records: Sequence[Record], now_ms: int) -> None:
        """Put each line to its event. It is first held against the header before it: mostly that is the same."""
        kinds, open_events = self._kinds, self._open
        nowhere: list[AuditLine] = []
        append = nowhere.append
        stamp = _NO_STAMP
        width = 0
        for record in records:
            data = record.data
            at = data.find(b" ")
            if data.startswith(stamp, at):
                kind = kinds.get(data[:at])
                if kind is not None:
                    append(AuditLine(kind, record, at + width))
                    continue
            header = _read_header(data, kinds)
            if header is None:
                self._size -= len(data)
                self._garbage.append(record)
                continue
            kind, key, stamp, body_at = header
            width = len(stamp)
            event = open_events.get(key)
            if event is None:
                event = self._start(key, now_ms)
            else:
                event.last_ms = now_ms
            append = event.records.append
            append(AuditLine(kind, record, body_at))

    def release(self, now_ms: int) -> list[OpenEvent]:
        """Events that are ready at this time; in replay those that a newer event made ready."""
        if self._live:
            queue = self._queue
            while queue and queue[0].is_ready(now_ms, self._fed_ms if len(queue) > 1 else None):
                self._leave()
        ready, self._ready = self._ready, []
        return ready

    def drain(self) -> list[OpenEvent]:
        """Everything that is open, ready or not."""
        while self._queue:
            self._leave()
        ready, self._ready = self._ready, []
        return ready

    def _start(self, key: Key, now_ms: int) -> OpenEvent:
        time_ms, serial = split_stamp(key if isinstance(key, bytes) else key[1])
        event = OpenEvent(
            key, self._opened, time_ms, serial, now_ms, now_ms, key in self._left, time_ms <= self._hole_ms
        )
        self._opened += 1
        queue = self._queue
        oldest = event.number - WINDOW_EVENTS
        while queue and queue[0].number < oldest:
            self._leave()
        queue.append(event)
        self._open[key] = event
        return event

    def _leave(self) -> None:
        event = self._queue.popleft()
        key = event.key
        del self._open[key]
        self._ready.append(event)
        lines = [line.record.data for line in event.records]
        sizes = list(map(len, lines))
        size = sum(sizes)
        self._size -= size
        earlier = self._left.get(key) if event.late else None
        if earlier is not None:
            seen = _digest(earlier)
            _take_out_duplicates(event, set(seen))
            self._left[key] = seen + _digest([line.record.data for line in event.records])
            return
        count = len(lines)
        if count > 1 and len(set(sizes)) != count and len(set(lines)) != count:
            _take_out_duplicates(event, set())
        self._left[key] = lines if size <= self._kept_bytes else _digest(lines)
        self._left_order.append(key)
        if len(self._left_order) > REMEMBERED_EVENTS:
            del self._left[self._left_order.popleft()]

    def _shed(self) -> None:
        while self._queue and self._size > OPEN_BYTES // 2:
            self._leave()


def _digest(lines: Sequence[bytes] | array[int]) -> array[int]:
    return lines if isinstance(lines, array) else array("q", map(hash, lines))


def _take_out_duplicates(event: OpenEvent, seen: set[int]) -> None:
    kept: list[AuditLine] = []
    duplicates: list[AuditLine] = []
    for line in event.records:
        digest = hash(line.record.data)
        (duplicates if digest in seen else kept).append(line)
        seen.add(digest)
    event.records, event.duplicates = kept, duplicates


def _read_header(data: bytes, kinds: Mapping[bytes, str]) -> tuple[str, Key, bytes, int] | None:
    """Type, key, what follows the type in the next line of the same event, and where the body begins."""
    found = match_plain_header(data)
    if found is not None:
        start, stamp = found.groups()
        kind = kinds.get(start)
        if kind is not None:
            body_at = found.end()
            return kind, stamp, data[len(start) : body_at], body_at
    header = parse_header(data)
    if header is None:
        return None
    key = header.stamp if header.node is None else (header.node, header.stamp)
    return header.type, key, _NO_STAMP, header.body_at


class SerialLedger:
    """Counts serials that never came, of one node. A hint of loss, not proof: kernels also skip serials.

    Serials may come up to WINDOW_EVENTS too late, restart at boot and roll over at 2**32.
    """

    def __init__(self) -> None:
        self._expected: int | None = None
        """The next serial, counted on over the roll-over."""
        self._ahead: list[int] = []
        self._newest_ms = 0

    def note(self, serial: int, time_ms: int) -> int:
        """One event's serial; gives back how many serials are now known to be missing."""
        if self._expected is None:
            self._expected = serial
        distance = (serial - self._expected) % _SERIALS
        if not (distance or self._ahead):  # as nearly always
            self._expected += 1
            self._newest_ms = max(self._newest_ms, time_ms)
            return 0
        if distance > _FARTHEST_GAP:
            if _SERIALS - distance <= WINDOW_EVENTS and time_ms - self._newest_ms <= _LATE_MS:
                return 0  # late, and counted as missing before
            missing = self.settle()
            self._expected, self._newest_ms = serial + 1, time_ms
            return missing
        self._newest_ms = max(self._newest_ms, time_ms)
        heapq.heappush(self._ahead, self._expected + distance)
        return self._settle_down_to(WINDOW_EVENTS)

    def settle(self) -> int:
        """Serials missing before the newest one; nothing more is waited for."""
        return self._settle_down_to(0)

    def _settle_down_to(self, waiting: int) -> int:
        missing = 0
        expected = self._expected or 0
        while self._ahead and (len(self._ahead) > waiting or self._ahead[0] <= expected):
            serial = heapq.heappop(self._ahead)
            missing += max(0, serial - expected)
            expected = max(expected, serial + 1)
        self._expected = expected
        return missing
