"""Views of what programs and the kernel report by records of their own: logons, accounts, services, verdicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from watchdogd.decode import tables
from watchdogd.decode.actor import Actor, describe_actor, plain, present
from watchdogd.decode.interpret import UNSET_ID, decode_string
from watchdogd.decode.sockaddr import unmap
from watchdogd.entities import View

if TYPE_CHECKING:
    from watchdogd.decode.record import AuditLine
    from watchdogd.entities import FieldMap

_OUTCOMES: Final = {
    "denied": "failure",
    "granted": "success",
    "allowed": "success",
    "success": "success",
    "yes": "success",
    "1": "success",
    "failed": "failure",
    "no": "failure",
    "0": "failure",
}
_RESULTS: Final = ("res", "result", "success", "seresult", "apparmor")
_SERVICE_TYPES: Final = frozenset({"SERVICE_START", "SERVICE_STOP"})
_NOT_LOGONS: Final = frozenset(
    {
        "SYSTEM_BOOT",
        "SYSTEM_SHUTDOWN",
        "SYSTEM_RUNLEVEL",
        "USYS_CONFIG",
        "SOFTWARE_UPDATE",
        "TEST",
        "TRUSTED_APP",
        "USER_AVC",
        "USER_DEVICE",
        "USER_SELINUX_ERR",
        "USER_TTY",
    }
)


def view_report(line: AuditLine, actor: Actor) -> View:
    """The view of one record that is not part of a syscall's description.

    USER_*, CRED_*, account changes and LOGIN give `authentication`, SERVICE_* `service`, everything else
    `audit_record`.
    """
    kind = line.type
    values = line.values
    outcome = _find_outcome(line)
    fields = describe_actor(actor)
    operation = present(values.get("op") or values.get("operation"))
    if operation is not None:
        fields["Operation"] = operation
    fields["Outcome"] = outcome
    action = kind.lower()
    if kind in _SERVICE_TYPES:
        fields["Unit"] = plain(values.get("unit")) or ""
        return View("service", action, outcome, fields)
    if kind == "LOGIN" or (tables.is_user_type(kind) and kind not in _NOT_LOGONS):
        return View("authentication", action, outcome, {**fields, **_describe_logon(line)})
    fields["RecordType"] = kind
    return View("audit_record", action, outcome, fields)


def _find_outcome(line: AuditLine) -> str:
    for name in _RESULTS:
        known = _OUTCOMES.get(decode_string(line.get(name) or "").lower())
        if known is not None:
            return known
    return "unknown"


def _describe_logon(line: AuditLine) -> FieldMap:
    """`User` is whom it is about (the account), `SubjectUser` the one who acted."""
    values = line.values
    enriched = line.enriched
    typed = present(values.get("acct"))
    account = typed if typed not in {None, "?"} else _name_id(line, "id")
    if line.type == "LOGIN":
        account = _name_id(line, "auid")
    actor = enriched.get("UID") or values.get("uid")
    described = {
        "User": account or actor,
        "SubjectUser": actor,
        "SourceIp": unmap(plain(values.get("addr"))),
        "SourceHostname": plain(values.get("hostname")),
        "Terminal": plain(values.get("terminal") or values.get("tty")),
        "CommandLine": present(values.get("cmd")),
        "CurrentDirectory": present(values.get("cwd")),
    }
    return {name: value for name, value in described.items() if value is not None}


def _name_id(line: AuditLine, name: str) -> str | None:
    """The user of an id: by name where the line has it, else the number as text; None where it is not set."""
    number = line.values.get(name)
    if number is None or number == UNSET_ID:
        return None
    return line.enriched.get(name.upper()) or number
