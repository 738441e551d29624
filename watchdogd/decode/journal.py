"""Entries of the journal, and lines of a syslog file, to events with the views that Sigma's services ask for.

Source of the export: systemd's documentation of the journal's JSON format (a value is text, a list of bytes where it
is no UTF-8, a list where a field is there more than once, null where it was too long) and systemd.journal-fields(7).
Fields that begin with `_` are journald's own word; everything else is what the sender says of itself.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from watchdogd.decode.decoder import Decoded
from watchdogd.decode.log_words import read_words
from watchdogd.entities import Event, EventId, View

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from watchdogd.entities import FieldMap, FieldTriple, Position, Record
    from watchdogd.telemetry import Counters

SOURCE: Final = "journal"
"""`source` of every event of this module."""
RECORD_TYPE: Final = "JOURNAL"

COUNTERS: Final = (
    "decode_lines_total",
    "decode_events_total",
    "decode_event_lines_total",
    "decode_garbage_lines_total",
    "decode_blank_lines_total",
    "decode_journal_own_total",
)
_AUTH_FACILITIES: Final = frozenset({4, 10})
"""LOG_AUTH and LOG_AUTHPRIV (syslog(3))."""
_CRON_FACILITY: Final = 9
_PROGRAMS: Final = {
    "sshd": "sshd",
    "sshd-session": "sshd",
    "sshd-auth": "sshd",
    "sudo": "sudo",
    "su": "su",
    "su-l": "su",
    "cron": "cron",
    "crond": "cron",
    "anacron": "cron",
    "crontab": "cron",
    "atd": "cron",
}
"""Identifier, case-folded, to whose words it writes."""
_SERVICES: Final = {"sshd": ("sshd", "auth"), "sudo": ("sudo", "auth"), "su": ("auth",), "cron": ("cron",)}
_TIME_DIGITS: Final = 16
"""Of microseconds up to the year 2286."""
_OWN_UNIT: Final = "watchdogd.service"
_AUDIT_TRANSPORT: Final = "audit"

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_SYSLOG: Final = re.compile(
    r"(?P<time>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)) "
    r"(?P<host>\S+) (?P<program>[^\s:\[]+)(?:\[(?P<pid>\d{1,10})\])?: (?P<message>.*)",
    re.DOTALL,
)


class _Entry(msgspec.Struct, frozen=True, gc=False):
    """What is asked of an entry; every value may be text, a list, null or absent."""

    cursor: str = msgspec.field(name="__CURSOR")
    time_us: str = msgspec.field(name="__REALTIME_TIMESTAMP")
    message: Any = msgspec.field(name="MESSAGE", default=None)
    identifier: Any = msgspec.field(name="SYSLOG_IDENTIFIER", default=None)
    facility: Any = msgspec.field(name="SYSLOG_FACILITY", default=None)
    priority: Any = msgspec.field(name="PRIORITY", default=None)
    transport: Any = msgspec.field(name="_TRANSPORT", default=None)
    unit: Any = msgspec.field(name="_SYSTEMD_UNIT", default=None)
    host: Any = msgspec.field(name="_HOSTNAME", default=None)
    pid: Any = msgspec.field(name="_PID", default=None)
    uid: Any = msgspec.field(name="_UID", default=None)
    comm: Any = msgspec.field(name="_COMM", default=None)
    exe: Any = msgspec.field(name="_EXE", default=None)
    cmdline: Any = msgspec.field(name="_CMDLINE", default=None)
    boot: Any = msgspec.field(name="_BOOT_ID", default=None)


class JournalRecord(NamedTuple):
    """One entry as an alert shows it; implements `entities.AuditRecord`, with no field that audit's rules know."""

    line: bytes
    type: str = RECORD_TYPE
    fields: tuple[FieldTriple, ...] = ()
    position: Position | None = None
    pieces: tuple[bytes, ...] = ()
    body: bytes = b""

    def may_have(self, name: str) -> bool:  # noqa: ARG002 (the protocol's)
        """Return False: audit's rules see nothing of it."""
        return False

    def read_piece(self, piece: bytes) -> tuple[FieldTriple, ...] | None:  # noqa: ARG002 (the protocol's)
        """Return None: it is not cut."""
        return None

    def get(self, name: str) -> str | None:  # noqa: ARG002 (the protocol's)
        """Return None: it has no fields of audit's."""
        return None


class JournalDecoder:
    """Entries to events, each at once: nothing ever waits. `is_own_pid` knows the daemon's own processes by number.

    Own entries are left out, told by what journald itself says of the sender (unit and pid): no other program can make
    its own entries pass for the daemon's. So are the kernel's audit records, which come from audit's own log.
    """

    pending = 0
    pending_lines = 0

    def __init__(self, counters: Counters, *, is_own_pid: Callable[[int], bool] = lambda _pid: False) -> None:
        self._counters = counters
        self._is_own_pid = is_own_pid
        self._lines = 0
        for name in COUNTERS:
            counters.add(name, 0)

    def feed(self, records: Sequence[Record], now_ms: int) -> Decoded:
        """The events of these lines; a line that is none is counted and settled."""
        events: list[Event] = []
        ignored: list[Position] = []
        for record in records:
            event = self._decode(record, now_ms)
            if event is not None:
                events.append(event)
            elif record.position is not None:
                ignored.append(record.position)
        return Decoded(events, ignored)

    def tick(self, now_ms: int) -> Decoded:  # noqa: ARG002 (as the other decoders)
        """Nothing waits."""
        return Decoded([], [])

    def drain(self) -> Decoded:
        """Nothing waits."""
        return Decoded([], [])

    def _decode(self, record: Record, now_ms: int) -> Event | None:
        entry = self._read(record, now_ms)
        self._counters.add("decode_lines_total")
        if entry is None:
            self._counters.add("decode_garbage_lines_total" if record.data.strip() else "decode_blank_lines_total")
            return None
        if _text(entry.transport) == _AUDIT_TRANSPORT or self._is_own(entry):
            self._counters.add("decode_journal_own_total")
            return None
        self._counters.add("decode_events_total")
        self._counters.add("decode_event_lines_total")
        return _build_event(entry, record)

    def _is_own(self, entry: _Entry) -> bool:
        pid = _text(entry.pid)
        return _text(entry.unit) == _OWN_UNIT or (pid.isdecimal() and self._is_own_pid(int(pid)))

    def _read(self, record: Record, now_ms: int) -> _Entry | None:
        if not record.data.startswith(b"{"):
            position = record.position
            self._lines += 1
            name = f"line:{self._lines}" if position is None else f"{position.file_id}:{position.start}"
            return _read_syslog(record.data, name, now_ms)
        try:
            entry = msgspec.json.decode(record.data, type=_Entry)
        except (msgspec.DecodeError, RecursionError):
            return None
        return entry if entry.time_us.isdecimal() and len(entry.time_us) <= _TIME_DIGITS else None


def _build_event(entry: _Entry, record: Record) -> Event:
    time_ms = int(entry.time_us) // 1000
    message = _text(entry.message)
    programs = {_PROGRAMS[name.casefold()] for name in _texts(entry.identifier) if name.casefold() in _PROGRAMS}
    program = min(programs) if programs else "auth"
    said = read_words(program, message)
    fields = _describe(entry, message) | {"Operation": said.action, "Outcome": said.outcome} | said.fields
    services = dict.fromkeys(
        [
            *(service for name in sorted(programs) for service in _SERVICES[name]),
            *(("auth",) if _number(entry.facility) in _AUTH_FACILITIES else ()),
            *(("cron",) if _number(entry.facility) == _CRON_FACILITY else ()),
            "syslog",
        ]
    )
    return Event(
        id=EventId(SOURCE, None, time_ms, 0, entry.cursor),
        source=SOURCE,
        records=(JournalRecord(_show_line(entry, time_ms, message), position=record.position),),
        views=tuple(View(service, said.action, said.outcome, fields) for service in services),
    )


def _describe(entry: _Entry, message: str) -> FieldMap:
    """Names as elsewhere in this room. `Identifier` is the sender's own word, Image and Unit are journald's."""
    wanted = {
        "Message": message,
        "Identifier": _text(entry.identifier),
        "Unit": _text(entry.unit),
        "Image": _text(entry.exe),
        "CommandLine": _text(entry.cmdline),
        "ProcessId": _text(entry.pid),
        "SenderUid": _text(entry.uid),
        "Priority": _text(entry.priority),
        "Facility": _text(entry.facility),
        "Transport": _text(entry.transport),
    }
    return {name: value for name, value in wanted.items() if value}


def _show_line(entry: _Entry, time_ms: int, message: str) -> bytes:
    """As syslog would have it, with the whole date: `2026-11-23T08:00:00.123Z host sshd[12]: text`."""
    when = datetime.fromtimestamp(time_ms / 1000, UTC)
    pid = _text(entry.pid)
    name = _text(entry.identifier) or _text(entry.comm) or "unknown"
    name += f"[{pid}]" if pid else ""
    head = f"{when:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z {_text(entry.host) or '-'} {name}"
    return f"{head}: {message}".encode("utf-8", "backslashreplace")


def _read_syslog(line: bytes, name: str, now_ms: int) -> _Entry | None:
    """A line of /var/log/auth.log, in RFC 3164's form or with an ISO date; the year is the one nearest to now.

    `name` stands for the cursor: equal lines of the same second are events of their own.
    """
    text = line.decode("utf-8", "backslashreplace")
    found = _SYSLOG.fullmatch(text)
    time_ms = None if found is None else _read_time(found["time"], now_ms)
    if found is None or time_ms is None:
        return None
    program = found["program"]
    return _Entry(
        cursor=name,
        time_us=str(time_ms * 1000),
        message=found["message"],
        identifier=program,
        facility=str(_CRON_FACILITY if _PROGRAMS.get(program.casefold()) == "cron" else min(_AUTH_FACILITIES)),
        host=found["host"],
        pid=found["pid"],
    )


def _read_time(text: str, now_ms: int) -> int | None:
    try:
        if text[0].isdigit():
            return int(datetime.fromisoformat(text).timestamp() * 1000)
        now = datetime.fromtimestamp(now_ms / 1000).astimezone()
        month = _MONTHS.index(text[:3]) + 1
        hour, minute, second = (int(part) for part in text[7:].split(":"))
        tries = []
        for year in (now.year - 1, now.year, now.year + 1):
            try:
                moment = datetime(year, month, int(text[4:6]), hour, minute, second, tzinfo=now.tzinfo)
            except ValueError:  # 29 February
                continue
            tries.append(int(moment.timestamp() * 1000))
        return min(tries, key=lambda time_ms: abs(time_ms - now_ms), default=None)
    except (ValueError, OverflowError, OSError):
        return None


def _texts(value: object) -> list[str]:
    r"""Every value of a field as text; bytes that are no UTF-8 are written `\xNN`."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        return []
    if all(isinstance(item, int) and 0 <= item <= 255 for item in value):  # noqa: PLR2004 (bytes)
        return [bytes(value).decode("utf-8", "backslashreplace")]
    return [text for item in value for text in _texts(item)[:1]]


def _text(value: object) -> str:
    return next(iter(_texts(value)), "")


def _number(value: object) -> int:
    text = _text(value)
    return int(text) if text.isdecimal() and len(text) <= 4 else -1  # noqa: PLR2004 (no facility has more digits)
