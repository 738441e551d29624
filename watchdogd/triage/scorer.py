"""The embedded scorer: a small linear model over traits and evidence tokens. It only adds numbers, and says which."""

from __future__ import annotations

import math
from importlib import resources
from typing import TYPE_CHECKING

import msgspec

from watchdogd.background import NO_BACKGROUND, Background, Scored
from watchdogd.entities import Label
from watchdogd.triage.features import tokens_of
from watchdogd.triage.traits import Trait, may_lower, read_traits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from watchdogd.entities import Alert

WEIGHTS = "weights.json"
SHOWN_REASONS = 6
LEAST_SHOWN = 0.15
"""Log-odds below which a trait is not worth telling."""
FARTHEST = 12.0
"""Log-odds beyond this are all the same certainty."""

LEARNING_RATE = 0.5
MOST_LEARNT = 1.5
"""How far the operator's verdicts may move one weight from the shipped one."""
_UNTAUGHT = ("level:", "tactic:", "actor:", "correlation")
"""What half of all alerts have in common is not the operator's to move by one verdict."""
MOST_WEIGHTS = 2_000
"""Weights that the operator's verdicts may have touched; further ones are not learnt."""


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The shipped model (weights.json): log-odds of an attack."""

    version: str
    about: str
    bias: float
    malicious_from: float
    benign_below: float
    traits: dict[str, float]
    tokens: dict[str, float]
    """Never below zero: whoever writes a command line must gain nothing by adding words."""


class _Lesson(msgspec.Struct, frozen=True):
    """What the operator's verdicts changed of the shipped weights of that version."""

    version: str
    changes: dict[str, float]


def load_weights() -> Weights:
    """The weights that ship with this version."""
    return msgspec.json.decode(resources.files(__package__).joinpath(WEIGHTS).read_bytes(), type=Weights)


class Scorer:
    """How likely an alert is part of an attack. Deterministic but for what the operator taught it."""

    def __init__(self, weights: Weights | None = None) -> None:
        """With the weights that ship, where no others are given."""
        self._weights = load_weights() if weights is None else weights
        self._learnt: dict[str, float] = {}

    @property
    def malicious_from(self) -> float:
        """From this probability on an alert is `malicious`."""
        return self._weights.malicious_from

    @property
    def benign_below(self) -> float:
        """Below this probability it is `benign`; in between it is `suspicious`."""
        return self._weights.benign_below

    def label(self, probability: float) -> Label:
        """The label that a probability stands for."""
        if probability >= self.malicious_from:
            return Label.MALICIOUS
        return Label.BENIGN if probability < self.benign_below else Label.SUSPICIOUS

    def score(self, alert: Alert, background: Background = NO_BACKGROUND) -> Scored:
        """Probability and log-odds of an attack, with the reasons that moved them most, the rule's level first.

        Reasons are words of ours: none holds a text of the host.
        """
        weighed = [(self._weigh(trait), trait) for trait in self._traits(alert, background)]
        log_odds = self._weights.bias + sum(weight for weight, _ in weighed)
        log_odds = max(-FARTHEST, min(FARTHEST, log_odds))
        return Scored(
            probability=round(1 / (1 + math.exp(-log_odds)), 4),
            log_odds=round(log_odds, 4),
            reasons=tuple(_choose_reasons(weighed)),
        )

    def learn(self, alert: Alert, background: Background, label: Label) -> None:
        """Move towards the operator's verdict: one bounded step for each trait and token of the alert.

        `suspicious` pulls to the middle. What may only raise a score never learns to lower it, and no weight moves
        further than `MOST_LEARNT` from the shipped one.
        """
        wanted = {Label.MALICIOUS: 1.0, Label.BENIGN: 0.0, Label.SUSPICIOUS: 0.5}.get(label)
        if wanted is None:
            return
        traits = [trait for trait in self._traits(alert, background) if not trait.name.startswith(_UNTAUGHT)]
        surprise = wanted - self.score(alert, background).probability
        step = LEARNING_RATE * surprise / max(1.0, math.sqrt(sum(trait.value**2 for trait in traits)))
        for trait in traits:
            if trait.name in self._learnt or len(self._learnt) < MOST_WEIGHTS:
                self._move(trait.name, step * trait.value)

    def changes(self) -> bytes:
        """What was learnt, for `restore`."""
        return msgspec.json.encode(_Lesson(self._weights.version, self._learnt))

    def restore(self, lesson: bytes) -> bool:
        """Take up what `changes` gave; False where it cannot be read or belongs to other weights: nothing changes."""
        try:
            known = msgspec.json.decode(lesson, type=_Lesson)
        except msgspec.DecodeError:
            return False
        if known.version != self._weights.version:
            return False
        self._learnt = {}
        for name, change in known.changes.items():
            self._move(name, change)
        return True

    def _move(self, name: str, change: float) -> None:
        moved = max(-MOST_LEARNT, min(MOST_LEARNT, self._learnt.get(name, 0.0) + change))
        if not may_lower(name):
            moved = max(moved, -self._shipped(name))
        self._learnt[name] = round(moved, 5)

    def _shipped(self, name: str) -> float:
        return self._weights.traits.get(name) or self._weights.tokens.get(name.removeprefix("token:"), 0.0)

    def _weigh(self, trait: Trait) -> float:
        return trait.value * (self._shipped(trait.name) + self._learnt.get(trait.name, 0.0))

    def _traits(self, alert: Alert, background: Background) -> Iterator[Trait]:
        yield from read_traits(alert, background)
        for token in tokens_of(alert):
            yield Trait(f"token:{token}", 1.0, "")


def _choose_reasons(weighed: list[tuple[float, Trait]]) -> Iterator[str]:
    level = next(trait.reason for _, trait in weighed if trait.name.startswith("level:"))
    yield level
    told = [(weight, trait) for weight, trait in weighed if trait.reason and trait.reason != level]
    told.sort(key=lambda pair: -abs(pair[0]))
    for weight, trait in told[:SHOWN_REASONS]:
        if abs(weight) >= LEAST_SHOWN:
            yield trait.reason
