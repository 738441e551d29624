"""The daemon looks at itself: signs of blindness are gathered, and the alerts about it committed like all others."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.errors import StoreError
from watchdogd.health import KINDS, HealthMonitor, HealthState, Signs
from watchdogd.store.batch import Batch, NewAlert
from watchdogd.telemetry import count_own_alerts

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from watchdogd.collect.audit_status import KernelLosses
    from watchdogd.config import Config
    from watchdogd.pipeline import Pipeline
    from watchdogd.ports import Clock
    from watchdogd.reports import SourceReport, StatusReport
    from watchdogd.store.database import Store
    from watchdogd.telemetry import Counters

LOOK_EVERY_S: Final = 10.0
WAITING: Final = 100
"""Alerts that wait for a database that refuses them; the oldest go."""
LOG_SOURCE: Final = "audit_log"

log = logging.getLogger("watchdogd.service")


class HealthDesk:
    """One per daemon; its loop is a task."""

    def __init__(
        self,
        config: Config,
        pipeline: Pipeline,
        store: Store,
        losses: KernelLosses,
        list_sources: Callable[[], Iterable[SourceReport]],
        counters: Counters,
        clock: Clock,
    ) -> None:
        """`list_sources` says which sources are read now."""
        self._config = config
        self._pipeline = pipeline
        self._store = store
        self._losses = losses
        self._list_sources = list_sources
        self._counters = counters
        self._clock = clock
        self._monitor = HealthMonitor(config.health, socket.gethostname())
        self._waiting: list[NewAlert] = []
        self._was_read = False
        self._kept: bytes | None = None
        """The state as the database has it, None: not loaded yet."""

    def loops(self) -> list[tuple[str, Coroutine[None, None, None]]]:
        """What the service runs as tasks, each with a name."""
        return [("health", self.run())] if self._config.health.enabled else []

    async def run(self) -> None:
        """Look every ten seconds, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Look once, and tell what it gives rise to. Never raises: what the database refuses waits for a later look."""
        if self._kept is None and not await self._restore():
            return
        log_trouble = await asyncio.to_thread(self._find_log_trouble)
        found = self._monitor.look(self._read_signs(log_trouble))
        self._counters.set_gauge("health_conditions", len(self._monitor.conditions))
        choose = self._pipeline.desk.routes.choose
        for alert in found:
            log.warning("%s: %s", alert.rule.title, "; ".join(alert.reasons))
            self._waiting.append(NewAlert(alert, choose(alert.level), due_ms=self._clock.now_ms(), triage=False))
        if self._waiting or msgspec.json.encode(self._monitor.export()) != self._kept:
            await self._commit()

    def complete(self, report: StatusReport) -> StatusReport:
        """Status with what watchdogd is blind to now."""
        blind = tuple(KINDS[name].rule.title for name in self._monitor.conditions)
        return msgspec.structs.replace(report, blind=blind)

    async def _restore(self) -> bool:
        """Go on where an earlier life ended; False where the database cannot be read now."""
        try:
            self._kept = await self._store.load_health() or b""
        except StoreError as error:
            log.error("%s; what watchdogd was blind to before is not known yet", error)
            return False
        try:
            state = msgspec.json.decode(self._kept, type=HealthState) if self._kept else HealthState()
        except (msgspec.MsgspecError, UnicodeError) as error:
            log.warning("what watchdogd was blind to before cannot be read from the database: %s", error)
            return True
        self._monitor.restore(state, self._clock.now_ms(), self._clock.monotonic_s())
        self._was_read = "log_unreadable" in state.spells
        return True

    async def _commit(self) -> None:
        waiting = tuple(self._waiting)
        state = msgspec.json.encode(self._monitor.export())
        try:
            told = self._pipeline.note_told(waiting)
            new = await self._store.commit(Batch(alerts=told, health=state))
        except StoreError as error:
            if waiting:
                log.error("%s; %d alerts about watchdogd itself wait", error, len(waiting))
            for item in waiting:
                self._pipeline.tell_unstored(item.alert, item.sinks, item.facts)
            self._waiting = self._waiting[-WAITING:]
            return
        await self._pipeline.settle_told(told)
        self._kept = state
        self._waiting = self._waiting[len(waiting) :]
        count_own_alerts(self._counters, len(new))
        self._pipeline.desk.wake_deliverer.set()

    def _read_signs(self, log_trouble: str | None) -> Signs:
        gauges, status = self._counters.gauges(), self._losses.known
        return Signs(
            now_ms=self._clock.now_ms(),
            monotonic_s=self._clock.monotonic_s(),
            events=self._counters.get("decode_events_total"),
            log_trouble=log_trouble,
            audit_enabled=None if status is None else status.enabled != 0,
            audit_rules=None if status is None else status.rules,
            kernel_lost=self._counters.get("collect_kernel_lost_total"),
            store_refusing=bool(gauges.get("store_refusing")),
            broken_rules=bool(gauges.get("rules_last_load_failed")),
            triage_down=self._is_triage_down(),
            ledger_complete=bool(gauges.get("ledger_complete", 1)),
        )

    def _is_triage_down(self) -> bool | None:
        """None where nobody has answered in this life, and none has failed often enough."""
        asker = self._pipeline.desk.asker
        if asker is None:
            return False
        if asker.breaker_state != "closed":
            return True
        failed = self._counters.get("triage_errors_total") + self._counters.get("triage_timeouts_total")
        return False if self._counters.get("triage_requests_total") > failed else None

    def _find_log_trouble(self) -> str | None:
        """Why the log cannot be read. A host that never had one is not blind while the kernel's socket is read."""
        settings = self._config.sources.audit_log
        if not settings.enabled:
            return None
        running = {source.name for source in self._list_sources() if source.running}
        try:
            Path(settings.path).stat()
        except OSError as error:
            trouble = f"{settings.path}: {error.strerror}"
        else:
            trouble = "" if LOG_SOURCE in running else f"{settings.path} is not read now"
        self._was_read = self._was_read or not trouble
        return trouble if self._was_read or not running else ""
