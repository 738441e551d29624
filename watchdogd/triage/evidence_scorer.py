"""The evidence score of a stored alert: what `score_evidence` says of its event, asked again from the alert alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from watchdogd.background import NO_BACKGROUND, Background, Scored
from watchdogd.entities import Event, View
from watchdogd.triage.scorer import score_evidence

if TYPE_CHECKING:
    from watchdogd.entities import Alert

_LEAST = 1e-6


class EvidenceScorer:
    """Scores alerts by the weights that were chosen by hand. They order alerts, they are no probabilities."""

    malicious_from = 0.7
    benign_below = 0.2

    def score(self, alert: Alert, background: Background = NO_BACKGROUND) -> Scored:  # noqa: ARG002 - the port's
        """How much speaks for an attack; the background says nothing here."""
        view = View(alert.category, alert.action, alert.outcome, alert.fields)
        event = Event(
            alert.events[-1],
            alert.source,
            views=(view,),
            process=alert.process,
            lineage=alert.lineage,
            rarity=alert.rarity,
        )
        chance, reasons = score_evidence(alert.rule, event)
        bounded = min(max(chance, _LEAST), 1 - _LEAST)
        return Scored(chance, math.log(bounded / (1 - bounded)), reasons)
