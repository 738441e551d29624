"""A host metric in words, for models, and for people whom no model tells anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from watchdogd.figures import describe_figure
from watchdogd.triage.guard import clean

if TYPE_CHECKING:
    from watchdogd.entities import Alert

_TEXT_CHARS: Final = 120


def describe(alert: Alert, language: str = "en") -> str:
    """`CPU at 97 % for 25 min (usual is 4 %), by xmrig as web, started by /bin/sh`; empty for other alerts.

    Made of the fields of a host_metrics event alone; texts of the host are cleaned and masked.
    """
    if alert.category != "host_metrics":
        return ""
    return describe_figure(alert.fields, lambda text: clean(text, _TEXT_CHARS), language)
