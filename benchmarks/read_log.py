"""Ours, as the benchmark runs it: one file from disk through collect's line cutter and decode, in one of these modes.

lazy         lines cut, headers parsed, records put together to events; no field is read
fields       lazy, and every field of every record: parsed, msg='...' flattened, quotes and hex undone, numbers
             (users, syscalls, errno, flags, modes, addresses...) interpreted as `ausearch -i` does
events       what the daemon does: lazy, and an Event with its process and all Sigma views; of the fields only those
             that views hold
both         events, and every field of every record
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from watchdogd.collect.log_lines import LineCutter, make_records
from watchdogd.decode.reassemble import Reassembler
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from watchdogd.decode.decoder import Decoder
    from watchdogd.entities import AuditRecord, Record

CHUNK_BYTES = 64 * 1024
MAX_LINE_BYTES = 1 << 20


def read_batches(path: Path) -> Iterator[list[Record]]:
    """Records with their positions, a chunk's at a time, as AuditLogTail reads them."""
    cutter = LineCutter(0, MAX_LINE_BYTES, Counters())
    with path.open("rb") as log:
        while chunk := log.read(CHUNK_BYTES):
            yield make_records(cutter.feed(chunk), "audit_log", "1:1:benchmark")
    yield make_records(cutter.finish(), "audit_log", "1:1:benchmark")


def read_fields(records: Iterable[AuditRecord]) -> int:
    """Touch every field; gives back how many there were."""
    return sum(len(record.fields) for record in records)


def run_lazy(path: Path) -> int:
    """Give back the number of events."""
    reassembler = Reassembler(live=False)
    count = sum(len(reassembler.feed(batch, 0)) for batch in read_batches(path))
    return count + len(reassembler.drain())


def run_fields(path: Path) -> int:
    """Give back the number of fields."""
    reassembler = Reassembler(live=False)
    count = sum(read_fields(event.records) for batch in read_batches(path) for event in reassembler.feed(batch, 0))
    return count + sum(read_fields(event.records) for event in reassembler.drain())


def make_decoder() -> Decoder:
    """The room's door, which the first two modes have no need of."""
    from watchdogd.decode.decoder import Decoder  # noqa: PLC0415 - its modules are theirs to pay for

    return Decoder(Counters(), live=False)


def run_events(path: Path) -> int:
    """Give back the number of events."""
    decoder = make_decoder()
    count = sum(len(decoder.feed(batch, 0).events) for batch in read_batches(path))
    return count + len(decoder.drain().events)


def run_both(path: Path) -> int:
    """Give back the number of fields."""
    decoder = make_decoder()
    count = sum(read_fields(event.records) for batch in read_batches(path) for event in decoder.feed(batch, 0).events)
    return count + sum(read_fields(event.records) for event in decoder.drain().events)


MODES: dict[str, Callable[[Path], int]] = {
    "lazy": run_lazy,
    "fields": run_fields,
    "events": run_events,
    "both": run_both,
}

if __name__ == "__main__":
    print(MODES[sys.argv[1]](Path(sys.argv[2])))
