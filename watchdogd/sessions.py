"""Whose doing an alert is, and what the same session was alerted about lately.

Kept in memory, so that the daemon's judge and replay know it alike; the store asks for more by the same name.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from watchdogd.background import RelatedAlert

if TYPE_CHECKING:
    from watchdogd.entities import Alert

WITHIN_MS = 6 * 3_600_000
KEPT_RULES = 32
KEPT_SESSIONS = 256
_KTHREADD_PID = 2


class SessionAlerts:
    """The newest alert of each rule in each session, bounded in age, in rules a session and in sessions.

    An alert that comes again and again pushes no other rule's out; all together take 2 MB at most.
    """

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, OrderedDict[str, RelatedAlert]] = OrderedDict()

    def find(self, alert: Alert) -> tuple[RelatedAlert, ...]:
        """Earlier alerts of the same session, newest last, not the alert itself."""
        known = self._sessions.get(name_origin(alert) or "")
        if known is None:
            return ()
        return tuple(
            other
            for other in known.values()
            if other.id != alert.id and abs(alert.time_ms - other.time_ms) <= WITHIN_MS
        )

    def remember(self, alert: Alert) -> None:
        """Count this alert to its session from now on."""
        name = name_origin(alert)
        if name is None:
            return
        known: OrderedDict[str, RelatedAlert] = self._sessions.setdefault(name, OrderedDict())
        self._sessions.move_to_end(name)
        known.pop(alert.rule.id, None)
        known[alert.rule.id] = RelatedAlert(
            alert.id, alert.time_ms, alert.rule.id, alert.rule.title, alert.level, alert.rule.techniques
        )
        if len(known) > KEPT_RULES:
            known.popitem(last=False)
        if len(self._sessions) > KEPT_SESSIONS:
            self._sessions.popitem(last=False)


def name_origin(alert: Alert) -> str | None:
    """Whose doing an alert is: the login session, else the process tree below init; None where nobody is known."""
    process = alert.process
    if process is None:
        return None
    if process.session is not None and process.auid is not None:
        return f"{alert.host}|{process.key.boot}|session {process.session} of {process.auid}"
    tree = [one for one in (process, *alert.lineage) if one.pid > _KTHREADD_PID]
    if not tree:
        return None
    key = tree[-1].key
    return f"{alert.host}|{key.boot}|process {key.pid} of {key.start_ms}"
