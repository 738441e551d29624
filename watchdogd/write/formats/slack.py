"""Slack's incoming webhooks: Block Kit, in plain text only, so that nothing of the host is markup.

Limits and escapes as of docs.slack.dev: "Block Kit reference" (header 150, section 3000, field 2000, ten fields, 50
blocks) and "Formatting message text" (`&`, `<` and `>` are the only control characters; every mention begins with `<`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from watchdogd.write.formats.card import fit, make_card
from watchdogd.write.formats.message import Message

if TYPE_CHECKING:
    from watchdogd.entities import Alert
    from watchdogd.webhook_settings import WebhookSettings

_HEADER, _SECTION, _FIELD, _FIELDS = 150, 3000, 2000, 10
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def build_slack(alert: Alert, kind: str, settings: WebhookSettings) -> Message:  # noqa: ARG001 - as all formats
    """A message of one header and a few sections."""
    card = make_card(alert, kind)
    fields = [_text(f"{name}: {value}", _FIELD) for name, value in card.facts][:_FIELDS]
    texts = (card.deed, card.command, f"Why: {card.why}" if card.why else "", card.summary)
    sections: list[dict[str, object]] = [{"type": "section", "text": _text(text, _SECTION)} for text in texts if text]
    blocks = [
        {"type": "header", "text": _text(card.title, _HEADER)},
        *sections[:1],
        {"type": "section", "fields": fields},
        *sections[1:],
        {"type": "context", "elements": [_text(card.footer, _FIELD)]},
    ]
    message = {
        "text": fit(f"{card.title}: {card.deed}", _SECTION, _escape),
        "mrkdwn": False,
        "unfurl_links": False,
        "unfurl_media": False,
        "blocks": blocks,
    }
    return Message(msgspec.json.encode(message))


def _text(text: str, limit: int) -> dict[str, object]:
    return {"type": "plain_text", "text": fit(text, limit, _escape), "emoji": False}


def _escape(text: str) -> str:
    return text.translate(_ESCAPES)
