"""Made-up alerts that templates are tried with, in the form that `write/formats/template` hands out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from watchdogd.entities import Label, Level

if TYPE_CHECKING:
    from collections.abc import Iterator

Values = dict[str, Any]

_TIME: Final = "2026-01-31T12:00:00.123Z"
_DEED: Final = 'root (login alice) ran "/usr/bin/cat /etc/shadow" from bash < sshd'
_PROCESS: Final = {
    "pid": 4000,
    "name": "cat",
    "executable": "/usr/bin/cat",
    "command_line": "/usr/bin/cat /etc/shadow",
    "working_directory": "/root",
    "args": ["/usr/bin/cat", "/etc/shadow"],
}
_VERDICT: Final[Values] = {
    "label": "malicious",
    "by": "fusion",
    "confidence": 0.87,
    "summary": "Reads password hashes.",
    "techniques": ["T1003.008"],
    "next_steps": ["Look at the session's other commands"],
    **dict.fromkeys(("model", "model_digest", "prompt_version", "prompt_sha256", "prompt_tokens", "answer_tokens")),
    "options": {},
    **dict.fromkeys(("scorer", "model_share")),
    "believed": True,
    "injection": None,
    "cached": False,
    "truncated": False,
    **dict.fromkeys(("elapsed_s", "error")),
}
_OWN: Final[Values] = {
    "alert_id": "a1b2c3",
    "state": "active",
    "rule_level": "high",
    "level": "high",
    "count": 2,
    "group_key": "rule|alice",
    "first_seen": _TIME,
    "last_seen": _TIME,
    "late": False,
    "correlation": None,
    "events": [{"node": None, "time_ms": 1_769_860_800_123, "serial": 4567}],
    "lineage": [{"pid": 3999, "executable": "/bin/bash", "command_line": "/bin/bash -i", "user": "root"}],
    "evidence_score": 0.62,
    "reasons": ["never seen on this host"],
    "verdict": _VERDICT,
    "lines": ["type=SYSCALL msg=audit(1769860800.123:4567): a0=1"],
}
_EVENT: Final = {
    "kind": "alert",
    "category": ["process"],
    "type": ["start"],
    "outcome": "success",
    "module": "watchdogd",
    "dataset": "audit_log",
    "severity": 3,
    "reason": _DEED,
    "action": "executed",
}
_RULE: Final = {"id": "5f0f9e9e-0000-4000-8000-000000000001", "name": "Shadow file read"}
_DOCUMENT: Final = {
    "@timestamp": _TIME,
    "event": _EVENT,
    "host": {"name": "web01"},
    "rule": _RULE,
    "process": {**_PROCESS, "parent": _PROCESS},
    "user": {"name": "root", "id": "0", "audit": {"name": "alice", "id": "1000"}},
    "file": {"path": "/etc/shadow"},
    "destination": {"ip": "192.0.2.1", "port": 443},
    "threat": {"technique": {"id": ["T1003.008"]}},
    "watchdogd": _OWN,
}
FULL: Final[Values] = {
    "kind": "alert",
    "id": "a1b2c3",
    "time": _TIME,
    "host": "web01",
    "level": "high",
    "rule_level": "high",
    "rule_id": "5f0f9e9e-0000-4000-8000-000000000001",
    "title": "Shadow file read",
    "techniques": ["T1003.008"],
    "tags": ["attack.credential-access"],
    "verdict": "malicious",
    "confidence": 0.87,
    "evidence": 0.62,
    "summary": "Reads password hashes.",
    "next_steps": ["Look at the session's other commands"],
    "count": 2,
    "first_seen": _TIME,
    "last_seen": _TIME,
    "late": False,
    "text": f"high, malicious 87% (evidence 0.62): Shadow file read: {_DEED}",
    "deed": _DEED,
    "user": "root (login alice)",
    "command": "/usr/bin/cat /etc/shadow",
    "lineage": "bash < sshd",
    "together": "",
    "reasons": ["never seen on this host"],
    "lines": ["type=SYSCALL msg=audit(1769860800.123:4567): a0=1"],
    "alert": _DOCUMENT,
}
"""Everything known."""

_BARE_DOCUMENT: Final = {
    "@timestamp": _TIME,
    "event": {name: value for name, value in _EVENT.items() if name != "action"},
    "host": {},
    "rule": _RULE,
    "threat": {"technique": {"id": []}},
    "watchdogd": {**_OWN, **{name: [] for name in ("lineage", "reasons", "lines", "events")}},
}

BARE: Final[Values] = {
    **FULL,
    **dict.fromkeys(("host", "summary", "user", "command", "lineage", "deed"), ""),
    **{name: [] for name in ("techniques", "tags", "next_steps", "reasons", "lines")},
    "verdict": "untriaged",
    "confidence": None,
    "alert": _BARE_DOCUMENT,
}
"""Of what the host did nothing is known, and nobody judged."""

_HOSTILE: Final = "\"'\\<&>{{ 7*7 }}{% if %}"
_OURS: Final = {"kind", "time", "first_seen", "last_seen", "level", "rule_level", "label", "by", "state", "verdict"}
"""Words of ours, which a template may look up."""


def list_samples() -> Iterator[tuple[str, Values]]:
    """What each is, and its values: all levels, verdicts and kinds among them."""
    yield "an alert of which everything is known", FULL
    yield "an alert without process, user, verdict or file", BARE
    yield "an alert whose texts are quotes, backslashes and braces", _make_hostile(FULL)
    for level in Level:
        yield f"an alert of level {level}", {**BARE, "level": str(level), "rule_level": str(level)}
    for label in Label:
        yield f"an alert with the verdict {label}", {**FULL, "verdict": str(label)}
    for kind in ("update", "verdict"):
        yield f"a delivery of kind {kind}", {**FULL, "kind": kind}


def _make_hostile(value: Any) -> Any:  # noqa: ANN401 - plain data
    if isinstance(value, dict):
        kept = {name: part for name, part in value.items() if name in _OURS and isinstance(part, str)}
        return {name: _make_hostile(part) for name, part in value.items()} | kept
    if isinstance(value, list):
        return [_make_hostile(part) for part in value]
    return _HOSTILE if isinstance(value, str) else value
