"""What is committed together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from watchdogd.entities import Alert, AlertState, Checkpoint, CorrelationRow, Seen
    from watchdogd.file_states import FileRow
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
    told: tuple[str, ...] = ()
    """Who has it already, as it was sent before the database took it."""


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
    """Who is to be told of it, now that its verdict is known."""
    refused: tuple[str, ...] = ()
    """Who does not want an alert of this verdict: deliveries to them that nobody tried yet are called off."""
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
    checkpoints_beside: tuple[Checkpoint, ...] = ()
    """Of further sources."""
    seen: dict[str, Seen] = {}
    """By pattern, how often it was seen since the last commit: the rarity baseline."""
    heartbeat: InstanceHeartbeat | None = None
    correlations: tuple[CorrelationRow, ...] = ()
    """Groups of correlations that changed: they must never be ahead of or behind the checkpoint."""
    health: bytes | None = None
    """What is known of watchdogd's own blindness, with the alerts of this batch told."""
    files: tuple[FileRow, ...] = ()
    """What alerts of this batch say of files, and other events that were judged: the baseline of file integrity."""
    norms: dict[str, bytes] = {}
    """By series, what is usual of a metric: as `enrich` writes it."""
