"""What a person is shown of an alert where a service has room for little: the same in every chat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from watchdogd.entities import Label
from watchdogd.write.formats.ecs import format_time
from watchdogd.write.formats.text import (
    command_line,
    describe_actor,
    describe_correlation,
    describe_deed,
    escape_controls,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from watchdogd.entities import Alert

_PREFIXES = {"verdict": "verdict on an earlier alert: ", "update": "again: "}


class Card(msgspec.Struct, frozen=True):
    """Texts of one line each, as the host wrote them where it wrote them: to be escaped and cut by who shows them."""

    title: str
    deed: str
    """Who did what from where."""
    command: str
    facts: tuple[tuple[str, str], ...]
    why: str
    summary: str
    """What triage says, and what to do next."""
    footer: str


def make_card(alert: Alert, kind: str) -> Card:
    """The card of an alert; `kind` is the delivery's."""
    verdict = alert.verdict
    label = verdict.label if verdict else Label.UNTRIAGED
    sure = "" if verdict is None or verdict.confidence is None else f" {verdict.confidence:.0%}"
    process = alert.process
    seen = f"{alert.count} times, {format_time(alert.first_seen_ms)} to {format_time(alert.last_seen_ms)}"
    facts = {
        "Host": alert.host,
        "Level": str(alert.level),
        "Verdict": f"{label}{sure}",
        "Evidence": f"{alert.evidence_score:.2f}",
        "User": describe_actor(process),
        "Seen": seen if alert.count > 1 else "",
        "Together": describe_correlation(alert),
        "Techniques": " ".join(alert.rule.techniques),
        "Time": format_time(alert.time_ms) + (" (late)" if alert.late else ""),
    }
    steps = "" if verdict is None or not verdict.next_steps else " Next: " + "; ".join(verdict.next_steps)
    return Card(
        title=f"{_PREFIXES.get(kind, '')}{alert.level}: {alert.rule.title}",
        deed=describe_deed(alert),
        command=command_line(process) if process is not None and process.argv else "",
        facts=tuple((name, value) for name, value in facts.items() if value),
        why="; ".join(alert.reasons),
        summary=(verdict.summary + steps).strip() if verdict else "",
        footer=f"watchdogd alert {alert.id}",
    )


def fit(text: str, limit: int, escape: Callable[[str], str] = str, size: Callable[[str], int] | None = None) -> str:
    """The text on one line, escaped, within `limit`; or its beginning and how long it was.

    `escape` works character by character, `size` is characters as UTF-16 counts them where nothing else is given.
    """
    measure = size or count_utf16
    shown = escape(escape_controls(text[: limit + 1]))
    if len(text) <= limit and measure(shown) <= limit:
        return shown
    note = escape(f"...[cut, {len(text)} characters in all]")
    low, high = 0, min(len(text), limit)
    while low < high:  # a character is never split, nor its escape
        middle = (low + high + 1) // 2
        if measure(escape(escape_controls(text[:middle]))) + measure(note) <= limit:
            low = middle
        else:
            high = middle - 1
    return (escape(escape_controls(text[:low])) + note)[:limit]


def count_utf16(text: str) -> int:
    """Length in UTF-16 code units, as JavaScript counts."""
    return len(text) + sum(char > "\uffff" for char in text)


def count_utf8(text: str) -> int:
    """Length in bytes."""
    return len(text.encode())
