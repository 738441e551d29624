"""What the scorer is trained on and judged by: alerts of labelled recordings, by our rules and by SigmaHQ's.

Ordinary work hardly ever raises an alert of ours. SigmaHQ's rules speak up about it, too: their alerts are the harder
population, and the only one with benign alerts enough to learn from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from evaluation.corpus import BACKGROUND, Scenario, find_owner, judge_log, load_scenarios
from watchdogd.background import Background, Scored
from watchdogd.entities import Label, Level
from watchdogd.match.engine import Engine
from watchdogd.match.library import load_rules
from watchdogd.triage.features import tokens_of
from watchdogd.triage.traits import read_traits

if TYPE_CHECKING:
    from pathlib import Path

    from watchdogd.entities import Alert

_UNSCORED = Scored(0.5, 0.0, ("",))


class Told(msgspec.Struct, frozen=True):
    """An alert with its background, and what the scorer reads of both."""

    alert: Alert
    background: Background
    traits: dict[str, float]
    tokens: frozenset[str]


class Case(msgspec.Struct, frozen=True):
    """A scenario that raised at least one alert."""

    scenario: Scenario
    told: tuple[Told, ...]

    @property
    def malicious(self) -> bool:
        """Whether its label says so; suspicious ones are left out of every count of two kinds."""
        return self.scenario.label == Label.MALICIOUS.value

    @property
    def level(self) -> Level:
        """The highest of its alerts."""
        return max((told.alert.rule.level for told in self.told), key=lambda level: level.rank)


class _Recorder:
    """Stands in for the scorer: remembers each alert with the background that the judge knows."""

    def __init__(self) -> None:
        self.told: list[Told] = []

    def score(self, alert: Alert, background: Background) -> Scored:
        traits = {trait.name: trait.value for trait in read_traits(alert, background)}
        self.told.append(Told(alert, background, traits, frozenset(tokens_of(alert))))
        return _UNSCORED


def gather_single(rules: Path, recorded: Path) -> list[Case]:
    """One scenario a log; those that raised no alert are left out."""
    engine = Engine(load_rules([rules]))
    cases = []
    for scenario in load_scenarios(recorded / "labels.jsonl"):
        recorder = _Recorder()
        judge_log(engine, recorded / "logs" / f"{scenario.id}.log", recorder.score)
        if recorder.told:
            cases.append(Case(scenario, tuple(recorder.told)))
    return cases


def gather_mixed(rules: Path, recorded: Path) -> list[Case]:
    """The scenarios of the mixed log that raised an alert."""
    families = {scenario.id: scenario.family for scenario in load_scenarios(recorded / "labels.jsonl")}
    scenarios = load_scenarios(recorded / "mixed.details.jsonl")
    recorder = _Recorder()
    judge_log(Engine(load_rules([rules])), recorded / "mixed.log", recorder.score)
    found: dict[str, list[Told]] = {scenario.id: [] for scenario in scenarios}
    for told in recorder.told:
        owner = find_owner(scenarios, told.alert)
        if owner is not None:
            found[owner.id].append(told)
    labelled = {
        scenario.id: msgspec.structs.replace(scenario, family=families.get(scenario.id, scenario.id))
        for scenario in scenarios
        if scenario.id != BACKGROUND
    }
    return [Case(scenario, tuple(found[name])) for name, scenario in labelled.items() if found[name]]
