"""Prometheus' Alertmanager: `POST /api/v2/alerts` takes a list of alerts (its api/v2/openapi.yaml, `postableAlerts`).

Labels say which alert it is, so they are the same in updates and with the verdict; all else is an annotation, of which
the newest holds. Alertmanager takes an alert that is not sent again for resolved after its `resolve_timeout`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from watchdogd.write.formats.card import count_utf8, fit, make_card
from watchdogd.write.formats.ecs import format_time
from watchdogd.write.formats.message import Message

if TYPE_CHECKING:
    from watchdogd.entities import Alert
    from watchdogd.webhook_settings import WebhookSettings

_LABEL, _ANNOTATION = 512, 4096
"""Alertmanager sets no limits; these are ours, in bytes."""


def build_alertmanager(alert: Alert, kind: str, settings: WebhookSettings) -> Message:  # noqa: ARG001 - as all formats
    """A list of one alert; `severity` is the rule's level, which no verdict changes."""
    card = make_card(alert, kind)
    labels = {
        "alertname": alert.rule.title or alert.rule.id,
        "alert_id": alert.id,
        "rule_id": alert.rule.id,
        "severity": str(alert.rule.level),
        "instance": alert.host,
        "job": "watchdogd",
    }
    annotations = {
        "summary": f"{card.title}: {card.deed}",
        "command": card.command,
        "why": card.why,
        "triage": card.summary,
        **{name.lower(): value for name, value in card.facts},
        "count": str(alert.count),
        "first_seen": format_time(alert.first_seen_ms),
        "last_seen": format_time(alert.last_seen_ms),
    }
    document = {
        "labels": _texts(labels, _LABEL),
        "annotations": _texts(annotations, _ANNOTATION),
        "startsAt": format_time(alert.first_seen_ms),
    }
    return Message(msgspec.json.encode([document]))


def _texts(texts: dict[str, str], limit: int) -> dict[str, str]:
    return {name: fit(text, limit, size=count_utf8) for name, text in texts.items() if text}
