"""What must hold whatever the bytes are. A check that raises is a finding."""

from __future__ import annotations

import msgspec

from watchdogd.decode.decoder import Decoder
from watchdogd.decode.document import event_document
from watchdogd.decode.interpret import interpret_fields
from watchdogd.decode.record import AuditLine, parse_header
from watchdogd.entities import Position, Record
from watchdogd.telemetry import Counters

KINDS = (
    *("SYSCALL", "PATH", "EXECVE", "CWD", "PROCTITLE", "SOCKADDR", "AVC", "USER_CMD", "USER_LOGIN", "LOGIN"),
    *("CONFIG_CHANGE", "SECCOMP", "NETFILTER_PKT", "ANOM_PROMISCUOUS", "MMAP", "OPENAT2", "UNKNOWN[1999]", "BPF"),
)
_BATCH_LINES = 7
_STEP_MS = 13


def check_line(data: bytes) -> None:
    """One line: parsed or refused; the quick way to its fields and the general one agree."""
    if not data:
        return
    kind = KINDS[data[0] % len(KINDS)]
    for line in (data, f"type={kind} msg=audit(1.000:1): ".encode() + data[1:]):
        header = parse_header(line)
        if header is None:
            continue
        record = AuditLine(header.type, Record("fuzz", None, line), header.body_at)
        general = interpret_fields(record.type, record.pairs, record.enriched)
        for field in general:
            msgspec.json.encode(field)
        if record.fields != general:
            raise AssertionError(f"{line!r}: {record.fields} is not {general}")


def check_feed(data: bytes) -> None:
    """A file: every line comes back exactly once, as a record of an event or as passed over; documents can be made."""
    for live in (False, True):
        records, start = [], 0
        for line in data.split(b"\n"):
            end = start + len(line) + 1
            records.append(Record("fuzz", Position("fuzz", "1:1:fuzz", start, end), line))
            start = end
        decoder = Decoder(Counters(), live=live)
        decoded = []
        for at in range(0, len(records), _BATCH_LINES):
            decoded.append(decoder.feed(records[at : at + _BATCH_LINES], at * _STEP_MS))
            decoded.append(decoder.tick(at * _STEP_MS + 1))
        decoded.append(decoder.drain())
        closed = [position for part in decoded for position in part.ignored]
        for event in (event for part in decoded for event in part.events):
            msgspec.json.encode(event_document(event))
            closed += [record.position for record in event.records if record.position is not None]
        if sorted(position.start for position in closed) != [
            record.position.start for record in records if record.position is not None
        ]:
            raise AssertionError(f"{data!r}: lines were lost or came twice")
        if decoder.pending:
            raise AssertionError(f"{data!r}: {decoder.pending} events stayed behind")


CHECKS = {"line": check_line, "feed": check_feed}
