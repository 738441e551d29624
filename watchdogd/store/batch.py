"""What is committed together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from watchdogd.entities import Alert, AlertState, Checkpoint, CorrelationRow, Seen
    from watchdogd.grouping import Facts


class NewAlert(msgspec.Struct, frozen=True):
    """An alert, whom to tell and from when on, and whether triage is to be asked first."""

    alert: Alert
    sinks: tuple[str, ...]
    due_ms: int
    """The deadline of triage: deliveries fall due then, or earlier with the verdict."""
    triage: bool
    question: str = ""
    """What is asked about it: alerts of the same question share a verdict."""
    facts: Facts | None = None
    """What tells whether it repeats another; None: it is told in any case."""
    hold_ms: int = 0
    """How long its deliveries wait for repeats, verdict or not."""


class Written(msgspec.Struct, frozen=True):
    """What became of an alert that is new, and whether triage is to be asked about it."""

    state: AlertState
    triage: bool


class RuledAlert(msgspec.Struct, frozen=True):
    """An alert with its verdict, and what that changes."""

    alert: Alert
    journald_only: bool = False
    """Deliveries to other sinks that nobody tried yet are called off."""
    verdict_update: bool = False
    """Sinks that have the alert are told the verdict."""
    sinks: tuple[str, ...] = ()
    """Who is told of an alert that was folded and is worse than what it repeats."""
    extra: tuple[NewAlert, ...] = ()
    """Alerts that the verdict gives rise to: stored with it or not at all."""


class InstanceHeartbeat(msgspec.Struct, frozen=True):
    """One life of the daemon, so that re-read events of its own former process are recognised."""

    boot_id: str
    pid: int
    start_ms: int
    last_ms: int
    """When it was last known to live."""


class Batch(msgspec.Struct, frozen=True):
    """Alerts and the checkpoint that says they need not be found again: committed together or not at all."""

    alerts: tuple[NewAlert, ...] = ()
    checkpoint: Checkpoint | None = None
    seen: dict[str, Seen] = {}
    """By pattern, how often it was seen since the last commit: the rarity baseline."""
    heartbeat: InstanceHeartbeat | None = None
    correlations: tuple[CorrelationRow, ...] = ()
    """Groups of correlations that changed: they must never be ahead of or behind the checkpoint."""
