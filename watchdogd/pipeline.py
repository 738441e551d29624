"""The rooms joined: collect -> decode, enrich, match (the judge) -> store, and on to the desk of triage and the writer.

Batches of records, finished events and pulses pass through one bounded queue. A full queue stops the readers, so the
log file waits and nothing is dropped. The store commits before anything else hears of an alert. Where it refuses, what
it should hold waits in memory and reading goes on, as far as there is room; the worst go out as emergencies meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import math
from typing import TYPE_CHECKING

import msgspec

from watchdogd.entities import Alert, AlertState, Event, Level, Record
from watchdogd.errors import StoreError
from watchdogd.grouping import Plan
from watchdogd.intake import End, Intake, Item, Pulse, count_of
from watchdogd.silences import find_silence
from watchdogd.store.database import Batch, NewAlert

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from watchdogd.entities import CorrelationRow, Seen
    from watchdogd.file_states import FileRow
    from watchdogd.grouping import Facts
    from watchdogd.judge import Judge, Judged
    from watchdogd.ports import Clock
    from watchdogd.silences import Silence
    from watchdogd.store.database import InstanceHeartbeat, Store, Written
    from watchdogd.store.ledger import OffsetLedger
    from watchdogd.telemetry import Counters
    from watchdogd.triage_desk import TriageDesk
    from watchdogd.write.emergency import Emergency

log = logging.getLogger("watchdogd.pipeline")

COMMIT_EVERY_S = 1.0
IDLE_COMMIT_EVERY_S = 10.0
"""Where nothing came since the last commit: what time alone changes is no news."""
QUIET_S = 0.02
RETRY_FIRST_S = 0.5
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


class _Refusal(msgspec.Struct, frozen=True):
    """A database that refuses commits: since when, when it is tried again and after which pause then, what was said."""

    since_s: float
    again_s: float
    delay_s: float
    said_s: float
    said: str = ""


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
        self.intake = Intake(ledger, counters, clock)
        self._take_seen = take_seen
        self._heartbeat = heartbeat
        self._counters = counters
        self._clock = clock
        self._alive = alive
        self._fresh: list[Alert] = []
        self._seen: dict[str, Seen] = {}
        self._correlations: dict[tuple[str, str, str], CorrelationRow] = {}
        self._planned: dict[str, NewAlert] = {}
        self._held_lines = self._held_bytes = 0
        self._is_touched = True
        """Whether anything came since the last commit."""
        self._refusal: _Refusal | None = None
        self.emergency: Emergency | None = None
        """Sends alerts past the database; the service sets it."""
        self.grouping = Plan()
        """How alerts are grouped from the next commit on."""
        self.list_files: Callable[[], Sequence[FileRow]] = tuple
        """What judged events say of files, for the baseline; the service sets this and the next."""
        self.forget_files: Callable[[Sequence[FileRow]], None] = lambda _: None
        """Hears what of it was committed."""
        self.take_norms: Callable[..., dict[str, bytes]] = lambda **_: {}
        """What is usual of metrics, as far as it is due to be stored; the service sets it."""
        self._norms: dict[str, bytes] = {}
        self.list_silences: Callable[[], Sequence[Silence]] = tuple
        """The silences to go by; the service sets it."""
        self._committed_s = clock.monotonic_s()
        self._discarding = False

    def count_in_flight(self) -> dict[str, int]:
        """What is in hand between two stages now, by the names of the ledger's amounts."""
        return {
            **self.intake.count_in_flight(),
            "lines_open": self.judge.pending_lines,
            "alerts_held": len(self._fresh),
        }

    # --- judge and store ----------------------------------------------------------------------------------------

    async def run_judge(self) -> None:
        """Judge what comes and commit it, until `end_reading`."""
        while True:
            item = await self._next_item()
            now_ms = self._clock.now_ms()
            if isinstance(item, End):
                self._take(self.judge.drain_beside(now_ms))
                await self._commit()
                return
            if self._discarding:
                if isinstance(item, Pulse):
                    item.done.set()
                continue
            began_s = self._clock.monotonic_s()
            if item is None:
                self._take(self.judge.tick(now_ms))
            elif isinstance(item, Pulse):
                await self._commit()
                item.done.set()
            elif item and isinstance(item[0], Event):
                self._take(self.judge.judge_events([event for event in item if isinstance(event, Event)], now_ms))
            else:
                self._open_lines([record for record in item if isinstance(record, Record)], now_ms)
            if isinstance(item, list):
                self._counters.observe("stage_seconds", ("judge",), self._clock.monotonic_s() - began_s)
            if self._is_commit_due():
                await self._commit()
            await self.intake.let_others_run()

    async def _next_item(self) -> Item | None:
        item = await self.intake.next_item(
            min(QUIET_S if self.judge.pending else COMMIT_EVERY_S, self._count_pause_s())
        )
        if isinstance(item, list):
            self._is_touched = True
            if self._discarding:
                lines, events = count_of(item)
                self._counters.add("collect_unjudged_lines_total", lines)
                self._counters.add("collect_unjudged_events_total", events)
        return item

    def _open_lines(self, records: list[Record], now_ms: int) -> None:
        positions = [record.position for record in records if record.position is not None]
        self._held_lines += len(positions)
        for position in positions:
            self.intake.find_ledger(position.source).open(position)
        self._take(self.judge.feed(records, now_ms))

    def _take(self, judged: Judged) -> None:
        self._is_touched = self._is_touched or bool(judged.alerts or judged.closed)
        self._fresh.extend(judged.alerts)
        self._held_bytes += sum(ALERT_BYTES + sum(map(len, alert.lines)) for alert in judged.alerts)
        for position in judged.closed:
            self.intake.find_ledger(position.source).close(position)

    def _is_commit_due(self) -> bool:
        now_s = self._clock.monotonic_s()
        if self._refusal is not None:
            return now_s >= self._refusal.again_s or not self._has_room()
        pause_s = COMMIT_EVERY_S if self._is_touched else IDLE_COMMIT_EVERY_S
        return bool(self._fresh) or now_s - self._committed_s >= pause_s

    def _count_pause_s(self) -> float:
        """For how long a database that refused is still left alone; endless where it did not."""
        return math.inf if self._refusal is None else max(0.0, self._refusal.again_s - self._clock.monotonic_s())

    def _has_room(self) -> bool:
        return self._held_lines < HELD_LINES and self._held_bytes < HELD_BYTES

    async def _commit(self) -> None:
        """Commit what is held. Where the database refuses and there is no room for more, wait for it."""
        while not await self._try_commit():
            if self.intake.is_stopping:
                log.error("stopping uncommitted: what was read since the last commit will be read again")
                self._discarding = True
                return
            if self._has_room():
                return
            await self.intake.wait_unless_stopping(self._count_pause_s())

    async def _try_commit(self) -> bool:
        """One transaction: alerts, deliveries due and the checkpoint. False where the database refuses it."""
        batch, began_s = self._make_batch(), self._clock.monotonic_s()
        try:
            new = await self._store.commit(batch)
            self._counters.observe("stage_seconds", ("commit",), self._clock.monotonic_s() - began_s)
        except StoreError as error:
            self._note_refusal(error, batch)
            return False
        if self._refusal is not None:
            log.warning("the database takes commits again")
            self._refusal = None
            self._counters.set_gauge("store_refusing", 0)
        await self.settle_told(batch.alerts)
        alerts, self._fresh = self._fresh, []
        self._seen, self._correlations, self._planned, self._norms = {}, {}, {}, {}
        self.forget_files(batch.files)
        self._held_lines = self._held_bytes = 0
        self._is_touched = self.judge.pending > 0
        self._committed_s = self._clock.monotonic_s()
        self._counters.add("store_repeated_alerts_total", len(alerts) - len(new))
        if new:
            self._count(new)
            for planned in batch.alerts:
                written = new.get(planned.alert.id)
                if written is None:
                    continue
                self._counters.add_by("alerts_by_level_total", (planned.alert.level, written.state))
                if written.triage:
                    self._counters.add("triage_taken_total")
                    self.desk.take(planned.alert, planned.question)
            self.desk.wake_deliverer.set()
        return True

    def _make_batch(self) -> Batch:
        for pattern, more in self._take_seen().items():
            before = self._seen.get(pattern)
            self._seen[pattern] = more if before is None else before.plus(more)
        self._norms |= self.take_norms(everything=self.intake.is_stopping)
        for row in self.judge.take_correlations():
            self._correlations[row.rule_id, row.digest, row.group_key] = row
        for alert in self._fresh:
            if alert.id not in self._planned:
                self._planned[alert.id] = self._plan(alert)
        return Batch(
            alerts=self.note_told(self._planned.values()),
            checkpoint=self._ledger.checkpoint(),
            checkpoints_beside=self.intake.list_beside(),
            seen=self._seen,
            heartbeat=self._heartbeat(),
            correlations=tuple(self._correlations.values()),
            files=tuple(self.list_files()),
            norms=self._norms,
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
                    self.tell_unstored(planned.alert, planned.sinks, planned.facts)
        delay_s = min(refusal.delay_s * 2, STORE_RETRY_LAST_S)
        said_s = now_s if is_news else refusal.said_s
        self._refusal = _Refusal(refusal.since_s, now_s + refusal.delay_s, delay_s, said_s, said)

    def tell_unstored(self, alert: Alert, sinks: tuple[str, ...], facts: Facts | None = None) -> None:
        """Have an alert sent past the database, once."""
        if self.emergency is not None:
            self.emergency.take(alert, sinks, facts)

    def note_told(self, planned: Iterable[NewAlert]) -> tuple[NewAlert, ...]:
        """The same, each with the sinks that have it already."""
        emergency = self.emergency
        if emergency is None:
            return tuple(planned)
        return tuple(
            msgspec.structs.replace(item, told=told) if (told := emergency.list_told(item.alert.id)) else item
            for item in planned
        )

    async def settle_told(self, stored: Sequence[NewAlert]) -> None:
        """Leave the rest of what is stored now to the outbox, but for what was told while it was being stored."""
        if self.emergency is None:
            return
        late = [item for item in self.note_told(stored) if item.told]
        self.emergency.settle(item.alert.id for item in stored)
        known = {item.alert.id: item.told for item in stored}
        if any(item.told != known[item.alert.id] for item in late):
            with contextlib.suppress(StoreError):  # then it is sent twice, under one id
                await self._store.mark_told({item.alert.id: item.told for item in late})

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
