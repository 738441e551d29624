"""What a verdict may change. The rule's level is a floor that nothing a model says can lower."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from watchdogd.entities import Alert, AlertState, Label, Level, Rule

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
OBEYED = "obeyed"
"""`Verdict.injection` where the model followed such text."""

WEIGHTY = frozenset({"fusion", "scorer"})
"""Whose labels may change anything: not those of a model alone, which nobody examined."""

INJECTION_RULE = Rule(
    id="5d0f3c1a-8f0e-4b57-9d0a-6a2f3f6f7c11",
    title="Text addressed to a language model",
    level=Level.HIGH,
    description=(
        "Text that someone on the host could choose (arguments, paths, names) reads like an order to the model that "
        "judges alerts. Nobody writes that by accident: it is meant to hide what happens beside it."
    ),
    techniques=("T1562",),
    tags=("attack.defense-evasion", "attack.t1562"),
    falsepositives=("Work on prompts and guards of language models at a command line",),
    path="watchdogd/triage/policy.py",
    triage="never",
)
"""Built in, for it needs the detector: no Sigma rule can say it."""


class Ruling(msgspec.Struct, frozen=True):
    """What becomes of an alert after its verdict."""

    alert: Alert
    """With the verdict and the effective level."""
    journald_only: bool
    """No sink but the journal is told. Never for `high` and `critical`."""
    label: Label
    """What routes go by: the verdict's, where it may change anything."""
    extra: tuple[Alert, ...]
    """Alerts of their own that the verdict gives rise to, to be stored with it; never triaged. Their ids depend on the
    event alone: several alerts of one event give the same."""
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
        if verdict.injection and INJECTION_REASON not in reasons:
            reasons = (*reasons, INJECTION_REASON)
        ruled = msgspec.structs.replace(alert, level=level, reasons=reasons, verdict=verdict)
        before = alert.verdict.label if alert.verdict is not None else Label.UNTRIAGED
        return Ruling(
            alert=ruled,
            journald_only=self._may_stay_local(ruled, verdict),
            label=choose_label(verdict),
            extra=(build_injection_alert(alert),) if verdict.injection else (),
            verdict_changes=verdict.label is not before or level is not alert.level or reasons != alert.reasons,
        )

    def _level_for(self, alert: Alert, verdict: Verdict) -> Level:
        """One level above the rule's for `malicious`, where the configuration allows, and for an obeyed injection."""
        malicious = verdict.label is Label.MALICIOUS and verdict.by in WEIGHTY and self._settings.raise_on_malicious
        if malicious or verdict.injection == OBEYED:
            return list(Level)[min(alert.rule.level.rank + 1, Level.CRITICAL.rank)]
        return alert.rule.level

    def _may_stay_local(self, alert: Alert, verdict: Verdict) -> bool:
        return (
            self._settings.benign_to_journald
            and verdict.label is Label.BENIGN
            and verdict.by in WEIGHTY
            and not verdict.injection
            and self._settings.floor.allows_journald(max(alert.level, alert.rule.level, key=_rank))
        )


def choose_label(verdict: Verdict) -> Label:
    """The label that receivers are chosen by: nobody's who may change nothing, nor `benign` beside an injection."""
    if verdict.by not in WEIGHTY or (verdict.injection and verdict.label is Label.BENIGN):
        return Label.UNTRIAGED
    return verdict.label


def build_injection_alert(alert: Alert) -> Alert:
    """The alert of INJECTION_RULE on the event that completed `alert`."""
    rule = INJECTION_RULE
    actor = alert.group_key.removeprefix(f"{alert.rule.id}|")
    return msgspec.structs.replace(
        alert,
        id=hashlib.sha256(f"{rule.id}\n{alert.events[-1].text()}".encode("utf-8", "backslashreplace")).hexdigest(),
        rule=rule,
        level=rule.level,
        events=alert.events[-1:],
        matched={} if alert.is_correlation else alert.matched,
        group_key=f"{rule.id}|{actor}",
        first_seen_ms=alert.time_ms,
        last_seen_ms=alert.time_ms,
        reasons=(INJECTION_REASON,),
        state=AlertState.ACTIVE,
        leader=None,
        silence=None,
        count=1,
        verdict=None,
        is_correlation=False,
    )


def _rank(level: Level) -> int:
    return level.rank
