r"""Discord's webhooks: one embed, in which nothing of the host is markup, a link or a mention.

Limits as of discord.com/developers/docs: "Execute Webhook" (content 2000) and "Embed Limits" (title 256, description
4096, 25 fields of 256 and 1024, footer 2048, 6000 characters in all). A backslash takes the meaning of any punctuation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from watchdogd.entities import Level
from watchdogd.write.formats.card import count_utf16, fit, make_card
from watchdogd.write.formats.ecs import format_time
from watchdogd.write.formats.message import Message

if TYPE_CHECKING:
    from watchdogd.entities import Alert
    from watchdogd.webhook_settings import WebhookSettings

_TITLE, _DESCRIPTION, _VALUE, _FOOTER, _ALL = 256, 4096, 1024, 2048, 6000
_LEAST = 40
"""Room for what is cut to say so."""
_COLOURS = {
    Level.CRITICAL: 0x8B0000,
    Level.HIGH: 0xD73A49,
    Level.MEDIUM: 0xE36209,
    Level.LOW: 0xDBAB09,
    Level.INFORMATIONAL: 0x0366D6,
}
_ESCAPES = str.maketrans({char: f"\\{char}" for char in "\\*_~`|>#-+[]()<:!"} | {"@": "@\u200b"})
"""A mention's `@` gets a neighbour without width: embeds notify nobody, but should not look as if they did."""


def build_discord(alert: Alert, kind: str, settings: WebhookSettings) -> Message:  # noqa: ARG001 - as all formats
    """A message of one embed."""
    card = make_card(alert, kind)
    room = _Room(_ALL)
    title = room.take(card.title, _TITLE)
    footer = room.take(card.footer, _FOOTER)
    description = room.take(card.deed, _DESCRIPTION // 2)
    facts = [*card.facts, ("Why", card.why), ("Triage", card.summary), ("Command", card.command)]
    fields = []
    for name, value in facts:
        if value and room.left > len(name) + _LEAST:
            room.left -= len(name)
            inline = name not in {"Why", "Triage", "Command", "Together", "Seen"}
            fields.append({"name": name, "value": room.take(value, _VALUE), "inline": inline})
    embed = {
        "title": title,
        "description": description,
        "color": _COLOURS[alert.level],
        "fields": fields,
        "footer": {"text": footer},
        "timestamp": format_time(alert.time_ms),
    }
    return Message(msgspec.json.encode({"embeds": [embed], "allowed_mentions": {"parse": []}}))


class _Room:
    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, text: str, limit: int) -> str:
        shown = fit(text, min(limit, self.left), lambda part: part.translate(_ESCAPES))
        self.left -= count_utf16(shown)
        return shown
