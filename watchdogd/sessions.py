"""What each session was alerted about lately, kept in memory: the daemon's judge and replay know it alike."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from watchdogd.background import RelatedAlert

if TYPE_CHECKING:
    from watchdogd.entities import Alert

WITHIN_MS = 6 * 3_600_000
KEPT_ALERTS = 32
KEPT_SESSIONS = 1_024
_NO_SESSION = frozenset({None, "", "unset", "4294967295"})


class SessionAlerts:
    """The newest alerts of each session, bounded in age, in number a session and in sessions."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[tuple[str, ...], deque[RelatedAlert]] = OrderedDict()

    def find(self, alert: Alert) -> tuple[RelatedAlert, ...]:
        """Earlier alerts of the same session, newest last, not the alert itself."""
        known = self._sessions.get(name_session(alert), ())
        return tuple(
            other for other in known if other.id != alert.id and abs(alert.time_ms - other.time_ms) <= WITHIN_MS
        )

    def remember(self, alert: Alert) -> None:
        """Count this alert to its session from now on."""
        name = name_session(alert)
        known = self._sessions.setdefault(name, deque(maxlen=KEPT_ALERTS))
        self._sessions.move_to_end(name)
        known.append(
            RelatedAlert(alert.id, alert.time_ms, alert.rule.id, alert.rule.title, alert.level, alert.rule.techniques)
        )
        while len(self._sessions) > KEPT_SESSIONS:
            self._sessions.popitem(last=False)


def name_session(alert: Alert) -> tuple[str, ...]:
    """What alerts of one session have in common: login session, else the oldest known ancestor, else the source."""
    process = alert.process
    if process is None:
        return (alert.host, alert.source, alert.category)
    if process.session not in _NO_SESSION:
        return (alert.host, str(process.auid), str(process.session))
    first = alert.lineage[-1] if alert.lineage else process
    if len(alert.lineage) > 1 and first.pid == 1:
        first = alert.lineage[-2]
    return (alert.host, str(first.key.pid), str(first.key.start_ms))
