"""Execs that were seen before: a busy host starts the same programs in the same way, again and again.

All that such an event says is remembered by its records without header, exit code, registers and pids, so that what is
remembered depends on nothing but what it is looked up by; the memory is bounded in number and in bytes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec.structs import replace

from watchdogd.decode.event import SOURCE, Built, build_event
from watchdogd.decode.tables import name_syscall
from watchdogd.entities import Event, LazyViews, Process, ProcessKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watchdogd.decode.record import AuditLine
    from watchdogd.entities import EventId, Likeness, View

_REST: Final = re.compile(
    rb" exit=(-?+[0-9]++) a0=[0-9a-f]++ a1=[0-9a-f]++ a2=[0-9a-f]++ a3=[0-9a-f]++ "
    rb"items=([0-9]{1,9}+) ppid=([0-9]{1,10}+) pid=([0-9]{1,10}+) (?=auid=)"
)
_CALL: Final = re.compile(rb"arch=([0-9a-f]++) syscall=([0-9]++) success=[a-z]++")
_PLAIN: Final = b"type="
_CALL_BYTES: Final = 64
_CALLS: Final = 256
_GENERATION: Final = 512
_LONGEST_BYTES: Final = 2048
"""Two generations of events are remembered, none longer than this: some MB at most."""


class _Exec(NamedTuple):
    """What an event says, but for its header, registers and pids."""

    likeness: Likeness
    paths: int
    process: Process
    categories: frozenset[str]


class Execs:
    """Knows events of execs again."""

    def __init__(self) -> None:
        self._calls: dict[bytes, bool] = {}
        self._young: dict[Likeness, _Exec] = {}
        self._old: dict[Likeness, _Exec] = {}

    def build(self, event_id: EventId, stamp: bytes, records: list[AuditLine], *, late: bool = False) -> Built:
        """As `build_event`, for records with this stamp in their headers."""
        built = None if late else self._recall(event_id, stamp, records)
        return built or build_event(event_id, records, late=late)

    def _recall(self, event_id: EventId, stamp: bytes, records: list[AuditLine]) -> Built | None:
        first = records[0]
        data = first.record.data
        start = first.body_at
        end = data.find(b" exit=", start, start + _CALL_BYTES)
        call = data[start:end]
        if end < 0 or first.type != "SYSCALL" or not (self._calls.get(call) or self._is_exec(call)):
            return None
        found = _REST.match(data, end)
        if found is None:
            return None
        lines = [line.record.data for line in records]
        lines[0] = data[: found.end(1)] + data[found.end() :]
        text = b"\n".join(lines)
        likeness = text.replace(stamp, b"")
        if len(text) - len(likeness) != len(stamp) * len(lines):
            return None  # somebody has written the stamp a second time
        known = self._young.get(likeness)
        if known is None:
            known = self._old.get(likeness)
            if known is None:
                return self._build_new(event_id, records, likeness)
            self._keep(known)
        _, items, ppid, pid = found.groups()
        if int(items) > known.paths:
            return None
        return Built(_repeat(known, event_id, tuple(records), int(ppid), int(pid)), incomplete=False)

    def _is_exec(self, call: bytes) -> bool:
        known = self._calls.get(call)
        if known is None:
            found = _CALL.fullmatch(call)
            known = found is not None and name_syscall(found[1].decode(), found[2].decode()) == "execve"
            if len(self._calls) >= _CALLS:
                self._calls.clear()
            self._calls[call] = known
        return known

    def _build_new(self, event_id: EventId, records: Sequence[AuditLine], likeness: Likeness) -> Built:
        built = build_event(event_id, records)
        event = built.event
        if event.warnings or event.process is None or event.categories is None or len(likeness) > _LONGEST_BYTES:
            return built
        if not all(line.record.data.startswith(_PLAIN) for line in records):
            return built  # what stands in front of the header may hold a time
        self._keep(_Exec(likeness, sum(line.type == "PATH" for line in records), event.process, event.categories))
        if isinstance(event.views, LazyViews):
            event.views.likeness = likeness
        return Built(replace(event, likeness=likeness), incomplete=False)

    def _keep(self, known: _Exec) -> None:
        if len(self._young) >= _GENERATION:
            self._old, self._young = self._young, {}
        self._young[known.likeness] = known


def _repeat(known: _Exec, event_id: EventId, records: tuple[AuditLine, ...], ppid: int, pid: int) -> Event:
    like = known.process
    process = Process(
        ProcessKey("", pid, event_id.time_ms),
        pid,
        ppid,
        like.exe,
        like.comm,
        like.argv,
        like.cwd,
        like.uid,
        like.user,
        like.auid,
        like.login,
        like.session,
        like.tty,
    )
    return Event(
        id=event_id,
        source=SOURCE,
        records=records,
        views=LazyViews(_make_views, (event_id, records), known.likeness),
        process=process,
        categories=known.categories,
        call="execve",
        likeness=known.likeness,
    )


def _make_views(source: tuple[EventId, tuple[AuditLine, ...]]) -> Sequence[View]:
    return build_event(*source).event.views
