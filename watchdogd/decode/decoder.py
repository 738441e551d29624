"""The room's door: raw records in, events out, everything that goes wrong counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec.structs import replace

from watchdogd.decode.event import SOURCE
from watchdogd.decode.execs import Execs
from watchdogd.decode.reassemble import OpenEvent, Reassembler, SerialLedger
from watchdogd.entities import Event, EventId, Position

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watchdogd.decode.record import AuditLine
    from watchdogd.decode.repeats import Repeats
    from watchdogd.entities import Record
    from watchdogd.telemetry import Counters

COUNTERS: Final = (
    "decode_events_total",
    "decode_late_records_total",
    "decode_duplicate_records_total",
    "decode_incomplete_events_total",
    "decode_garbage_lines_total",
    "decode_serial_gaps_total",
    "decode_repeated_events_total",
    "decode_lines_total",
    "decode_event_lines_total",
    "decode_repeated_lines_total",
    "decode_end_lines_total",
    "decode_blank_lines_total",
)
_SEPARATORS: Final = (b"----", b"time->")
"""What ausearch prints between events: no records, and nothing is lost by passing over them."""

_MAX_NODES: Final = 1024


class Decoded(NamedTuple):
    """Events that are complete, and positions of lines that will never be part of one."""

    events: list[Event]
    ignored: list[Position]


class Decoder:
    """Lines to events. Not thread-safe; time is what the caller says (`now_ms`, any clock that moves in ms).

    `live` completes events by that clock (call `tick` at least every 20 ms while `pending`); otherwise only by what
    the log holds, so that the same lines always give the same events.

    Two decoders of one host share `repeats`: an event that the one has given whole, the other leaves out. Each has a
    `source` of its own. `from_kernel` is for the kernel's socket: EOE records only end events (auditd writes none), and
    serials that never came are not counted, for the log's decoder counts them.
    """

    def __init__(
        self,
        counters: Counters,
        *,
        live: bool,
        repeats: Repeats | None = None,
        source: str = "",
        from_kernel: bool = False,
    ) -> None:
        self._counters = counters
        self._repeats = repeats
        self._source = source
        self._from_kernel = from_kernel
        self._reassembler = Reassembler(live=live)
        self._execs = Execs()
        self._serials: dict[str | None, SerialLedger] = {}
        for name in COUNTERS:
            counters.add(name, 0)

    @property
    def pending(self) -> int:
        """Events whose records may still be coming."""
        return self._reassembler.pending

    @property
    def pending_lines(self) -> int:
        """Lines of these, and what else was fed and has come to nothing yet."""
        return self._reassembler.pending_lines

    def feed(self, records: Sequence[Record], now_ms: int) -> Decoded:
        """Take lines in the order they were read. Never raises, whatever they hold."""
        if records and records[0].lost_ms:
            self._reassembler.note_hole(records[0].lost_ms)
        else:
            self._raise("decode_lines_total", len(records))
        return self._finish(self._reassembler.feed(records, now_ms), now_ms)

    def tick(self, now_ms: int) -> Decoded:
        """Let go what time has made ready (live only)."""
        return self._finish(self._reassembler.release(now_ms), now_ms)

    def drain(self) -> Decoded:
        """Let everything go: the input has ended."""
        decoded = self._finish(self._reassembler.drain(), 0)
        for ledger in self._serials.values():
            self._raise("decode_serial_gaps_total", ledger.settle())
        return decoded

    def _finish(self, ready: list[OpenEvent], now_ms: int) -> Decoded:
        ignored: list[Position] = []
        self._count_garbage(ignored)
        events: list[Event] = []
        late = duplicates = incomplete = gaps = lines = ends = repeated = 0
        for opened in ready:
            records = _leave_out_ends(opened.records) if self._from_kernel else opened.records
            ends += len(opened.records) - len(records)
            if opened.duplicates:
                duplicates += len(opened.duplicates)
                ignored += [line.position for line in opened.duplicates if line.position is not None]
            if not records:
                continue
            if opened.late:
                late += len(records)
            elif not self._from_kernel:
                gaps += self._note_serial(opened)
            event_id = EventId(SOURCE, opened.node, opened.time_ms, opened.serial)
            given = None if self._repeats is None else self._repeats.find(self._source, event_id)
            if given:
                self._counters.add("decode_repeated_events_total")
                repeated += len(records)
                ignored += [line.position for line in records if line.position is not None]
                continue
            lines += len(records)
            built = self._execs.build(event_id, opened.stamp, records, late=opened.late)
            incomplete += built.incomplete
            if self._repeats is not None:
                whole = not (built.incomplete or self._may_lack(opened))
                if whole or built.event.process is not None:
                    self._repeats.note(self._source, event_id, now_ms, whole=whole)
            events.append(built.event if given is None else replace(built.event, seen_before=True))
        if ready:
            self._raise("decode_events_total", len(events))
            self._raise("decode_event_lines_total", lines)
            self._raise("decode_repeated_lines_total", repeated)
            self._raise("decode_end_lines_total", ends)
            self._raise("decode_late_records_total", late)
            self._raise("decode_duplicate_records_total", duplicates)
            self._raise("decode_incomplete_events_total", incomplete)
            self._raise("decode_serial_gaps_total", gaps)
        return Decoded(events, ignored)

    def _may_lack(self, opened: OpenEvent) -> bool:
        """True where records of the event may have come before it, after it or not at all.

        The kernel says nothing where it lacks the memory to copy a record for the socket: there the end must be seen.
        """
        if opened.late or opened.broken:
            return True
        types = {line.type for line in opened.records}
        return self._from_kernel and "SYSCALL" in types and types.isdisjoint({"EOE", "PROCTITLE"})

    def _count_garbage(self, ignored: list[Position]) -> None:
        garbage = blank = 0
        for record in self._reassembler.take_garbage():
            if record.lost_ms:
                continue  # a mark, no line
            if record.position is not None:
                ignored.append(record.position)
            text = record.data.strip()
            is_blank = not text or text.startswith(_SEPARATORS)
            garbage += not is_blank
            blank += is_blank
        self._raise("decode_garbage_lines_total", garbage)
        self._raise("decode_blank_lines_total", blank)

    def _note_serial(self, opened: OpenEvent) -> int:
        ledger = self._serials.get(opened.node)
        if ledger is None:
            if len(self._serials) >= _MAX_NODES:
                self._serials.clear()
            ledger = self._serials[opened.node] = SerialLedger()
        return ledger.note(opened.serial, opened.time_ms)

    def _raise(self, name: str, amount: int) -> None:
        if amount:
            self._counters.add(name, amount)


def _leave_out_ends(records: list[AuditLine]) -> list[AuditLine]:
    return [line for line in records if line.type != "EOE"]
