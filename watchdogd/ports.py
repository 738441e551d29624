"""What the rooms promise each other. Stages never import one another; the pipeline joins them through these."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from watchdogd.background import Background, Scored, Standing
    from watchdogd.entities import Alert, Checkpoint, Delivery, Event, Record, SinkTrouble


class Clock(Protocol):
    """Time is injected, so that tests and replay decide what time it is."""

    def now_ms(self) -> int:
        """Wall clock, ms since the epoch."""

    def monotonic_s(self) -> float:
        """A clock that never goes back."""


class SystemClock:
    """The host's own clocks."""

    def now_ms(self) -> int:
        """Wall clock, ms since the epoch."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """A clock that never goes back."""
        return time.monotonic()


class LineSource(Protocol):
    """A source of lines with positions. Runs on a thread of its own; `emit` blocks while the pipeline is full."""

    def run(self, emit: Emit) -> None:
        """Read until `stop`; raise SourceError where the source cannot be read."""

    def stop(self) -> None:
        """Ask `run` to return soon. Safe from any thread."""

    def probe(self) -> None:
        """Have `run` emit an empty batch soon: the sign that it is not stuck. Safe from any thread."""


class Emit(Protocol):
    """Hands a batch to the pipeline, in order; blocks while the pipeline is full. An empty one answers a probe."""

    def __call__(self, records: list[Record]) -> None:
        """Take over the batch."""


class EventSource(Protocol):
    """A source of finished events (host metrics)."""

    def sample(self) -> Iterable[Event]:
        """Observe once. Called off the loop's thread, once an interval."""


class Sink(Protocol):
    """Somewhere an alert is written to."""

    name: str

    async def send(self, alert: Alert, *, kind: str, delivery_id: str) -> None:
        """Deliver once; `kind` is `alert` or `verdict`. Raises DeliveryError."""

    async def close(self) -> None:
        """Release what is held."""


class PositionLedger(Protocol):
    """Which lines are still open. The checkpoint is the lowest of them."""

    def checkpoint(self) -> Checkpoint | None:
        """The place from which a restart must read."""


class Outbox(Protocol):
    """The durable queue of deliveries, as the write room sees it (the store implements it)."""

    async def take_due(self, now_ms: int, room: Mapping[str, int]) -> list[tuple[Delivery, Alert]]:
        """Deliveries whose time has come, for each sink as many as it has room for (1 where it is not named).

        The worst first; of a group one at a time, in order. They stay taken until they are marked.
        """

    async def give_back(self, delivery: Delivery) -> None:
        """Taken and not tried after all: it is due as it was."""

    async def mark_delivered(self, delivery: Delivery, *, is_well: bool = False) -> None:
        """The sink took it; `is_well` says that this ended its trouble."""

    async def mark_failed(
        self, delivery: Delivery, error: str, next_try_ms: int | None, paused_until_ms: int = 0
    ) -> None:
        """The sink did not take it: try again at `next_try_ms`, or, with None, give up (dead letter).

        Until `paused_until_ms`, where it is not 0, the sink as a whole is left alone, over restarts, too.
        """

    async def give_up(self, sink: str, created_ms: int, error: str) -> int:
        """Give up all that waits for a sink since then or longer and is not being sent; how many that were."""

    async def next_due_ms(self, now_ms: int, room: Mapping[str, int]) -> int | None:
        """When, after now, the next delivery falls due to a sink with room, None where none does."""

    async def load_troubles(self) -> list[SinkTrouble]:
        """What is known of sinks that fail, or failed in an earlier life."""


class AlertScorer(Protocol):
    """The embedded scorer, as the triager sees it."""

    @property
    def malicious_from(self) -> float:
        """From this probability on an alert is `malicious`."""

    @property
    def benign_below(self) -> float:
        """Below this probability it is `benign`; in between it is `suspicious`."""

    def score(self, alert: Alert, background: Background) -> Scored:
        """How likely the alert is part of an attack. Adds numbers, asks nobody."""


class Standings(Protocol):
    """How models did in their exams."""

    def find(self, model: str, digest: str, prompt_version: str) -> Standing | None:
        """The newest exam of just this model, digest and prompt; None where it was never examined."""
