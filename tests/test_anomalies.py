"""A host's figures from sample to sentence: norms, the shipped rules, the judge, and what journal and webhooks say."""

from __future__ import annotations

import math
import random
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from watchdogd.decode.decoder import Decoder
from watchdogd.enrich.baseline import Baseline
from watchdogd.enrich.enricher import Enricher
from watchdogd.enrich.identity import Identity
from watchdogd.enrich.norms import Norms
from watchdogd.enrich.own import OwnProcesses
from watchdogd.enrich.process import ProcessTree
from watchdogd.entities import Event, EventId, FieldMap, View
from watchdogd.judge import Judge
from watchdogd.match.engine import Engine
from watchdogd.match.library import load_rules
from watchdogd.ports import SystemClock
from watchdogd.telemetry import Counters
from watchdogd.triage.scorer import Scorer
from watchdogd.write.formats.ecs import alert_document
from watchdogd.write.formats.text import alert_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from watchdogd.entities import Alert
    from watchdogd.match.library import RuleSet

RULES = Path(__file__).parents[1] / "rules" / "impact"
START_MIN = 2_000 * 10_080 + 4 * 1_440
"""A Monday, midnight UTC: the epoch was a Thursday."""
TRAINED_MIN = 16 * 1_440
STAYS, GROWS = "Figure of the Host Stays Unusual", "Figure of the Host Grows Without End"


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> RuleSet:
    folder = tmp_path_factory.mktemp("rules")
    for name in ("figure_unusual.yml", "figure_grows.yml"):
        shutil.copy(RULES / name, folder)
    return load_rules([folder])


class Host:
    """One figure of a host: twelve by night, up to thirty by day."""

    def __init__(self, rules: RuleSet, metric: str = "cpu.percent") -> None:
        self._rules, self._metric = rules, metric
        self._noise = random.Random(5)
        self.minute = float(START_MIN)
        self.boot({})

    def boot(self, stored: dict[str, bytes]) -> None:
        self.counters = Counters()
        self.norms = Norms(stored, counters=self.counters, localtime=time.gmtime)
        own = OwnProcesses(())
        enricher = Enricher(ProcessTree(), Identity(SystemClock()), Baseline(), own, norms=self.norms)
        score = Scorer().score
        self.judge = Judge(
            Decoder(self.counters, live=True), enricher, Engine(self._rules), score, self.counters, host="web01"
        )

    def run(self, minutes: float, add: Callable[[float], float] = lambda _: 0.0, **fields: str) -> list[Alert]:
        """Alerts of the correlation and of leaks; six samples a minute for an hour at most, one beyond."""
        step = 1 / 6 if minutes <= 60 else 1.0
        alerts = []
        for number in range(round(minutes / step)):
            usual = 12 + 18 * max(0.0, math.sin((self.minute % 1_440 / 1_440 - 0.3) * 2 * math.pi))
            value = min(100.0, usual + self._noise.gauss(0, 1) + add(number * step))
            event = self._make_event(value, fields)
            alerts += self.judge.judge_events([event], event.id.time_ms).alerts
            self.minute += step
        return [alert for alert in alerts if alert.rule.title in (STAYS, GROWS)]

    def _make_event(self, value: float, more: dict[str, str]) -> Event:
        fields: FieldMap = {"metric": self._metric, "value": value, "unit": "percent", **more}
        event_id = EventId("host_metrics", None, round(self.minute * 60_000), 0, self._metric)
        return Event(id=event_id, source="host_metrics", views=(View("host_metrics", "sample", "success", fields),))


def test_a_miner_is_told_in_a_sentence_and_once_a_timespan(rules: RuleSet) -> None:
    host = Host(rules)
    assert host.run(TRAINED_MIN + 14 * 60) == []
    hostile = "/tmp/\u202e.x\nMESSAGE=forged {0} %s"
    alerts = host.run(30, lambda _: 100.0, Image=hostile, User="web", ParentImage="/usr/bin/dash")
    assert {alert.rule.title for alert in alerts} == {STAYS}
    assert 3 <= len(alerts) <= 5  # which one group of repeats takes up
    alert = alerts[0]
    assert alert.level == "low"
    assert alert.first_seen_ms >= (START_MIN + TRAINED_MIN + 14 * 60) * 60_000
    assert float(str(alert.fields["minutes"])) <= 12
    line = alert_line(alert)
    assert "CPU at 100 % for " in line
    assert "(usual on Wednesdays at 14 h: " in line
    assert ', by "/tmp/\\u202e.x\\nMESSAGE=forged {0} %s" as "web", started by "/usr/bin/dash"' in line
    assert "\n" not in line
    document = alert_document(alert)
    assert "CPU at 100 % for " in str(document["event"])
    host.run(5)
    assert host.run(60) == []


def test_ordinary_weeks_are_quiet(rules: RuleSet) -> None:
    host = Host(rules)
    assert host.run(TRAINED_MIN + 7 * 1_440) == []


def test_a_leak_is_told(rules: RuleSet) -> None:
    host = Host(rules, "memory.used_percent")
    host.run(TRAINED_MIN)
    alerts = host.run(4 * 1_440, lambda minute: minute / 1_440 * 5)
    grows = [alert for alert in alerts if alert.rule.title == GROWS]
    assert 1 <= len(grows) <= 3  # what still holds after a day is said again
    assert {alert.fields["anomaly"] for alert in alerts} == {"leak"}
    assert "memory " in alert_line(grows[0])
    assert " used, growing for 3 days (usual on " in alert_line(grows[0])


def test_what_was_learnt_survives_a_restart_in_the_midst_of_an_anomaly(rules: RuleSet) -> None:
    host = Host(rules)
    host.run(TRAINED_MIN)
    assert host.run(30, lambda _: 80.0)
    host.boot(host.norms.take_changes(everything=True))
    again = host.run(10, lambda _: 80.0)
    assert len(again) >= 1
    assert float(str(again[0].fields["minutes"])) > 30
    host.run(5)
    assert host.run(60) == []
    assert host.counters.get("enrich_norms_unread_total") == 0
