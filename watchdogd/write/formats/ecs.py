"""The alert as a JSON document: Elastic Common Schema as nested objects, our own facts under `watchdogd`.

The shape is a contract (`docs/schemas/alert.schema.json`): what `replay --format json` prints, webhooks receive and
other programs read.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from watchdogd.entities import Label, Verdict
from watchdogd.write.formats.text import alert_line, command_line, describe_deed, escape_controls, escape_surrogates

if TYPE_CHECKING:
    from watchdogd.entities import Alert, EventId, Process

__all__ = ["alert_document", "alert_line", "escape_controls", "format_time"]

Document = dict[str, object]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)
_ECS_EVENT = {
    "process_creation": (["process"], ["start"]),
    "file_event": (["file"], ["change"]),
    "file_access": (["file"], ["access"]),
    "file_change": (["file"], ["change"]),
    "file_delete": (["file"], ["deletion"]),
    "file_rename": (["file"], ["change"]),
    "authentication": (["authentication"], ["info"]),
    "network_connection": (["network"], ["connection"]),
    "host_metrics": (["host"], ["info"]),
    "file_integrity": (["file"], ["change"]),
}
"""`event.category` and `event.type` by Sigma's log source category; values as ECS 8 allows them."""

_NO_VERDICT = Verdict(label=Label.UNTRIAGED, by="none")


def format_time(time_ms: int) -> str:
    """RFC 3339 in UTC with milliseconds. A time outside years 1 to 9999 is written as the nearest inside."""
    try:
        moment = _EPOCH + timedelta(milliseconds=time_ms)
    except OverflowError:
        moment = _LAST if time_ms > 0 else datetime.min.replace(tzinfo=UTC)
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def alert_document(alert: Alert) -> Document:
    r"""The whole alert. Unknown ECS keys are left out; those under `watchdogd` are always there, null if unknown.

    Strings are as the host wrote them (JSON escapes what it must), except that undecodable bytes are `\xNN`.
    """
    document: Document = {
        "@timestamp": format_time(alert.time_ms),
        "event": _event(alert),
        "host": {"name": _text(alert.host)} if alert.host else {},
        "rule": {"id": alert.rule.id, "name": alert.rule.title},
    }
    if alert.process is not None:
        document["process"] = _process(alert.process) | _parent(alert)
        user = _user(alert.process)
        if user:
            document["user"] = user
    document.update(_target(alert))
    document["threat"] = {"technique": {"id": list(alert.rule.techniques)}}
    document["watchdogd"] = _own(alert)
    return document


def _event(alert: Alert) -> Document:
    categories, types = _ECS_EVENT.get(alert.category, (["host"], ["info"]))
    document: Document = {
        "kind": "alert",
        "category": list(categories),
        "type": list(types),
        "outcome": alert.outcome if alert.outcome in {"success", "failure"} else "unknown",
        "module": "watchdogd",
        "dataset": _text(alert.source),
        "severity": alert.level.rank,
        "reason": describe_deed(alert),
    }
    if alert.action:
        document["action"] = _text(alert.action)
    return document


def _target(alert: Alert) -> Document:
    """What it was done to: `file.path`, or `destination.ip` and `.port`."""
    path, address, port = (alert.fields.get(name) for name in ("TargetFilename", "DestinationIp", "DestinationPort"))
    target: Document = {}
    if isinstance(path, str) and path:
        target["file"] = {"path": _text(path)}
    if isinstance(address, str) and address:
        number = int(port) if isinstance(port, int) or (isinstance(port, str) and port.isdecimal()) else None
        target["destination"] = {"ip": _text(address)} | ({} if number is None else {"port": number})
    return target


def _process(process: Process) -> Document:
    document: Document = {"pid": process.pid}
    known = {
        "name": process.comm,
        "executable": process.exe,
        "command_line": command_line(process) if process.argv else None,
        "working_directory": process.cwd,
    }
    document.update({key: _text(value) for key, value in known.items() if value})
    if process.argv:
        document["args"] = [_text(arg) for arg in process.argv]
    return document


def _parent(alert: Alert) -> Document:
    if alert.lineage:
        return {"parent": _process(alert.lineage[0])}
    ppid = alert.process.ppid if alert.process is not None else None
    return {} if ppid is None else {"parent": {"pid": ppid}}


def _user(process: Process) -> Document:
    document = _account(process.user, process.uid)
    login = _account(process.login, process.auid)
    if login:
        document["audit"] = login  # who logged in, through every sudo and su; named as Auditbeat names it
    return document


def _account(name: str | None, uid: int | None) -> Document:
    document: Document = {}
    if name:
        document["name"] = _text(name)
    if uid is not None:
        document["id"] = str(uid)
    return document


def _own(alert: Alert) -> Document:
    return {
        "alert_id": alert.id,
        "state": alert.state,
        "rule_level": str(alert.rule.level),
        "level": str(alert.level),
        "count": alert.count,
        "group_key": _text(alert.group_key),
        "first_seen": format_time(alert.first_seen_ms),
        "last_seen": format_time(alert.last_seen_ms),
        "late": alert.late,
        "correlation": _correlation(alert),
        "events": [_event_id(event_id) for event_id in alert.events],
        "lineage": [_ancestor(process) for process in alert.lineage],
        "evidence_score": alert.evidence_score,
        "reasons": [_text(reason) for reason in alert.reasons],
        "verdict": _verdict(alert.verdict or _NO_VERDICT),
        "lines": [_text(line) for line in alert.lines],
    }


def _correlation(alert: Alert) -> Document | None:
    """What the events of a correlation have in common, and the number that it asks for."""
    if not alert.is_correlation or not alert.matched:
        return None
    *group, (name, number) = alert.matched.items()
    return {"measure": name, "number": _text(number), "group": {field: _text(value) for field, value in group}}


def _event_id(event_id: EventId) -> Document:
    node = None if event_id.node is None else _text(event_id.node)
    return {"node": node, "time_ms": event_id.time_ms, "serial": event_id.serial}


def _ancestor(process: Process) -> Document:
    return {
        "pid": process.pid,
        "executable": None if process.exe is None else _text(process.exe),
        "command_line": _text(command_line(process)) if process.argv else None,
        "user": None if process.user is None else _text(process.user),
    }


def _verdict(verdict: Verdict) -> Document:
    return {
        "label": str(verdict.label),
        "by": verdict.by,
        "confidence": verdict.confidence,
        "summary": _text(verdict.summary),
        "techniques": [_text(technique) for technique in verdict.techniques],
        "next_steps": [_text(step) for step in verdict.next_steps],
        "model": verdict.model,
        "model_digest": verdict.model_digest,
        "prompt_version": verdict.prompt_version,
        "prompt_sha256": verdict.prompt_sha256,
        "prompt_tokens": verdict.prompt_tokens,
        "answer_tokens": verdict.answer_tokens,
        "options": dict(verdict.options),
        "scorer": verdict.scorer,
        "model_share": verdict.model_share,
        "believed": verdict.believed,
        "injection": verdict.injection or None,
        "cached": verdict.cached,
        "truncated": verdict.truncated,
        "elapsed_s": verdict.elapsed_s,
        "error": None if verdict.error is None else _text(verdict.error),
    }


def _text(text: str) -> str:
    return escape_surrogates(text)
