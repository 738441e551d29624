"""ntfy: published as JSON to the server's root, the topic in the document (docs.ntfy.sh/publish, "Publish as JSON").

The configured URL is the topic's, as one subscribes to it. A message of more than 4096 bytes would become an attachment
(docs.ntfy.sh/config, `message-size-limit`). Markdown is off where it is not asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import msgspec

from watchdogd.entities import Label, Level
from watchdogd.write.formats.card import count_utf8, fit, make_card
from watchdogd.write.formats.message import Message

if TYPE_CHECKING:
    from watchdogd.entities import Alert
    from watchdogd.webhook_settings import WebhookSettings

_TITLE, _MESSAGE, _LINE = 250, 4096, 1000
_PRIORITIES = {Level.CRITICAL: 5, Level.HIGH: 4, Level.MEDIUM: 3, Level.LOW: 2, Level.INFORMATIONAL: 1}


def build_ntfy(alert: Alert, kind: str, settings: WebhookSettings) -> Message:
    """A notification for a telephone: the title, what happened, then the facts."""
    card = make_card(alert, kind)
    url, topic = split_topic(settings.url)
    lines = [card.deed, *(f"{name}: {value}" for name, value in card.facts)]
    lines += [f"{name}: {text}" for name, text in (("Why", card.why), ("Triage", card.summary)) if text]
    lines.append(card.footer)
    message = "\n".join(fit(line, _LINE, size=count_utf8) for line in lines)
    data = message.encode()
    if len(data) > _MESSAGE:
        note = "\n...[cut]"
        message = data[: _MESSAGE - len(note)].decode(errors="ignore") + note
    document = {
        "topic": topic,
        "title": fit(card.title, _TITLE, size=count_utf8),
        "message": message,
        "priority": _PRIORITIES[alert.level],
        "tags": ["watchdogd", str(alert.level), str(alert.verdict.label if alert.verdict else Label.UNTRIAGED)],
    }
    return Message(msgspec.json.encode(document), url=url)


def split_topic(url: str) -> tuple[str, str]:
    """The server's root and the topic: `https://ntfy.example/alerts` is (`https://ntfy.example/`, `alerts`)."""
    parts = urlsplit(url)
    folder, _, topic = parts.path.rstrip("/").rpartition("/")
    return urlunsplit(parts._replace(path=f"{folder}/")), topic
