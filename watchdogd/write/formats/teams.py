"""Microsoft Teams by way of Workflows: an Adaptive Card in a message.

Texts are TextRuns of RichTextBlocks, which know no Markdown, as TextBlocks and Facts do (adaptivecards.io/explorer); a
mention needs an entry in the card's `msteams.entities`, and there is none. Teams takes messages of 28 KB
(learn.microsoft.com, "Create and send messages with Workflows", limits).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from watchdogd.entities import Level
from watchdogd.write.formats.card import fit, make_card
from watchdogd.write.formats.message import Message

if TYPE_CHECKING:
    from watchdogd.entities import Alert
    from watchdogd.webhook_settings import WebhookSettings
    from watchdogd.write.formats.card import Card

_MOST_BYTES = 28_000
_TEXT_LIMITS = (2000, 1000, 400, 150)
"""How long each text may be: the first that makes the whole fit is used, and the last always does."""
_COLOURS = {Level.CRITICAL: "Attention", Level.HIGH: "Attention", Level.MEDIUM: "Warning"}


def build_teams(alert: Alert, kind: str, settings: WebhookSettings) -> Message:  # noqa: ARG001 - as all formats
    """A message with one card."""
    card = make_card(alert, kind)
    colour = _COLOURS.get(alert.level, "Default")
    body = b""
    for limit in _TEXT_LIMITS:
        body = msgspec.json.encode(_envelop(card, colour, limit))
        if len(body) <= _MOST_BYTES:
            break
    return Message(body)


def _envelop(card: Card, colour: str, limit: int) -> dict[str, object]:
    rows = [_row(_run(f"{name}: ", limit, weight="Bolder"), _run(value, limit)) for name, value in card.facts]
    named = (("Why", card.why), ("Triage", card.summary))
    rows += [_row(_run(f"{name}: ", limit, weight="Bolder"), _run(text, limit)) for name, text in named if text]
    if card.command:
        rows.append(_row(_run(card.command, limit, fontType="Monospace")))
    content = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "msteams": {"width": "Full"},
        "body": [
            _row(_run(card.title, limit, weight="Bolder", size="Large", color=colour)),
            _row(_run(card.deed, limit)),
            *rows,
            _row(_run(card.footer, limit, isSubtle=True, size="Small")),
        ],
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": content}
    return {"type": "message", "attachments": [attachment]}


def _row(*runs: dict[str, object]) -> dict[str, object]:
    return {"type": "RichTextBlock", "inlines": list(runs)}


def _run(text: str, limit: int, **style: object) -> dict[str, object]:
    return {"type": "TextRun", "text": fit(text, limit), **style}
