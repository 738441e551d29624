"""What a verdict may change. The rule's level is a floor that nothing a model says can lower."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from watchdogd.entities import Alert, Label, Level
from watchdogd.triage.guard import INJECTION

if TYPE_CHECKING:
    from watchdogd.config import TriageSettings
    from watchdogd.entities import Verdict

DEADLINES_S = {
    Level.CRITICAL: 0.0,
    Level.HIGH: 5.0,
    Level.MEDIUM: 60.0,
    Level.LOW: 60.0,
    Level.INFORMATIONAL: 60.0,
}
"""How long an alert may wait for its verdict where the configuration does not say."""

INJECTION_REASON = "text in the event reads like an instruction to a language model"


class Ruling(msgspec.Struct, frozen=True):
    """What becomes of an alert after its verdict."""

    alert: Alert
    """With the verdict and the effective level."""
    journald_only: bool
    """No sink but the journal is told. Never for `high` and `critical`."""
    verdict_changes: bool
    """True where the verdict says something that the alert as it was does not: an alert that was already
    written needs an update."""


class Policy:
    """Applies the verdict to the alert, by configuration; deterministic, no I/O."""

    def __init__(self, settings: TriageSettings) -> None:
        self._settings = settings

    def deadline_ms(self, level: Level) -> int:
        """How long an alert of that level may wait for its verdict; 0 means that it is written at once."""
        seconds = self._settings.deadline_s.get(level, DEADLINES_S[level])
        return max(0, round(seconds * 1000))

    def rule_on(self, alert: Alert, verdict: Verdict) -> Ruling:
        """The alert with its verdict, and where it may go.

        The level is never below the rule's, nor below what the alert already had. `untriaged` changes neither
        level nor route. Ruling twice gives the same as ruling once.
        """
        level = max(self._level_for(alert, verdict), alert.level, alert.rule.level, key=_rank)
        reasons = alert.reasons
        if (verdict.error or "").startswith(INJECTION) and INJECTION_REASON not in reasons:
            reasons = (*reasons, INJECTION_REASON)
        ruled = msgspec.structs.replace(alert, level=level, reasons=reasons, verdict=verdict)
        before = alert.verdict.label if alert.verdict is not None else Label.UNTRIAGED
        return Ruling(
            alert=ruled,
            journald_only=self._may_stay_local(ruled, verdict),
            verdict_changes=verdict.label is not before or level is not alert.level or reasons != alert.reasons,
        )

    def _level_for(self, alert: Alert, verdict: Verdict) -> Level:
        """One level above the rule's for `malicious`, where the configuration allows; else the rule's."""
        if verdict.label is Label.MALICIOUS and self._settings.raise_on_malicious:
            return list(Level)[min(alert.rule.level.rank + 1, Level.CRITICAL.rank)]
        return alert.rule.level

    def _may_stay_local(self, alert: Alert, verdict: Verdict) -> bool:
        return (
            self._settings.benign_to_journald
            and verdict.label is Label.BENIGN
            and max(alert.level.rank, alert.rule.level.rank) <= Level.MEDIUM.rank
        )


def _rank(level: Level) -> int:
    return level.rank
