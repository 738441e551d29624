"""The daemon's life: build, run, reload, stop; what it tells systemd and what it hears by signal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import systemd.daemon

from watchdogd.collect.audit_log import AuditLogTail
from watchdogd.collect.audit_netlink import SOURCE as NETLINK_SOURCE
from watchdogd.collect.audit_netlink import AuditNetlink
from watchdogd.collect.audit_status import KernelLosses
from watchdogd.collect.host_metrics import HostMetrics
from watchdogd.config import load_config, rule_folders
from watchdogd.decode.decoder import Decoder
from watchdogd.decode.repeats import Repeats
from watchdogd.decode.tables import name_type
from watchdogd.enrich.baseline import Baseline
from watchdogd.enrich.enricher import Enricher
from watchdogd.enrich.identity import Identity, look_up_host_user
from watchdogd.enrich.own import Instance, OwnProcesses
from watchdogd.enrich.process import ProcessTree
from watchdogd.enrich.procfs import ProcReader
from watchdogd.entities import Level
from watchdogd.errors import ProblemsError, SourceError, StoreError
from watchdogd.judge import Judge
from watchdogd.match.engine import Engine
from watchdogd.match.library import load_rules
from watchdogd.pipeline import Pipeline, Routes
from watchdogd.ports import SystemClock
from watchdogd.store.database import Batch, InstanceHeartbeat, Store
from watchdogd.store.ledger import OffsetLedger
from watchdogd.store.outbox import Outbox
from watchdogd.telemetry import Counters
from watchdogd.triage.ollama import OllamaClient
from watchdogd.triage.policy import Policy
from watchdogd.triage.scorer import score_evidence
from watchdogd.triage.triager import Triager
from watchdogd.write.deliver import Deliverer
from watchdogd.write.journald import JournaldSink
from watchdogd.write.webhook import WebhookSink

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from watchdogd.config import Config
    from watchdogd.entities import Checkpoint
    from watchdogd.match.library import RuleSet
    from watchdogd.ports import Clock, Sink

log = logging.getLogger("watchdogd.service")

AUDIT_SOURCE = "audit_log"
DRAIN_S = 10.0
NETLINK_RETRY_LAST_S = 300.0
STATUS_EVERY_S = 10.0
BASELINE_LIMIT = 8_192


class StartOptions(msgspec.Struct, frozen=True):
    """How the daemon was started: enough to load its configuration again on SIGHUP."""

    config_path: Path | None
    rules: tuple[Path, ...]
    cwd: Path
    environ: Mapping[str, str]
    overrides: Mapping[str, object]
    from_start: bool = False

    def load(self) -> tuple[Config, RuleSet]:
        """Configuration and rules as the files say now. Raises ConfigError or RuleError with every mistake."""
        config = load_config(self.config_path, environ=self.environ, overrides=self.overrides)
        return config, load_rules(rule_folders(config, self.rules, self.cwd))


class Service:
    """One run of the daemon. `run` returns when SIGTERM or SIGINT was served."""

    def __init__(self, options: StartOptions, clock: Clock | None = None) -> None:
        self._options = options
        self._clock = clock or SystemClock()
        self._counters = Counters()
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._node: str | None = None

    async def run(self) -> None:
        """Build, announce readiness, work until stopped, drain. Raises what makes a start impossible."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        config, rules = await asyncio.to_thread(self._options.load)
        apply_log_level(config.log.level)
        report_rules(rules)
        async with AsyncExitStack() as stack:
            store = await Store.open(Path(config.store.path), self._counters, self._clock)
            stack.push_async_callback(store.close)
            await self._work(config, rules, store)

    async def _work(self, config: Config, rules: RuleSet, store: Store) -> None:
        pipeline, ledger = await self._build_pipeline(config, rules, store)
        sinks = build_sinks(config, self._clock)
        outbox = Outbox(store, self._counters, self._clock)
        deliverer = Deliverer(outbox, sinks, self._counters, self._clock, give_up_s=choose_give_up_s(config))
        netlink = self._open_netlink(config)  # before the log: what comes between the two is in both
        follows = [await self._open_log(config, store, pipeline, ledger), self._follow_netlink(netlink, pipeline)]
        losses = KernelLosses(Path(config.sources.audit_log.status_path), self._counters, self._clock)
        if pipeline.triager is not None:
            await pipeline.resume_triage()
        async with asyncio.TaskGroup() as group:
            start = group.create_task
            followers = [start(follow, name=f"follow {number}") for number, follow in enumerate(follows) if follow]
            judge = start(pipeline.run_judge(), name="judge")
            workers = [start(pipeline.run_triage(), name=f"triage {n}") for n in range(config.triage.max_in_flight)]
            workers.append(start(deliverer.run(pipeline.wake_deliverer), name="deliver"))
            workers.append(start(self._feed_watchdog(pipeline), name="watchdog"))

            def retire_later(triager: Triager, after_s: float) -> None:
                workers.append(start(retire(triager, after_s), name="retire triager"))

            workers.append(start(self._serve_reloads(pipeline, deliverer, config, retire_later), name="reload"))
            if config.sources.host_metrics.enabled:
                metrics = HostMetrics(self._counters, self._clock)
                interval_s = config.sources.host_metrics.interval_s
                workers.append(start(pipeline.sample(metrics, interval_s), name="host metrics"))
            workers.append(start(pipeline.sample(losses, STATUS_EVERY_S), name="kernel losses"))
            notify("READY=1", f"STATUS=watching with {len(rules.rules)} rules")
            log.info("ready: %d rules active, %d inactive", len(rules.rules), len(rules.inactive))
            await self._stop.wait()
            notify("STOPPING=1", "STATUS=draining")
            log.info("stopping: draining")
            pipeline.begin_stop()
            for follower in followers:
                await follower
            await pipeline.end_reading()
            await judge
            await self._drain(outbox, deliverer)
            for worker in workers:
                worker.cancel()
        losses.sample()
        await deliverer.close()
        if pipeline.triager is not None:
            await pipeline.triager.close()
        log.info("stopped: %s", ", ".join(f"{name}={value}" for name, value in self._counters.snapshot().items()))

    async def _drain(self, outbox: Outbox, deliverer: Deliverer) -> None:
        """Send what can be sent now. What waits for a verdict waits no longer; what fails stays for the next start."""
        try:
            await outbox.release_all()
            if not await deliverer.drain(DRAIN_S):
                log.warning("not everything could be delivered in %.0f s; the rest goes out after the start", DRAIN_S)
        except StoreError as error:
            log.error("%s; what is due goes out after the next start", error)

    # --- build --------------------------------------------------------------------------------------------------

    async def _build_pipeline(self, config: Config, rules: RuleSet, store: Store) -> tuple[Pipeline, OffsetLedger]:
        proc = ProcReader()
        own = proc.read(os.getpid())
        start_ms = own.key.start_ms if own else self._clock.now_ms()
        known = await store.load_instances(proc.boot_id)
        instances = [Instance(run.pid, run.start_ms, run.last_ms) for run in known]
        instances.append(Instance(os.getpid(), start_ms, None))
        baseline = Baseline(await store.load_baseline(BASELINE_LIMIT), limit=BASELINE_LIMIT)
        enricher = Enricher(
            ProcessTree(proc), Identity(self._clock, look_up_host_user), baseline, OwnProcesses(instances)
        )
        repeats = Repeats()
        judge = Judge(
            Decoder(self._counters, live=True, repeats=repeats, source=AUDIT_SOURCE),
            enricher,
            Engine(rules),
            score_evidence,
            self._counters,
            host=socket.gethostname(),
            late_after_ms=int(config.late_after_s * 1000),
            beside={
                NETLINK_SOURCE: Decoder(
                    self._counters, live=True, repeats=repeats, source=NETLINK_SOURCE, from_kernel=True
                )
            },
        )
        ledger = OffsetLedger(AUDIT_SOURCE, config.sources.audit_log.path, await store.load_checkpoint(AUDIT_SOURCE))
        pipeline = Pipeline(
            judge,
            store,
            ledger,
            build_triager(config, self._counters, self._clock),
            Policy(config.triage),
            choose_routes(config),
            baseline.take_changes,
            lambda: InstanceHeartbeat(proc.boot_id, os.getpid(), start_ms, self._clock.now_ms()),
            self._counters,
            self._clock,
            lambda: notify("WATCHDOG=1", "STATUS=the database refuses commits; reading waits"),
        )
        return pipeline, ledger

    async def _open_log(
        self, config: Config, store: Store, pipeline: Pipeline, ledger: OffsetLedger
    ) -> Coroutine[None, None, None] | None:
        """Find where reading begins, commit that, warm the process tree; what follows the log from there.

        A log that is missing now is read from its first line once it is there: all of it is new then.
        """
        settings = config.sources.audit_log
        if not settings.enabled:
            return None
        path = Path(settings.path)
        from_start = self._options.from_start or is_missing(path)

        def reopen(checkpoint: Checkpoint | None) -> AuditLogTail:
            return AuditLogTail(path, checkpoint=checkpoint, from_start=from_start, counters=self._counters)

        tail = reopen(ledger.checkpoint())
        try:
            point = await asyncio.to_thread(tail.resume_point)
            self._node = choose_node(await asyncio.to_thread(warm, pipeline.judge, tail))
        except SourceError as error:
            log.error("%s", error)
            tail.close()
            return pipeline.follow(None, reopen)
        ledger.begin(point)
        await store.commit(Batch(checkpoint=point))
        return pipeline.follow(tail, reopen)

    def _open_netlink(self, config: Config) -> AuditNetlink | None:
        """Join the kernel's audit group now, if that is wanted and possible; `run` tries again and says why not."""
        if not config.sources.audit_netlink.enabled:
            return None
        source = AuditNetlink(name_type, self._counters, self._clock)
        with contextlib.suppress(SourceError):
            source.open()
        return source

    def _follow_netlink(self, source: AuditNetlink | None, pipeline: Pipeline) -> Coroutine[None, None, None] | None:
        if source is None:
            return None
        source.use_node(self._node)

        def reopen(_: Checkpoint | None) -> AuditNetlink:
            again = AuditNetlink(name_type, self._counters, self._clock)
            again.use_node(self._node)
            return again

        return pipeline.follow(source, reopen, retry_last_s=NETLINK_RETRY_LAST_S)

    # --- while it runs ------------------------------------------------------------------------------------------

    async def _feed_watchdog(self, pipeline: Pipeline) -> None:
        """Tell systemd that we live each time a token has passed every stage: idle is alive, stuck is dead."""
        interval_s = read_watchdog_interval_s(os.environ)
        if interval_s is None:
            return
        while True:
            await pipeline.pulse()
            notify("WATCHDOG=1")
            await asyncio.sleep(interval_s / 3)

    async def _serve_reloads(
        self,
        pipeline: Pipeline,
        deliverer: Deliverer,
        config: Config,
        retire_later: Callable[[Triager, float], None],
    ) -> None:
        """On SIGHUP load everything anew and swap it in; whatever is wrong, the old stays in force."""
        while True:
            await self._reload.wait()
            self._reload.clear()
            notify("RELOADING=1", f"MONOTONIC_USEC={int(self._clock.monotonic_s() * 1_000_000)}")
            try:
                fresh, rules = await asyncio.to_thread(self._options.load)
                engine = await asyncio.to_thread(Engine, rules)
            except (ProblemsError, SourceError) as error:
                self._counters.add("service_reloads_refused_total")
                log.error("reload refused, the old rules and settings stay in force:\n%s", error)
                notify("READY=1", "STATUS=last reload refused: see the journal")
                continue
            if (fresh.sources, fresh.store) != (config.sources, config.store):
                log.warning("changes of sources and store need a restart: systemctl restart watchdogd")
            apply_log_level(fresh.log.level)
            pipeline.judge.replace_engine(engine)
            if fresh.triage != config.triage:
                retired, pipeline.triager = pipeline.triager, build_triager(fresh, self._counters, self._clock)
                if retired is not None:
                    retire_later(retired, config.triage.timeout_s)
            pipeline.policy = Policy(fresh.triage)
            pipeline.routes = choose_routes(fresh)
            config = msgspec.structs.replace(fresh, sources=config.sources, store=config.store)
            await deliverer.replace_sinks(build_sinks(fresh, self._clock), choose_give_up_s(fresh))
            self._counters.add("service_reloads_total")
            report_rules(rules)
            log.info("reloaded: %d rules active, %d inactive", len(rules.rules), len(rules.inactive))
            notify("READY=1", f"STATUS=watching with {len(rules.rules)} rules")


def warm(judge: Judge, tail: AuditLogTail) -> set[str | None]:
    """Rebuild the process tree from the lines before the resume point, which were judged in an earlier run.

    Returns the nodes that recorded them.
    """
    decoder = Decoder(Counters(), live=False)
    nodes: set[str | None] = set()
    for records in tail.history():
        nodes |= judge.warm(records, decoder)
    return nodes


def choose_node(nodes: set[str | None]) -> str | None:
    """The node's name that auditd writes for this host, None where it writes none.

    A log that holds other hosts' events, too, has ours under the host's own name, or cannot tell.
    """
    host = socket.gethostname()
    if host in nodes:
        return host
    return next(iter(nodes)) if len(nodes) == 1 else None


async def retire(triager: Triager, after_s: float) -> None:
    """Close a triager that is not asked any more, once its last question must have been answered."""
    try:
        await asyncio.sleep(after_s)
    finally:
        await triager.close()


def build_triager(config: Config, counters: Counters, clock: Clock) -> Triager | None:
    """The triager, None where the configuration turns AI off."""
    if not config.triage.enabled:
        return None
    client = OllamaClient(config.triage.ollama_url, timeout_s=config.triage.timeout_s)
    return Triager(config.triage, client, counters, clock)


def build_sinks(config: Config, clock: Clock) -> dict[str, Sink]:
    """Every configured sink by name."""
    sinks: dict[str, Sink] = {hook.name: WebhookSink(hook, clock) for hook in config.webhooks}
    if config.journald.enabled:
        sinks["journald"] = JournaldSink()
    return sinks


def choose_routes(config: Config) -> Routes:
    """Which sink hears of which levels."""
    journald = (("journald", Level.INFORMATIONAL),) if config.journald.enabled else ()
    return Routes(journald + tuple((hook.name, hook.min_level) for hook in config.webhooks))


def choose_give_up_s(config: Config) -> dict[str, float]:
    """How long each sink is tried: the journal for ever, a webhook as configured."""
    return {"journald": math.inf, **{hook.name: hook.give_up_s for hook in config.webhooks}}


def notify(*assignments: str) -> None:
    """Tell systemd; does nothing where it did not start us."""
    systemd.daemon.notify("\n".join(assignments))


def read_watchdog_interval_s(environ: Mapping[str, str]) -> float | None:
    """WatchdogSec as systemd hands it over (sd_watchdog_enabled(3)), None where it is off or not meant for us."""
    usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not usec.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1_000_000


def report_rules(rules: RuleSet) -> None:
    """Log what of the rules a person should know."""
    for problem in rules.warnings:
        log.warning("%s", problem)
    for rule, reason in rules.inactive:
        log.info("rule %s (%s) is inactive: %s", rule.title, rule.id, reason)


def apply_log_level(level: str) -> None:
    """Set the level of the daemon's own messages."""
    logging.getLogger("watchdogd").setLevel(level.upper())


def is_missing(path: Path) -> bool:
    """Whether nothing of that name is there."""
    return not path.exists()
