"""An alert as a title and a few lines of plain text, for services of which nothing more is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watchdogd.entities import Level
from watchdogd.write.formats.card import count_utf8, fit, make_card

if TYPE_CHECKING:
    from watchdogd.entities import Alert

_TITLE, _LINE, _BODY = 250, 1000, 4000
_BROKEN = str.maketrans({"@": "@\u200b", "<": "<\u200b"})
"""Mentions, of most services, begin with one of these: a neighbour without width takes their meaning."""
_KINDS = {Level.CRITICAL: "failure", Level.HIGH: "failure", Level.MEDIUM: "warning"}


def build_plain(alert: Alert, kind: str) -> tuple[str, str]:
    """Title and body, in bytes of UTF-8 no longer than 250 and 4000, without mentions; the body's lines are ours."""
    card = make_card(alert, kind)
    lines = [card.deed, *(f"{name}: {value}" for name, value in card.facts)]
    lines += [f"{name}: {text}" for name, text in (("Why", card.why), ("Triage", card.summary)) if text]
    body = "\n".join(fit(line, _LINE, break_mentions, count_utf8) for line in (*lines, card.footer))
    if count_utf8(body) > _BODY:
        note = "\n...[cut]"
        body = body.encode()[: _BODY - len(note)].decode(errors="ignore") + note
    return fit(card.title, _TITLE, break_mentions, count_utf8), body


def break_mentions(text: str) -> str:
    """The text, in which nobody is mentioned."""
    return text.translate(_BROKEN)


def choose_kind(level: Level) -> str:
    """`failure`, `warning` or `info`, as apprise calls them."""
    return _KINDS.get(level, "info")
