"""What triage knows beside the alert: background, the scorer's opinion, and how far a model is believed."""

from __future__ import annotations

import msgspec

from watchdogd.entities import Label, Level


class Package(msgspec.Struct, frozen=True):
    """The package that owns an executable."""

    name: str
    version: str | None = None
    intact: bool | None = None
    """Whether the file still has the checksum that the package manager recorded; None where that is unknown."""


class RelatedAlert(msgspec.Struct, frozen=True):
    """An earlier alert of the same session."""

    id: str
    time_ms: int
    rule_id: str
    title: str
    level: Level
    techniques: tuple[str, ...] = ()
    command: str = ""
    """As recorded: host text, to be cleaned before it is shown or asked about."""
    label: Label = Label.UNTRIAGED


class Case(msgspec.Struct, frozen=True):
    """A judged alert that serves as an example: shipped, or the operator's own verdict."""

    id: str
    label: Label
    title: str
    level: Level
    tokens: tuple[str, ...]
    """Normalised evidence tokens (triage/features.py), which similarity is counted by."""
    document: dict[str, str] = {}
    """What an example shows to the model: exe, command, parent... cleaned and masked."""
    by: str = "shipped"
    """`shipped` or `operator`."""
    note: str = ""


class Background(msgspec.Struct, frozen=True):
    """Gathered for one alert before it is asked about. Empty parts are unknown, never guessed."""

    package: Package | None = None
    related: tuple[RelatedAlert, ...] = ()
    """Newest last; not the alert itself."""
    cases: tuple[Case, ...] = ()
    """At most six, the most similar first."""


NO_BACKGROUND = Background()


class Scored(msgspec.Struct, frozen=True):
    """The embedded scorer's opinion."""

    probability: float
    """Calibrated, 0 to 1: that the alert is part of an attack."""
    log_odds: float
    reasons: tuple[str, ...]
    """Strongest first, none with text of the host."""


class Fusion(msgspec.Struct, frozen=True):
    """Log-odds of an attack: bias + scorer * its log-odds + model * its log-odds of malicious against benign."""

    bias: float = 0.0
    scorer: float = 1.0
    model: float = 0.0


class Standing(msgspec.Struct, frozen=True):
    """How a model did in its exam. What is about another digest or prompt version says nothing."""

    model: str
    digest: str
    prompt_version: str
    passed: bool
    cases: int
    auroc: float
    auroc_low: float
    auroc_high: float
    scorer_auroc: float
    """Of the embedded scorer alone on the same cases."""
    injections: int
    obeyed: int
    latency_s: float
    """Median of a question."""
    examined_ms: int
    fusion: Fusion = Fusion()
