"""Alerts of every kind that formats must put into words, and what the services say a message must look like."""

from __future__ import annotations

from typing import Any

from tests.write.conftest import build_alert, make_process
from watchdogd.entities import Alert, EventId, Label, Level, Rule, Verdict

HOSTILE = (
    "<!channel> <@U012> <https://evil.example|safe> & @everyone @here <@&123> <#1> </cmd:1> **b** [a](https://evil.example)"
    " <at>all</at> {{ 7*7 }}\n\r\x00\x1b[31m\u202e\u200b\udcff `x` ||y|| | # ~~z~~ :skull: \U0001f600"
)

VERDICT = Verdict(
    label=Label.MALICIOUS,
    by="fusion",
    confidence=0.87,
    summary="Reads password hashes.",
    next_steps=("Look at the session's other commands", "Change the passwords"),
)


def make_hostile(text: str = HOSTILE) -> Alert:
    """Text of an attacker wherever an attacker can write."""
    return build_alert(
        process=make_process(4000, text, text, cwd=text, user=text, login=text),
        lineage=(make_process(1, text), make_process(2, text)),
        fields={"TargetFilename": text},
        category="file_event",
        group_key=text,
        host=text,
        lines=(text,),
        reasons=(text,),
        verdict=Verdict(label=Label.BENIGN, by="model", summary=text, next_steps=(text,)),
    )


def make_cases() -> dict[str, tuple[Alert, str]]:
    """By name, an alert and the kind of its delivery."""
    metric = build_alert(
        rule=Rule(id="5f0f9e9e-0000-4000-8000-000000000003", title="CPU saturated", level=Level.MEDIUM),
        level=Level.MEDIUM,
        source="host_metrics",
        category="host_metrics",
        action="",
        events=(EventId("host_metrics", None, 1_753_000_000_123, 0, "cpu.percent"),),
        fields={
            "metric": "cpu.percent",
            "value": 97.0,
            "unit": "percent",
            "baseline": 12.0,
            "baseline_hour": "Mon 14",
            "zscore": 28.3,
            "anomaly": "spike",
            "since": "2025-07-20T08:01Z",
            "minutes": 25,
            "Image": "/opt/miner",
            "ParentImage": "/usr/bin/dash",
        },
        process=None,
        lineage=(),
        lines=(),
        verdict=None,
    )
    correlation = build_alert(
        rule=Rule(id="5f0f9e9e-0000-4000-8000-000000000002", title="Many logins", level=Level.CRITICAL),
        level=Level.CRITICAL,
        is_correlation=True,
        matched={"User": "ann", "SourceIp": "192.0.2.1", "count": "5"},
        last_seen_ms=1_753_000_012_423,
        verdict=None,
    )
    return {
        "untriaged": (build_alert(verdict=None), "alert"),
        "judged": (build_alert(verdict=VERDICT), "alert"),
        "update": (build_alert(count=1042, last_seen_ms=1_753_000_999_000, verdict=None), "update"),
        "verdict": (build_alert(verdict=VERDICT), "verdict"),
        "correlation": (correlation, "alert"),
        "metric": (metric, "alert"),
        "hostile": (make_hostile(), "alert"),
    }


def _text(most: int) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": most}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    properties = required | (optional or {})
    return {"type": "object", "required": [*required], "properties": properties, "additionalProperties": False}


def _plain(most: int) -> dict[str, Any]:
    return _object({"type": {"const": "plain_text"}, "text": _text(most), "emoji": {"const": False}})


_SLACK_SECTION = _object(
    {"type": {"const": "section"}},
    {"text": _plain(3000), "fields": {"type": "array", "minItems": 1, "maxItems": 10, "items": _plain(2000)}},
)
_TEXT_RUN = _object(
    {"type": {"const": "TextRun"}, "text": {"type": "string"}},
    {
        "weight": {"enum": ["Bolder"]},
        "size": {"enum": ["Small", "Large"]},
        "color": {"enum": ["Default", "Attention", "Warning"]},
        "fontType": {"enum": ["Monospace"]},
        "isSubtle": {"type": "boolean"},
    },
)
_LABELS = {
    "type": "object",
    "propertyNames": {"pattern": "^[a-zA-Z_][a-zA-Z0-9_]*$"},
    "additionalProperties": {"type": "string", "minLength": 1},
}

SCHEMAS: dict[str, dict[str, Any]] = {
    "slack": _object(
        {
            "text": _text(3000),
            "blocks": {
                "type": "array",
                "maxItems": 50,
                "items": {
                    "oneOf": [
                        _object({"type": {"const": "header"}, "text": _plain(150)}),
                        _SLACK_SECTION,
                        _object(
                            {
                                "type": {"const": "context"},
                                "elements": {"type": "array", "maxItems": 10, "items": _plain(2000)},
                            }
                        ),
                    ]
                },
            },
            "mrkdwn": {"const": False},
            "unfurl_links": {"const": False},
            "unfurl_media": {"const": False},
        }
    ),
    "discord": _object(
        {
            "embeds": {
                "type": "array",
                "maxItems": 10,
                "items": _object(
                    {
                        "title": _text(256),
                        "description": _text(4096),
                        "color": {"type": "integer", "minimum": 0, "maximum": 0xFFFFFF},
                        "fields": {
                            "type": "array",
                            "maxItems": 25,
                            "items": _object({"name": _text(256), "value": _text(1024), "inline": {"type": "boolean"}}),
                        },
                        "footer": _object({"text": _text(2048)}),
                        "timestamp": {"type": "string", "format": "date-time"},
                    }
                ),
            },
            "allowed_mentions": {"const": {"parse": []}},
        }
    ),
    "teams": _object(
        {
            "type": {"const": "message"},
            "attachments": {
                "type": "array",
                "minItems": 1,
                "maxItems": 1,
                "items": _object(
                    {
                        "contentType": {"const": "application/vnd.microsoft.card.adaptive"},
                        "contentUrl": {"type": "null"},
                        "content": _object(
                            {
                                "$schema": {"const": "http://adaptivecards.io/schemas/adaptive-card.json"},
                                "type": {"const": "AdaptiveCard"},
                                "version": {"const": "1.4"},
                                "msteams": {"const": {"width": "Full"}},
                                "body": {
                                    "type": "array",
                                    "items": _object(
                                        {
                                            "type": {"const": "RichTextBlock"},
                                            "inlines": {"type": "array", "items": _TEXT_RUN},
                                        }
                                    ),
                                },
                            }
                        ),
                    }
                ),
            },
        }
    ),
    "alertmanager": {
        "type": "array",
        "minItems": 1,
        "maxItems": 1,
        "items": _object(
            {
                "labels": {**_LABELS, "required": ["alertname"]},
                "annotations": _LABELS,
                "startsAt": {"type": "string", "format": "date-time"},
            },
            {"generatorURL": {"type": "string", "format": "uri"}},
        ),
    },
    "ntfy": _object(
        {
            "topic": {"type": "string", "pattern": "^[-_A-Za-z0-9]{1,64}$"},
            "title": _text(250),
            "message": _text(4096),
            "priority": {"type": "integer", "minimum": 1, "maximum": 5},
            "tags": {"type": "array", "items": _text(64)},
        }
    ),
}
"""Written by hand from what each service documents (named in each format's module): none of them may be copied here."""
