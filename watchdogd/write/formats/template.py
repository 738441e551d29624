"""The administrator's own template (message_templates): what it is handed of an alert, and how much of that."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from watchdogd.entities import Label
from watchdogd.errors import DeliveryError
from watchdogd.message_templates import MessageTemplate, TemplateFault, TooLongFault
from watchdogd.write.formats.card import fit, make_card
from watchdogd.write.formats.ecs import alert_document, format_time
from watchdogd.write.formats.message import Message
from watchdogd.write.formats.text import alert_line, describe_actor, describe_correlation, describe_lineage

if TYPE_CHECKING:
    from watchdogd.entities import Alert
    from watchdogd.webhook_settings import WebhookSettings

_LIMITS = ((4096, 200), (1024, 50), (256, 20), (64, 5))
"""Characters of a text and entries of a list: the first that the message fits with is used."""


def build_template(alert: Alert, kind: str, settings: WebhookSettings) -> Message:
    """The template filled in, its texts cut as far as the message would be too long otherwise."""
    template = _compile(settings.template or "", settings.template_file or "", settings.content_type)
    values = list_values(alert, kind)
    for most_chars, most_entries in _LIMITS:
        try:
            return Message(template.fill(_bound(values, most_chars, most_entries)), settings.content_type)
        except TooLongFault as fault:
            last: TemplateFault = fault
        except TemplateFault as fault:
            last = fault
            break
    where = "" if last.line is None else f", line {last.line}"
    raise DeliveryError(f"webhook {settings.name}: its template{where}: {last}", recoverable=False)


def list_values(alert: Alert, kind: str) -> dict[str, object]:
    """What a template is handed, texts as the host wrote them. Every name but those within `alert` is always there."""
    verdict, card = alert.verdict, make_card(alert, kind)
    return {
        "kind": kind,
        "id": alert.id,
        "time": format_time(alert.time_ms),
        "host": alert.host,
        "level": str(alert.level),
        "rule_level": str(alert.rule.level),
        "rule_id": alert.rule.id,
        "title": alert.rule.title,
        "techniques": list(alert.rule.techniques),
        "tags": list(alert.rule.tags),
        "verdict": str(verdict.label if verdict else Label.UNTRIAGED),
        "confidence": verdict.confidence if verdict else None,
        "evidence": round(alert.evidence_score, 2),
        "summary": verdict.summary if verdict else "",
        "next_steps": list(verdict.next_steps) if verdict else [],
        "count": alert.count,
        "first_seen": format_time(alert.first_seen_ms),
        "last_seen": format_time(alert.last_seen_ms),
        "late": alert.late,
        "text": alert_line(alert),
        "deed": card.deed,
        "user": describe_actor(alert.process),
        "command": card.command,
        "lineage": describe_lineage(alert.lineage),
        "together": describe_correlation(alert),
        "reasons": list(alert.reasons),
        "lines": list(alert.lines),
        "alert": alert_document(alert),
    }


def _bound(value: object, most_chars: int, most_entries: int) -> dict[str, object]:
    bounded = _bound_value(value, most_chars, most_entries)
    assert isinstance(bounded, dict)  # noqa: S101 - what goes in comes out
    return bounded


def _bound_value(value: object, most_chars: int, most_entries: int) -> object:
    """The same, each text on one line and of so many characters at most, each list of so many entries."""
    if isinstance(value, str):
        return fit(value, most_chars)
    if isinstance(value, dict):
        parts = value.items()
        return {fit(str(name), most_chars): _bound_value(part, most_chars, most_entries) for name, part in parts}
    if isinstance(value, (list, tuple)):
        shown = [_bound_value(part, most_chars, most_entries) for part in value[:most_entries]]
        if len(value) > most_entries and isinstance(value[0], str):  # a template may ask other entries for their parts
            shown.append(f"...[cut, {len(value)} in all]")
        return shown
    return value


@functools.lru_cache(maxsize=16)
def _compile(source: str, path: str, content_type: str) -> MessageTemplate:
    """Compiled once for all alerts; it was tried when the settings were read."""
    return MessageTemplate(source, path, content_type)
