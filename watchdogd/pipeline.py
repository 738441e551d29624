"""The rooms joined: collect -> decode, enrich, match (the judge) -> store, and on to the desk of triage and the writer.

Batches of records, finished events and pulses pass through one bounded queue. A full queue stops the readers, so the
log file waits and nothing is dropped. The store commits before anything else hears of an alert. Where it refuses, what
it should hold waits in memory and reading goes on, as far as there is room; the worst go out as emergencies meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from typing import TYPE_CHECKING

import msgspec

from watchdogd.entities import Alert, AlertState, Event, Level, Record
from watchdogd.errors import SourceError, StoreError
from watchdogd.grouping import Plan
from watchdogd.silences import find_silence
from watchdogd.store.database import Batch, NewAlert

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from watchdogd.entities import Checkpoint, CorrelationRow, Seen
    from watchdogd.judge import Judge, Judged
    from watchdogd.ports import Clock, EventSource, LineSource
    from watchdogd.silences import Silence
    from watchdogd.store.database import InstanceHeartbeat, Store, Written
    from watchdogd.store.ledger import OffsetLedger
    from watchdogd.telemetry import Counters
    from watchdogd.triage_desk import TriageDesk

log = logging.getLogger("watchdogd.pipeline")

QUEUE_BATCHES = 64
COMMIT_EVERY_S = 1.0
QUIET_S = 0.02
RETRY_FIRST_S, RETRY_LAST_S = 0.5, 30.0
WORKED_S = 60.0
"""A source that ran for so long before it failed did work."""

STORE_RETRY_LAST_S = 5.0
"""Shorter than a third of WatchdogSec: systemd must hear that waiting for a disk is not being stuck."""

HELD_LINES, HELD_BYTES = 50_000, 8 << 20
"""How many lines are read on, and how much of alerts is held, past what a database that refuses has committed."""
ALERT_BYTES = 4096
"""An alert without its lines, about."""
SAY_EVERY_S = 60.0
EMERGENCY_AFTER_S = 10.0
EMERGENCY_FROM = Level.HIGH


_STATES = {
    AlertState.ACTIVE: "store_active_alerts_total",
    AlertState.FOLDED: "store_folded_alerts_total",
    AlertState.INHIBITED: "store_inhibited_alerts_total",
    AlertState.SILENCED: "store_silenced_alerts_total",
}


class Pulse:
    """A token that passes every stage; `done` is set when judge and store have answered."""

    def __init__(self) -> None:
        self.done = asyncio.Event()


class _Refusal(msgspec.Struct, frozen=True):
    """A database that refuses commits: since when, when it is tried again and after which pause then, what was said."""

    since_s: float
    again_s: float
    delay_s: float
    said_s: float
    said: str = ""


class _Stop:
    """The last item of the queue."""


Item = list[Record] | list[Event] | Pulse | _Stop


class Pipeline:
    """One per daemon. The service starts its loops as tasks and stops them in the order of the flow."""

    def __init__(  # noqa: PLR0913, PLR0917 -- the one place where all rooms meet
        self,
        judge: Judge,
        store: Store,
        ledger: OffsetLedger,
        desk: TriageDesk,
        take_seen: Callable[[], Mapping[str, Seen]],
        heartbeat: Callable[[], InstanceHeartbeat],
        counters: Counters,
        clock: Clock,
        alive: Callable[[], None],
    ) -> None:
        self.judge = judge
        self.desk = desk
        self._store = store
        self._ledger = ledger
        self._take_seen = take_seen
        self._heartbeat = heartbeat
        self._counters = counters
        self._clock = clock
        self._alive = alive
        self._queue: asyncio.Queue[Item] = asyncio.Queue(QUEUE_BATCHES)
        self._fresh: list[Alert] = []
        self._seen: dict[str, Seen] = {}
        self._correlations: dict[tuple[str, str, str], CorrelationRow] = {}
        self._planned: dict[str, NewAlert] = {}
        self._held_lines = self._held_bytes = 0
        self._queued_lines = self._queued_events = 0
        self._refusal: _Refusal | None = None
        self.tell_unstored: Callable[[Alert, tuple[str, ...]], None] = lambda *_: None
        """Has an alert sent past the database, once; the service sets it."""
        self.grouping = Plan()
        """How alerts are grouped from the next commit on."""
        self.list_silences: Callable[[], Sequence[Silence]] = tuple
        """The silences to go by; the service sets it."""
        self._committed_s = clock.monotonic_s()
        self._stopping = asyncio.Event()
        self._sources: set[LineSource] = set()
        self._discarding = False

    # --- collect ------------------------------------------------------------------------------------------------

    async def follow(
        self,
        source: LineSource | None,
        reopen: Callable[[Checkpoint | None], LineSource],
        *,
        retry_last_s: float = RETRY_LAST_S,
    ) -> None:
        """Read a line source on a thread of its own until `begin_stop`.

        Where it fails, or could not be opened to begin with (None), it is opened again at the lowest open line, with
        backoff up to `retry_last_s`. The same complaint is made once, until the source has worked for a while.
        """
        said = ""
        loop = asyncio.get_running_loop()

        def emit(records: list[Record]) -> None:
            asyncio.run_coroutine_threadsafe(self._take_in(records), loop).result()

        delay_s = RETRY_FIRST_S
        while not self._stopping.is_set():
            if source is None:
                if await self._wait_unless_stopping(delay_s):
                    return
                delay_s = min(delay_s * 2, retry_last_s)
                source = reopen(self._ledger.checkpoint())
            self._sources.add(source)
            began_s = self._clock.monotonic_s()
            try:
                await asyncio.to_thread(source.run, emit)
            except SourceError as error:
                self._counters.add("collect_source_errors_total")
                if self._clock.monotonic_s() - began_s >= WORKED_S:
                    said, delay_s = "", RETRY_FIRST_S
                if str(error) != said:
                    log.error("%s; trying again, every %.0f s in the end", error, retry_last_s)
                said = str(error)
            finally:
                source.stop()  # where this task is cancelled, the thread must end, too
                self._sources.discard(source)
            source = None

    def is_reading(self, source: LineSource) -> bool:
        """Whether that source is being read now."""
        return source in self._sources

    async def _wait_unless_stopping(self, delay_s: float) -> bool:
        """Wait so long, or until `begin_stop`; True where that has been."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._stopping.wait()
        return self._stopping.is_set()

    async def sample(self, source: EventSource, interval_s: float) -> None:
        """Observe an event source once an interval, for ever."""
        while True:
            events = await asyncio.to_thread(lambda: list(source.sample()))
            if events:
                self._counters.add("collect_sampled_events_total", len(events))
                self._queued_events += len(events)
                await self._queue.put(events)
            await asyncio.sleep(interval_s)

    async def _take_in(self, records: list[Record]) -> None:
        """Put lines into the queue, once there is room."""
        from_log = sum(record.position is not None for record in records)
        from_socket = sum(record.position is None and not record.lost_ms for record in records)
        self._counters.add("collect_lines_total", from_log)
        self._counters.add("collect_netlink_lines_total", from_socket)
        self._queued_lines += from_log + from_socket
        await self._queue.put(records)

    def _take_out(self, item: Item) -> None:
        """Count what has left the queue."""
        if not isinstance(item, list):
            return
        lines = sum(isinstance(one, Record) and not one.lost_ms for one in item)
        events = sum(isinstance(one, Event) for one in item)
        self._queued_lines -= lines
        self._queued_events -= events
        if self._discarding:
            self._counters.add("collect_unjudged_lines_total", lines)
            self._counters.add("collect_unjudged_events_total", events)

    def count_in_flight(self) -> dict[str, int]:
        """What is in hand between two stages now, by the names of the ledger's amounts."""
        return {
            "lines_queued": self._queued_lines,
            "lines_open": self.judge.pending_lines,
            "events_queued": self._queued_events,
            "alerts_held": len(self._fresh),
        }

    async def pulse(self) -> None:
        """Return when a token has passed judge and store: what is stuck never returns."""
        pulse = Pulse()
        await self._queue.put(pulse)
        await pulse.done.wait()

    def begin_stop(self) -> None:
        """Stop reading. From now on a database that refuses is not waited for: what it lacks will be read again."""
        self._stopping.set()
        for source in self._sources:
            source.stop()

    async def end_reading(self) -> None:
        """Say that no more will come; the sources have ended by now."""
        await self._queue.put(_Stop())

    # --- judge and store ----------------------------------------------------------------------------------------

    async def run_judge(self) -> None:
        """Judge what comes and commit it, until `end_reading`."""
        while True:
            item = await self._next_item()
            now_ms = self._clock.now_ms()
            if isinstance(item, _Stop):
                self._take(self.judge.drain_beside(now_ms))
                await self._commit()
                return
            if self._discarding:
                if isinstance(item, Pulse):
                    item.done.set()
                continue
            if item is None:
                self._take(self.judge.tick(now_ms))
            elif isinstance(item, Pulse):
                await self._commit()
                item.done.set()
            elif item and isinstance(item[0], Event):
                self._take(self.judge.judge_events([event for event in item if isinstance(event, Event)], now_ms))
            else:
                self._open_lines([record for record in item if isinstance(record, Record)], now_ms)
            if self._is_commit_due():
                await self._commit()
            await asyncio.sleep(0)  # a full queue would otherwise never let the other tasks run

    async def _next_item(self) -> Item | None:
        wait_s = min(QUIET_S if self.judge.pending else COMMIT_EVERY_S, self._count_pause_s())
        try:
            async with asyncio.timeout(wait_s):
                item = await self._queue.get()
        except TimeoutError:
            return None
        self._take_out(item)
        return item

    def _open_lines(self, records: list[Record], now_ms: int) -> None:
        positions = [record.position for record in records if record.position is not None]
        self._held_lines += len(positions)
        for position in positions:
            self._ledger.open(position)
        self._take(self.judge.feed(records, now_ms))

    def _take(self, judged: Judged) -> None:
        self._fresh.extend(judged.alerts)
        self._held_bytes += sum(ALERT_BYTES + sum(map(len, alert.lines)) for alert in judged.alerts)
        for position in judged.closed:
            self._ledger.close(position)

    def _is_commit_due(self) -> bool:
        now_s = self._clock.monotonic_s()
        if self._refusal is not None:
            return now_s >= self._refusal.again_s or not self._has_room()
        return bool(self._fresh) or now_s - self._committed_s >= COMMIT_EVERY_S

    def _count_pause_s(self) -> float:
        """For how long a database that refused is still left alone; endless where it did not."""
        return math.inf if self._refusal is None else max(0.0, self._refusal.again_s - self._clock.monotonic_s())

    def _has_room(self) -> bool:
        return self._held_lines < HELD_LINES and self._held_bytes < HELD_BYTES

    async def _commit(self) -> None:
        """Commit what is held. Where the database refuses and there is no room for more, wait for it."""
        while not await self._try_commit():
            if self._stopping.is_set():
                log.error("stopping uncommitted: what was read since the last commit will be read again")
                self._discarding = True
                return
            if self._has_room():
                return
            await self._wait_unless_stopping(self._count_pause_s())

    async def _try_commit(self) -> bool:
        """One transaction: alerts, deliveries due and the checkpoint. False where the database refuses it."""
        batch = self._make_batch()
        try:
            new = await self._store.commit(batch)
        except StoreError as error:
            self._note_refusal(error, batch)
            return False
        if self._refusal is not None:
            log.warning("the database takes commits again")
            self._refusal = None
            self._counters.set_gauge("store_refusing", 0)
        alerts, self._fresh = self._fresh, []
        self._seen, self._correlations, self._planned = {}, {}, {}
        self._held_lines = self._held_bytes = 0
        self._committed_s = self._clock.monotonic_s()
        self._counters.add("store_repeated_alerts_total", len(alerts) - len(new))
        if new:
            self._count(new)
            for planned in batch.alerts:
                written = new.get(planned.alert.id)
                if written is not None and written.triage:
                    self._counters.add("triage_taken_total")
                    self.desk.take(planned.alert, planned.question)
            self.desk.wake_deliverer.set()
        return True

    def _make_batch(self) -> Batch:
        for pattern, more in self._take_seen().items():
            before = self._seen.get(pattern)
            self._seen[pattern] = more if before is None else before.plus(more)
        for row in self.judge.take_correlations():
            self._correlations[row.rule_id, row.digest, row.group_key] = row
        for alert in self._fresh:
            if alert.id not in self._planned:
                self._planned[alert.id] = self._plan(alert)
        return Batch(
            alerts=tuple(self._planned.values()),
            checkpoint=self._ledger.checkpoint(),
            seen=self._seen,
            heartbeat=self._heartbeat(),
            correlations=tuple(self._correlations.values()),
        )

    def _note_refusal(self, error: StoreError, batch: Batch) -> None:
        """Say it, put the next try off, and let the worst out once it has lasted."""
        now_s = self._clock.monotonic_s()
        refusal = self._refusal or _Refusal(now_s, now_s, RETRY_FIRST_S, -math.inf)
        self._counters.add("store_retries_total")
        self._counters.set_gauge("store_refusing", 1)
        said = f"{error}{'' if self._has_room() else '; reading waits'}"
        is_news = said != refusal.said or now_s - refusal.said_s >= SAY_EVERY_S
        if is_news:
            log.error("%s; trying again, every %.0f s in the end", said, STORE_RETRY_LAST_S)
        self._alive()
        if now_s - refusal.since_s >= EMERGENCY_AFTER_S:
            for planned in batch.alerts:
                if planned.alert.level.rank >= EMERGENCY_FROM.rank:
                    self.tell_unstored(planned.alert, planned.sinks)
        delay_s = min(refusal.delay_s * 2, STORE_RETRY_LAST_S)
        said_s = now_s if is_news else refusal.said_s
        self._refusal = _Refusal(refusal.since_s, now_s + refusal.delay_s, delay_s, said_s, said)

    def _count(self, new: Mapping[str, Written]) -> None:
        self._counters.add("store_alerts_total", len(new))
        for state, name in _STATES.items():
            self._counters.add(name, sum(written.state is state for written in new.values()))

    def _plan(self, alert: Alert) -> NewAlert:
        alert = self.grouping.regroup(alert)
        question, now_ms = self.desk.name_question(alert), self._clock.now_ms()
        silence = find_silence(self.list_silences(), alert, now_ms)
        is_asked = self.desk.wants(alert)
        return NewAlert(
            alert,
            self.desk.routes.choose(alert.level, alert.rule.notify, alert.rule) if silence is None else (),
            due_ms=now_ms + (self.desk.policy.deadline_ms(alert.level) if is_asked else 0),
            triage=is_asked,
            question=question,
            facts=self.grouping.state_facts(alert, question, None if silence is None else silence.id),
            hold_ms=self.grouping.hold_ms(alert.level),
        )
