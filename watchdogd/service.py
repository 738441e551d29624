"""The daemon's life: build, run, reload, stop; what it tells systemd and what it hears by signal."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from watchdogd import __version__
from watchdogd.api_desk import open_api
from watchdogd.assembly import (
    build_deliveries,
    build_desk,
    build_integrity,
    build_pipeline,
    build_triager,
    watch_packages,
)
from watchdogd.background import Standing
from watchdogd.collect.audit_status import KernelLosses
from watchdogd.collect.host_metrics import HostMetrics
from watchdogd.control import ControlServer, Takes
from watchdogd.enrich.process import ProcessTree
from watchdogd.enrich.procfs import ProcReader
from watchdogd.errors import StoreDamagedError, StoreError
from watchdogd.health_desk import HealthDesk
from watchdogd.history_desk import HistoryDesk
from watchdogd.ledger_desk import LedgerDesk
from watchdogd.loading import Loader, log_load
from watchdogd.match.files import show_path
from watchdogd.match.watch import RuleWatcher
from watchdogd.memory import freeze_memory, trim_often
from watchdogd.notify import notify, read_watchdog_interval_s, telling_alive
from watchdogd.ports import SystemClock
from watchdogd.reload import Reloader, apply_log_level
from watchdogd.reports import (
    OpinionRequest,
    OutboxDrop,
    OutboxRequest,
    OutboxRetry,
    SourceReport,
    StatusReport,
)
from watchdogd.rule_trial import try_rules
from watchdogd.sources import Sources
from watchdogd.stop_desk import StopDesk
from watchdogd.store.damage import build_damage_alert
from watchdogd.store.database import Batch, NewAlert, Store
from watchdogd.store.outbox import Outbox
from watchdogd.store.patience import persist
from watchdogd.telemetry import Counters, count_own_alerts
from watchdogd.write.emergency import Emergency

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from watchdogd.assembly import TriageParts
    from watchdogd.config import Config, HostMetricsSettings
    from watchdogd.control import Handler
    from watchdogd.enrich.context import Contexts
    from watchdogd.integrity_desk import IntegrityDesk
    from watchdogd.loading import Loaded, StartOptions
    from watchdogd.pipeline import Pipeline
    from watchdogd.ports import Clock
    from watchdogd.store.damage import SetAside
    from watchdogd.store.ledger import OffsetLedger
    from watchdogd.triage_desk import Asker
    from watchdogd.write.deliver import Deliverer

log = logging.getLogger("watchdogd.service")

DRAIN_S = 10.0
STATUS_EVERY_S = 10.0
START_EXTENSION_US = 60_000_000


class Service:
    """One life of the daemon. `damaged` says what a former one found its database to be."""

    def __init__(self, options: StartOptions, clock: Clock | None = None, *, damaged: str = "") -> None:
        self._options = options
        self._damaged = damaged
        self._clock = clock or SystemClock()
        self._counters = Counters()
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._tree = ProcessTree(ProcReader(), counters=self._counters)
        self._since_ms = self._clock.now_ms()
        self._farewell = StopDesk(self._stop, ProcReader(), options.environ, self._since_ms)

    @property
    def was_ended_past_manager(self) -> bool:
        """Whether somebody else than systemd, which runs us, told us to stop."""
        return self._farewell.is_past_manager

    async def run(self) -> str:
        """Build, announce readiness, work until SIGTERM or SIGINT, drain. Raises what makes a start impossible.

        Empty in the end; else what is wrong with the database, and another life must begin with that as `damaged`.
        """
        damage = ""
        try:
            await self._live()
        except* StoreDamagedError as group:
            damage = str(next(iter_leaves(group)))
        finally:
            self._farewell.close()
        return damage

    async def _live(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        self._farewell.open()
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        loader = Loader(self._options, self._counters, self._clock, try_rules)
        loaded = await asyncio.to_thread(loader.load_first)
        apply_log_level(loaded.config.log.level)
        log_load(loaded)
        async with AsyncExitStack() as stack:
            path = Path(loaded.config.store.path)
            with telling_alive(asyncio.get_running_loop()):
                store = await persist(
                    lambda: Store.open(path, self._counters, self._clock, damaged=self._damaged),
                    self._stop,
                    tell_waiting,
                )
            if store is None:
                return
            stack.push_async_callback(store.close)
            await asyncio.to_thread(loader.keep)
            contexts, packages = watch_packages(loaded.config, self._counters, self._clock)
            stack.callback(packages.stop)
            triage = await build_desk(loaded.config, store, self._counters, self._clock)
            stack.callback(triage.gatherer.close)
            await self._work(loader, loaded, store, triage, contexts)

    async def _work(
        self, loader: Loader, loaded: Loaded, store: Store, triage: TriageParts, contexts: Contexts
    ) -> None:
        config, desk = loaded.config, triage.desk
        pipeline, ledger = await build_pipeline(
            config, loader.take_engine(), store, triage, self._counters, self._clock, contexts, self._tree
        )
        integrity = build_integrity(config, loader.folders, pipeline, store, self._counters, self._clock)
        accounts = await LedgerDesk.open(store, self._counters, partial(count_in_flight, pipeline, integrity))
        outbox = Outbox(store, self._counters, self._clock)
        deliverer, delivery_desk = build_deliveries(config, outbox, store, desk, self._counters, self._clock)
        sources, follows = await self._begin(config, pipeline, ledger, store)
        losses = KernelLosses(Path(config.sources.audit_log.status_path), self._counters, self._clock)
        await desk.resume()
        health = HealthDesk(
            config,
            pipeline,
            store,
            losses,
            lambda: sources.report(pipeline.intake.is_reading),
            self._counters,
            self._clock,
        )
        history = await HistoryDesk.open(config.store, store, self._counters, self._clock)
        pipeline.list_silences = lambda: history.silences.current
        async with asyncio.TaskGroup() as group:
            start = group.create_task
            followers = [start(follow, name=f"follow {number}") for number, follow in enumerate(follows)]
            judge = start(pipeline.run_judge(), name="judge")
            loops = (
                *desk.loops(),
                *history.loops(),
                *accounts.loops(),
                *health.loops(),
                ("deliver", deliverer.run(desk.wake_deliverer)),
                ("tell what was given up", delivery_desk.run()),
                ("emergency", run_emergency(pipeline, deliverer, self._counters)),
                ("watchdog", self._feed_watchdog(pipeline, deliverer)),
                ("trim memory", trim_often()),
                ("watch database", end_when_damaged(store)),
                ("tell of database", tell_written_back(store, pipeline, self._counters)),
            )
            workers = [start(loop, name=name) for name, loop in loops]

            def retire_later(asker: Asker, after_s: float) -> None:
                workers.append(start(retire(asker, after_s), name="retire triager"))

            reloader = Reloader(
                loader,
                loaded,
                pipeline,
                deliverer,
                retire_later,
                self._counters,
                self._clock,
                lambda fresh: build_triager(fresh, self._counters, self._clock, triage.scorer, triage.board.known),
                contexts.replace_added,
            )
            watcher = RuleWatcher(loader.look, loader.seen, reloader.reload, self._counters)

            async def report() -> StatusReport:
                read = [*sources.report(pipeline.intake.is_reading), *([integrity.report()] if integrity else ())]
                return await accounts.complete(
                    await history.complete(health.complete(self._report(loader, reloader, config, read, triage)))
                )

            handlers: dict[str, Handler] = {
                "reload": reloader.reload,
                "status": report,
                "outbox": Takes(OutboxRequest, delivery_desk.list),
                "outbox_retry": Takes(OutboxRetry, delivery_desk.retry),
                "outbox_drop": Takes(OutboxDrop, delivery_desk.drop),
                "verdict": Takes(OpinionRequest, triage.opinions.take),
                "standing": Takes(Standing, triage.keep_standing),
                **history.handlers(),
            }
            control = ControlServer(Path(config.control.path), handlers, self._counters, start)
            await control.open()
            api = open_api(config, triage, history, delivery_desk, report, self._counters, self._clock, start)
            loops = (
                ("reload", reloader.serve(self._reload)),
                ("watch rules", watcher.run()),
                ("host metrics", self._sample_metrics(config.sources.host_metrics, pipeline)),
                ("kernel losses", pipeline.intake.sample(losses, STATUS_EVERY_S)),
                *(() if integrity is None else integrity.loops()),
            )
            workers += [start(loop, name=name) for name, loop in loops]
            freeze_memory()
            notify("READY=1", f"STATUS={reloader.describe()}")
            log.info("ready: %d rules active, %d inactive", loaded.report.active, loaded.report.inactive)
            await self._stop.wait()
            control.close()
            api.close()
            notify("STOPPING=1", "STATUS=draining")
            await self._farewell.tell(
                pipeline, store, self._tree, self._counters, self._clock, is_wanted=config.health.enabled
            )
            log.info("stopping: draining")
            pipeline.intake.begin_stop()
            for follower in followers:
                await follower
            await pipeline.intake.end_reading()
            await judge
            await self._drain(outbox, deliverer)
            for worker in workers:
                worker.cancel()
        losses.sample()
        await deliverer.close()
        await desk.close()
        log.info("stopped: %s", ", ".join(f"{name}={value}" for name, value in self._counters.snapshot().items()))

    async def _begin(
        self, config: Config, pipeline: Pipeline, ledger: OffsetLedger, store: Store
    ) -> tuple[Sources, list[Coroutine[None, None, None]]]:
        """Say that the database is a new one, then fix where reading begins: what ends between the two is said again.

        Raises StoreError.
        """

        async def commit(batch: Batch) -> None:
            new = await persist(lambda: store.commit(batch), self._stop, tell_waiting)
            count_own_alerts(self._counters, len(new or ()))

        if store.found is not None:
            await commit(plan_damage_alert(store.found, pipeline))
        from_start = self._options.from_start or store.found is not None
        sources = Sources(config, self._counters, self._clock, from_start=from_start)
        return sources, await sources.open(pipeline, ledger, store, commit)

    def _report(
        self, loader: Loader, reloader: Reloader, config: Config, sources: list[SourceReport], triage: TriageParts
    ) -> StatusReport:
        metrics, desk = config.sources.host_metrics, triage.desk.report()
        if metrics.enabled:
            sources.append(SourceReport("host_metrics", f"every {metrics.interval_s:g} s", running=True))
        return StatusReport(
            version=__version__,
            pid=os.getpid(),
            since_ms=self._since_ms,
            config=config.path,
            folders=tuple(show_path(folder) for folder in loader.folders),
            active=reloader.last.active,
            inactive=reloader.inactive,
            rules_from_ms=reloader.rules_from_ms,
            last_load=reloader.last,
            sources=tuple(sources),
            counters=self._counters.snapshot(),
            gauges=self._counters.gauges(),
            triage=msgspec.structs.replace(desk, standing=triage.board.look_up(desk.model)),
        )

    async def _sample_metrics(self, settings: HostMetricsSettings, pipeline: Pipeline) -> None:
        if settings.enabled:
            await pipeline.intake.sample(HostMetrics(self._counters, self._clock), settings.interval_s)

    async def _drain(self, outbox: Outbox, deliverer: Deliverer) -> None:
        """Send what can be sent now. What waits for a verdict waits no longer; what fails stays for the next start."""
        try:
            await outbox.release_all()
            if not await deliverer.drain(DRAIN_S):
                log.warning("not everything could be delivered in %.0f s; the rest goes out after the start", DRAIN_S)
        except StoreError as error:
            log.error("%s; what is due goes out after the next start", error)

    async def _feed_watchdog(self, pipeline: Pipeline, deliverer: Deliverer) -> None:
        """Tell systemd that we live each time a token has passed every stage: idle is alive, stuck is dead."""
        interval_s = read_watchdog_interval_s(os.environ)
        if interval_s is None:
            return
        while True:
            began_s = self._clock.monotonic_s()
            await asyncio.gather(pipeline.intake.pulse(), pipeline.desk.pulse(), deliverer.pulse())
            notify("WATCHDOG=1")
            await asyncio.sleep(max(0.0, interval_s / 3 - (self._clock.monotonic_s() - began_s)))


def count_in_flight(pipeline: Pipeline, integrity: IntegrityDesk | None) -> dict[str, int]:
    """What is in hand between two stages, by the names of the ledger's amounts."""
    return pipeline.count_in_flight() | ({} if integrity is None else integrity.count_in_flight())


async def run_emergency(pipeline: Pipeline, deliverer: Deliverer, counters: Counters) -> None:
    """Send what the pipeline cannot store, until cancelled."""
    emergency = Emergency(deliverer.find_sink, counters)
    pipeline.emergency = emergency
    await emergency.run()


def plan_damage_alert(found: SetAside, pipeline: Pipeline) -> Batch:
    """The alert of what happened to the database, for every sink that hears of its level."""
    alert = build_damage_alert(found, socket.gethostname())
    return Batch(alerts=(NewAlert(alert, pipeline.desk.routes.choose(alert.level), due_ms=0, triage=False),))


async def tell_written_back(store: Store, pipeline: Pipeline, counters: Counters) -> None:
    """Alert about each time that the database's file was removed or replaced while in use, until cancelled."""
    while True:
        found = await store.written_back.get()
        try:
            count_own_alerts(counters, len(await store.commit(plan_damage_alert(found, pipeline))))
        except StoreError as error:
            log.error("%s; no alert about it: %s", found.reason, error)
        pipeline.desk.wake_deliverer.set()


async def end_when_damaged(store: Store) -> None:
    """Wait until the database is found damaged, and end everything that rests on it: raises StoreDamagedError."""
    await store.damaged.wait()
    raise StoreDamagedError(store.damage)


def tell_waiting(_: str) -> None:
    """Tell systemd that a start waits, and is not stuck."""
    notify(f"EXTEND_TIMEOUT_USEC={START_EXTENSION_US}", "WATCHDOG=1", "STATUS=the database cannot be used yet: waiting")


def iter_leaves(group: BaseExceptionGroup[StoreDamagedError]) -> Iterator[StoreDamagedError]:
    """The errors in a group of groups."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from iter_leaves(error)
        else:
            yield error


async def retire(asker: Asker, after_s: float) -> None:
    """Close what is not asked any more, once its last question must have been answered."""
    try:
        await asyncio.sleep(after_s)
    finally:
        await asker.close()
