"""What the running daemon tells of itself: the answers on its control socket, which `reload` and `status` show."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from watchdogd.background import Standing  # noqa: TC001 - as below
from watchdogd.entities import Label  # noqa: TC001 - as below
from watchdogd.errors import Problem  # noqa: TC001 - msgspec reads the annotations
from watchdogd.ledger import LedgerReport  # noqa: TC001 - as above
from watchdogd.listings import HistoryReport, SilenceReport  # noqa: TC001 - as above


class RuleName(msgspec.Struct, frozen=True):
    """A rule as a person knows it; `reason` says why it is inactive."""

    id: str
    title: str
    reason: str = ""


class LoadReport(msgspec.Struct, frozen=True):
    """One attempt to load configuration and rules. Where it was refused, what was in force before stays so."""

    time_ms: int
    accepted: bool
    active: int
    """Rules in force after it."""
    inactive: int
    added: tuple[RuleName, ...] = ()
    removed: tuple[RuleName, ...] = ()
    changed: tuple[RuleName, ...] = ()
    problems: tuple[Problem, ...] = ()
    """All mistakes where it was refused, else the warnings."""


class SourceReport(msgspec.Struct, frozen=True):
    """A source of events: what it reads, and whether it is read now."""

    name: str
    reads: str
    running: bool


class TriageReport(msgspec.Struct, frozen=True):
    """The triage desk as it is now."""

    model: str | None
    """None where triage is turned off."""
    server: str
    """`closed`: asked as ever; `open`: left alone for a while, for it kept failing; `half-open`: tried again."""
    waiting: int
    """Questions that nobody was asked yet."""
    in_flight: int
    budget_left: int
    """Questions that may be asked at once."""
    budget_per_minute: int
    sessions: int
    """Groups of alerts that are being asked about."""
    sessions_opened: int
    cached: int
    """Verdicts that may be used again."""
    opinions: dict[str, int] = {}
    """The operator's verdicts, by label."""
    standing: Standing | None = None
    """The model's last exam, with the prompt of this version; None where it sat none: its opinion carries no weight."""


class StatusReport(msgspec.Struct, frozen=True):
    """The daemon as it is now."""

    version: str
    pid: int
    since_ms: int
    config: str | None
    folders: tuple[str, ...]
    """Of rules, lowest layer first."""
    active: int
    inactive: tuple[RuleName, ...]
    rules_from_ms: int
    """When the set in force was loaded; before `since_ms` where it is the last good one of an earlier run."""
    last_load: LoadReport
    sources: tuple[SourceReport, ...]
    counters: dict[str, int]
    gauges: dict[str, float]
    triage: TriageReport | None = None
    history: HistoryReport | None = None
    """None where the database cannot be read now."""
    silences: tuple[SilenceReport, ...] = ()
    """Those in force."""
    blind: tuple[str, ...] = ()
    """What watchdogd is blind to now, in words."""
    ledger: LedgerReport | None = None
    """Whether every count adds up."""


class OpinionRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The operator's verdict on an alert."""

    alert_id: str
    """Its id, or how it begins."""
    label: Label
    note: str = ""


class OpinionReport(msgspec.Struct, frozen=True):
    """What became of the operator's verdict."""

    alert_id: str
    title: str
    label: Label
    before: Label | None
    """The operator's earlier verdict on the same alert."""
    said: Label
    """What triage had said of it."""
    opinions: dict[str, int]
    """All that the operator has given by now, by label."""


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line to the control socket: what to do (`reload`, `status`...), and what it takes to do it."""

    do: str
    arguments: msgspec.Raw = msgspec.Raw(b"{}")
    """An object; `control.Takes` says which one a request needs."""


class Refusal(msgspec.Struct, frozen=True):
    """The answer to what is not allowed, not known or not possible."""

    error: str


_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class OutboxRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which deliveries to list."""

    state: Literal["pending", "dead", "dropped", "all"] = "all"
    sink: str | None = None
    after: _Count = 0
    """Only those with a higher id: the next page."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1000


class DeliveryRow(msgspec.Struct, frozen=True):
    """One delivery."""

    id: int
    alert_id: str
    sink: str
    kind: str
    state: str
    attempts: int
    created_ms: int
    next_try_ms: int
    """Not before then, where it is pending."""
    ended_ms: int | None
    error: str
    """Of the last attempt, or why it was dropped."""
    level: str
    title: str
    """The rule's."""


class OutboxReport(msgspec.Struct, frozen=True):
    """What is in the outbox."""

    deliveries: tuple[DeliveryRow, ...]
    counts: dict[str, dict[str, int]]
    """By sink and state, of all that was asked for."""
    next_after: int | None = None
    """Where there are more: `after` of the next page."""


class OutboxRetry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to send again: these deliveries, else all that waits or was given up for a sink, else all dead letters."""

    ids: Annotated[tuple[_Count, ...], msgspec.Meta(max_length=5000)] = ()
    sink: str | None = None


class OutboxDrop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to send never, and why."""

    ids: Annotated[tuple[_Count, ...], msgspec.Meta(min_length=1, max_length=5000)]
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=400)]


class OutboxChange(msgspec.Struct, frozen=True):
    """How many deliveries were changed."""

    count: int
