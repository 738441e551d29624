"""Who acted, as one record says it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.decode.interpret import UNSET_ID, decode_string, parse_number

if TYPE_CHECKING:
    from watchdogd.decode.record import AuditLine
    from watchdogd.entities import FieldMap

_ABSENT: Final = frozenset({"", "(none)", "(null)", "?"})


class Actor(msgspec.Struct, frozen=True):
    """Identity of the process that a record is about. What the record lacks is None."""

    pid: int | None
    ppid: int | None
    uid: int | None
    user: str | None
    """From the enriched part of the line; never looked up."""
    auid: int | None
    login: str | None
    session: str | None
    tty: str | None
    comm: str | None
    exe: str | None


def present(raw: str | None) -> str | None:
    """Text of a string field; None where the record says that there is none."""
    return None if raw is None or raw in _ABSENT else decode_string(raw)


def plain(raw: str | None) -> str | None:
    """As `present`, of what programs write as it is and never in hex: hosts, terminals, units (`hostname=DC01`)."""
    if raw is None or raw in _ABSENT:
        return None
    text = raw[1:-1] if len(raw) > 1 and raw[0] == raw[-1] == '"' else raw
    return None if text in _ABSENT else text


def read_actor(line: AuditLine) -> Actor:
    """Actor of a SYSCALL, USER_* or other record with `pid`, `uid` and the like."""
    values = line.values
    get = values.get
    enriched = line.enriched
    auid = get("auid")
    session = get("ses")
    return Actor(
        pid=parse_number(get("pid")),
        ppid=parse_number(get("ppid")),
        uid=parse_number(get("uid")),
        user=enriched.get("UID") if enriched else None,
        auid=None if auid == UNSET_ID else parse_number(auid),
        login=enriched.get("AUID") if enriched and auid != UNSET_ID else None,
        session=None if session == UNSET_ID else session,
        tty=plain(get("tty") or get("terminal")),
        comm=present(get("comm")),
        exe=present(get("exe")),
    )


def describe_actor(actor: Actor) -> FieldMap:
    """Sysmon-for-Linux's names: `User` is the name where the log has it, else the uid as text.

    `LogonId` is the login uid, `TerminalSessionId` the audit session. What is unknown is left out.
    """
    fields: FieldMap = {}
    if actor.exe is not None:
        fields["Image"] = actor.exe
    if actor.user is not None:
        fields["User"] = actor.user
    elif actor.uid is not None:
        fields["User"] = str(actor.uid)
    if actor.pid is not None:
        fields["ProcessId"] = actor.pid
    if actor.ppid is not None:
        fields["ParentProcessId"] = actor.ppid
    if actor.auid is not None:
        fields["LogonId"] = str(actor.auid)
    if actor.session is not None:
        fields["TerminalSessionId"] = actor.session
    return fields
