"""Which question an alert asks: alerts of the same one share a verdict, and may be repeats of each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from watchdogd.triage.guard import find_instruction
from watchdogd.triage.prompt import host_texts
from watchdogd.triage.recall import name_question

if TYPE_CHECKING:
    from watchdogd.entities import Alert

SUSPECT: Final = "!"
"""How the names of questions begin that texts which read like orders to a model are part of."""


def ask_by_name(alert: Alert, fingerprint: str) -> str:
    """The name of the alert's question. Only the very same suspect texts share one."""
    texts = tuple(host_texts(alert))
    if find_instruction(texts) is None:
        return name_question(alert, fingerprint)
    suspect = {text for text in texts if find_instruction((text,)) is not None}
    return SUSPECT + name_question(alert, fingerprint, "\n".join(sorted(suspect)))
