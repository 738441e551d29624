"""Alerts of watchdogd about itself: about what it is blind to, its database, receivers that it gave up."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from watchdogd.entities import Alert, EventId, Rule

OWN_SOURCE: Final = "watchdogd"


class OwnEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to watchdogd itself, began at `began_ms`, and is the `number`-th about that."""

    rule: Rule
    action: str
    outcome: str
    time_ms: int
    began_ms: int
    number: int = 0
    about: str = ""
    reason: str
    fields: dict[str, str]
    matched: tuple[str, ...] = ()
    """Of the fields those that made it so; none named: all."""
    group: str | None = None
    """What its alerts are grouped by, None: the host."""
    evidence_score: float = 0.0
    lines: tuple[str, ...] = ()
    name: str | None = None
    """What its alert's id depends on beside the rule, None: on the event alone."""


def build_own_alert(found: OwnEvent, host: str) -> Alert:
    """The alert about it. What is found again, after a crash too, is the same alert."""
    rule = found.rule
    event = EventId(OWN_SOURCE, None, found.began_ms, found.number, found.about)
    identity = f"{rule.id}\n{event.text() if found.name is None else found.name}"
    return Alert(
        id=hashlib.sha256(identity.encode("utf-8", "backslashreplace")).hexdigest(),
        time_ms=found.time_ms,
        rule=rule,
        level=rule.level,
        source=OWN_SOURCE,
        category=OWN_SOURCE,
        action=found.action,
        outcome=found.outcome,
        events=(event,),
        fields=dict(found.fields),
        matched={name: found.fields[name] for name in found.matched or found.fields},
        process=None,
        lineage=(),
        group_key=f"{rule.id}|{host if found.group is None else found.group}",
        first_seen_ms=found.began_ms,
        last_seen_ms=found.time_ms,
        evidence_score=found.evidence_score,
        reasons=(found.reason,),
        lines=found.lines,
        host=host,
    )
