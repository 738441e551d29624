from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.triage.conftest import make_alert, make_process
from watchdogd.background import NO_BACKGROUND
from watchdogd.entities import Level, Rarity
from watchdogd.triage.evidence_scorer import EvidenceScorer

if TYPE_CHECKING:
    from watchdogd.ports import AlertScorer

SCORER: AlertScorer = EvidenceScorer()


def test_says_of_an_alert_what_was_said_of_its_event() -> None:
    scored = SCORER.score(make_alert(), NO_BACKGROUND)
    # level high +0.5, below a web server +1.5
    assert scored.log_odds == pytest.approx(2.0, abs=0.001)
    assert scored.probability == pytest.approx(1 / (1 + math.exp(-2.0)), abs=0.001)
    assert scored.reasons == ("rule level high", "below a web server (nginx)")


def test_rarity_of_the_alert_counts() -> None:
    alert = msgspec.structs.replace(make_alert(), rarity=Rarity("p", 0, None, 500))
    assert SCORER.score(alert, NO_BACKGROUND).log_odds == pytest.approx(2.8, abs=0.001)


def test_package_work_scores_low() -> None:
    apt = make_process("/usr/bin/apt-get", "apt-get", "upgrade")
    scored = SCORER.score(make_alert(level=Level.LOW, lineage=(apt,)), NO_BACKGROUND)
    assert scored.probability < SCORER.benign_below < SCORER.malicious_from
