"""Labelled recordings: one scenario a log, and one log in which thirty of them run beside ordinary work."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import msgspec

from watchdogd.collect.files import read_files
from watchdogd.decode.decoder import Decoder
from watchdogd.enrich.baseline import Baseline
from watchdogd.enrich.enricher import Enricher
from watchdogd.enrich.identity import Identity
from watchdogd.enrich.own import OwnProcesses
from watchdogd.enrich.process import ProcessTree
from watchdogd.judge import Judge
from watchdogd.ports import SystemClock
from watchdogd.telemetry import Counters
from watchdogd.triage.scorer import Scorer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from watchdogd.background import Background, Scored
    from watchdogd.entities import Alert
    from watchdogd.match.engine import Engine

BACKGROUND = "background_noise"
"""The mixed log's ordinary work that belongs to no scenario."""
_SESSION = re.compile(r"\bses=(\d+)")


class Scenario(msgspec.Struct, frozen=True):
    """One labelled piece of recorded work. `label` is malicious, benign or suspicious."""

    id: str
    label: str
    tactic: str
    techniques: tuple[str, ...]
    summary: str
    sessions: tuple[int, ...]
    first_serial: int
    last_serial: int
    family: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """The alerts that fell into one scenario."""

    scenario: Scenario
    alerts: tuple[Alert, ...]

    @property
    def rank(self) -> int:
        """The highest level's rank, -1 without an alert."""
        return max((alert.level.rank for alert in self.alerts), default=-1)


def load_scenarios(path: Path) -> list[Scenario]:
    """Scenarios of a file with one JSON object a line."""
    with path.open(encoding="utf-8") as lines:
        return [msgspec.convert(json.loads(line), Scenario) for line in lines]


def judge_log(engine: Engine, path: Path, score: Callable[[Alert, Background], Scored] | None = None) -> list[Alert]:
    """Alerts of one log, judged as `watchdogd replay` does: by nothing but the file. `score`: the shipped scorer's."""
    counters = Counters()
    enricher = Enricher(ProcessTree(), Identity(SystemClock()), Baseline(), OwnProcesses(()))
    judge = Judge(Decoder(counters, live=False), enricher, engine, score or Scorer().score, counters)
    alerts: list[Alert] = []
    for records in read_files([str(path)], counters):
        alerts += judge.feed(records, 0).alerts
    return alerts + judge.drain(0).alerts


def judge_single_logs(engine: Engine, folder: Path) -> Iterator[Outcome]:
    """One scenario a log."""
    for scenario in load_scenarios(folder / "labels.jsonl"):
        yield Outcome(scenario, tuple(judge_log(engine, folder / "logs" / f"{scenario.id}.log")))


def judge_mixed_log(engine: Engine, folder: Path) -> Iterator[Outcome]:
    """The mixed log: an alert belongs to the scenario in whose serials and sessions its completing event lies.

    An alert outside all of them is the background's.
    """
    scenarios = load_scenarios(folder / "mixed.details.jsonl")
    found: dict[str, list[Alert]] = {scenario.id: [] for scenario in scenarios}
    for alert in judge_log(engine, folder / "mixed.log"):
        owner = find_owner(scenarios, alert)
        found[BACKGROUND if owner is None else owner.id].append(alert)
    for scenario in scenarios:
        yield Outcome(scenario, tuple(found[scenario.id]))


def find_owner(scenarios: Sequence[Scenario], alert: Alert) -> Scenario | None:
    """The scenario of the mixed log that an alert belongs to; None where it is the background's."""
    return next((scenario for scenario in scenarios if _holds(scenario, alert)), None)


def _holds(scenario: Scenario, alert: Alert) -> bool:
    serial = alert.events[-1].serial
    sessions = {int(number) for line in alert.lines for number in _SESSION.findall(line)}
    return scenario.first_serial <= serial <= scenario.last_serial and not sessions.isdisjoint(scenario.sessions)
