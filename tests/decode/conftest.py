"""Helpers for tests of the decode room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watchdogd.decode.decoder import Decoder
from watchdogd.entities import Position, Record
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Iterable

    from watchdogd.entities import Event

SYSCALL = (
    "arch=c000003e syscall=2 success=yes exit=3 a0=1 a1=0 a2=0 a3=0 items={paths} ppid=1 pid={pid} auid=1000 uid=0 "
    "gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts0 ses=3 "
    'comm="cat" exe="/usr/bin/cat" key=(null)'
)


def make_records(lines: Iterable[bytes], *, positions: bool = False) -> list[Record]:
    records = []
    start = 0
    for line in lines:
        end = start + len(line) + 1
        records.append(Record("audit_log", Position("audit_log", "1:1:aa", start, end) if positions else None, line))
        start = end
    return records


def decode_lines(lines: Iterable[bytes], counters: Counters | None = None, batch: int = 1000) -> list[Event]:
    """Events of lines in replay, fed in batches."""
    decoder = Decoder(counters or Counters(), live=False)
    records = make_records(lines)
    events: list[Event] = []
    for start in range(0, len(records), batch):
        events += decoder.feed(records[start : start + batch], 0).events
    return events + decoder.drain().events


def make_event(serial: int, *, time_ms: int | None = None, paths: int = 1, close: bool = True) -> list[bytes]:
    """Lines of an open() that succeeded."""
    at = 1_700_000_000_000 + serial * 4 if time_ms is None else time_ms
    stamp = f"msg=audit({at // 1000}.{at % 1000:03d}:{serial}):"
    lines = [
        f"type=SYSCALL {stamp} {SYSCALL.format(paths=paths, pid=serial)}",
        f'type=CWD {stamp} cwd="/root"',
        *(
            f'type=PATH {stamp} item={item} name="/etc/file{item}" inode={item} dev=08:01 mode=0100644 ouid=0 ogid=0 '
            "rdev=00:00 nametype=NORMAL"
            for item in range(paths)
        ),
    ]
    if close:
        lines.append(f"type=PROCTITLE {stamp} proctitle=636174")
    return [line.encode() for line in lines]
