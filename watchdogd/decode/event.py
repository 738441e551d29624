"""Records of one event to an Event: who did it, what the Sigma views say, and what is odd about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from watchdogd.decode.actor import Actor, present, read_actor
from watchdogd.decode.argv import join_argv
from watchdogd.decode.facts import SyscallFacts, read_syscall
from watchdogd.decode.interpret import decode_string
from watchdogd.decode.outline import outline_syscall
from watchdogd.decode.views import Observation, list_categories, may_warn, view_syscall
from watchdogd.decode.views_user import view_report
from watchdogd.entities import Event, EventId, LazyViews, Process, ProcessKey, View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watchdogd.decode.record import AuditLine

SOURCE: Final = "audit"
"""`source` of every event of this room, whether it came from a file or from a socket."""

_CWD_START: Final = b'cwd="'
_SYSCALL_TYPES: Final = frozenset({"SYSCALL", "URINGOP"})
_EXEC_SYSCALLS: Final = frozenset({"execve", "execveat"})
_AUXILIARY_TYPES: Final = frozenset(
    {
        *("CWD", "PROCTITLE", "EOE", "BPRM_FCAPS", "SOCKETCALL", "IPC", "IPC_SET_PERM", "FD_PAIR", "MMAP", "OBJ_PID"),
        *(
            "CAPSET",
            "MQ_OPEN",
            "MQ_SENDRECV",
            "MQ_NOTIFY",
            "MQ_GETSETATTR",
            "MAC_TASK_CONTEXTS",
            "MAC_OBJ_CONTEXTS",
        ),
    }
)
"""Types that say more about a syscall and nothing of their own."""


class Built(NamedTuple):
    """An event, and whether records of it are missing."""

    event: Event
    incomplete: bool


class _Parts:
    """Records of one event by what they are for."""

    __slots__ = ("cwd", "execve", "open_how", "paths", "proctitle", "reports", "sockaddr", "syscall", "warnings")

    def __init__(self, records: Sequence[AuditLine]) -> None:
        self.syscall: AuditLine | None = None
        self.execve: list[AuditLine] = []
        self.paths: list[AuditLine] = []
        self.reports: list[AuditLine] = []
        self.cwd: AuditLine | None = None
        self.sockaddr: AuditLine | None = None
        self.open_how: AuditLine | None = None
        self.proctitle: AuditLine | None = None
        self.warnings: list[str] = []
        for line in records:
            kind = line.type
            if kind == "PATH":
                self.paths.append(line)
            elif kind in _SYSCALL_TYPES:
                self._take_syscall(line)
            elif kind == "PROCTITLE":
                self.proctitle = line
            elif kind == "CWD":
                self.cwd = line
            elif kind == "EXECVE":
                self.execve.append(line)
            elif kind == "SOCKADDR":
                self.sockaddr = line
            elif kind == "OPENAT2":
                self.open_how = line
            elif kind not in _AUXILIARY_TYPES:
                self.reports.append(line)

    def _take_syscall(self, line: AuditLine) -> None:
        if self.syscall is None:
            self.syscall = line
        else:
            self.warnings.append("more than one SYSCALL record; the first one counts")


def build_event(event_id: EventId, records: Sequence[AuditLine], *, late: bool = False) -> Built:
    """An Event of all records of one id, in the order they were read. Never raises, whatever they hold.

    What is odd stands in `warnings`; `late` says that other records of the id were judged before.
    """
    parts = _Parts(records)
    warnings = parts.warnings
    missing: list[str] = []
    if late:
        warnings.append("late: other records of this event were judged before")
    views: Sequence[View] = ()
    categories: frozenset[str] | None = None
    process: Process | None = None
    call: str | None = None
    cwd = _read_cwd(parts.cwd) if parts.cwd is not None else None
    if parts.syscall is not None:
        facts = read_syscall(parts.syscall)
        call = facts.name
        argv = _read_argv(parts, facts, missing)
        if facts.items is not None and len(parts.paths) < facts.items:
            missing.append(f"{len(parts.paths)} of {facts.items} PATH records")
        seen = Observation(facts, argv, cwd, parts.paths, parts.sockaddr, parts.open_how)
        if parts.reports or may_warn(seen):
            views = view_syscall(seen, warnings)
        else:
            views = LazyViews(_make_views, seen, outline=outline_syscall)
            categories = list_categories(seen)
        process = make_process(facts.actor, event_id.time_ms, argv, cwd)
    elif parts.paths or parts.execve or parts.cwd or parts.proctitle or parts.sockaddr:
        missing.append("no SYSCALL record: who did it is unknown")
    for line in parts.reports:
        actor = read_actor(line)
        views = (*views, view_report(line, actor))
        if process is None and actor.pid is not None:
            process = make_process(actor, event_id.time_ms, (), None)
    if categories is None:
        views = tuple(views) or (View("audit_record", "fragment", "unknown", {"RecordType": _first_type(records)}),)
    event = Event(
        id=event_id,
        source=SOURCE,
        records=tuple(records),
        views=views,
        process=process,
        warnings=(*warnings, *missing) if warnings or missing else (),
        categories=categories,
        call=call,
    )
    return Built(event, bool(missing))


def _make_views(seen: Observation) -> Sequence[View]:
    return view_syscall(seen, [])


def make_process(actor: Actor, time_ms: int, argv: tuple[str, ...], cwd: str | None) -> Process | None:
    """The process as one record tells of it; the start time is provisional (that of the event)."""
    if actor.pid is None:
        return None
    return Process(
        ProcessKey("", actor.pid, time_ms),
        actor.pid,
        actor.ppid,
        actor.exe,
        actor.comm,
        argv,
        cwd,
        actor.uid,
        actor.user,
        actor.auid,
        actor.login,
        actor.session,
        actor.tty,
    )


def _read_argv(parts: _Parts, facts: SyscallFacts, missing: list[str]) -> tuple[str, ...]:
    if parts.execve:
        return join_argv(parts.execve, missing)
    if facts.name in _EXEC_SYSCALLS and facts.outcome == "success":
        missing.append("no EXECVE record: the arguments are PROCTITLE's, which the kernel cuts at 128 bytes")
        return _argv_of_proctitle(parts.proctitle)
    return ()


def _read_cwd(line: AuditLine) -> str | None:
    data = line.record.data
    start = line.body_at + len(_CWD_START)
    if data.startswith(_CWD_START, line.body_at) and data.find(b'"', start) == len(data) - 1:
        return data[start:-1].decode("utf-8", "backslashreplace")
    return present(line.get("cwd"))


def _argv_of_proctitle(proctitle: AuditLine | None) -> tuple[str, ...]:
    if proctitle is None:
        return ()
    return tuple(decode_string(proctitle.get("proctitle") or "").rstrip("\0").split("\0"))


def _first_type(records: Sequence[AuditLine]) -> str:
    return records[0].type if records else ""
