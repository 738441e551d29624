"""The parts of the daemon, built from its settings: pipeline, triager, sinks, and the sources that feed it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from watchdogd.collect.audit_log import AuditLogTail
from watchdogd.collect.audit_netlink import SOURCE as NETLINK_SOURCE
from watchdogd.collect.audit_netlink import AuditNetlink
from watchdogd.decode.decoder import Decoder
from watchdogd.decode.repeats import Repeats
from watchdogd.decode.tables import name_type
from watchdogd.delivery_desk import DeliveryDesk
from watchdogd.enrich.baseline import Baseline
from watchdogd.enrich.context import Contexts
from watchdogd.enrich.enricher import Enricher
from watchdogd.enrich.hosts import choose_node
from watchdogd.enrich.identity import Identity, look_up_host_user
from watchdogd.enrich.own import Instance, OwnProcesses
from watchdogd.enrich.ownership import PackageOwners
from watchdogd.enrich.package import PackageFiles
from watchdogd.enrich.process import ProcessTree
from watchdogd.enrich.procfs import ProcReader
from watchdogd.entities import Level
from watchdogd.errors import SourceError
from watchdogd.exam_board import ExamBoard
from watchdogd.gathering import Gatherer
from watchdogd.grouping_settings import plan_grouping
from watchdogd.judge import Judge
from watchdogd.notify import notify
from watchdogd.opinions import Opinions
from watchdogd.pipeline import Pipeline
from watchdogd.reports import SourceReport
from watchdogd.routes import Routes, Wish
from watchdogd.store.database import Batch, InstanceHeartbeat
from watchdogd.store.ledger import OffsetLedger
from watchdogd.store.outbox_table import OutboxTable
from watchdogd.store.verdicts import Verdicts
from watchdogd.telemetry import Counters
from watchdogd.triage.cases import choose_cases
from watchdogd.triage.features import fingerprint, tokens_of
from watchdogd.triage.ollama import OllamaClient
from watchdogd.triage.scorer import Scorer
from watchdogd.triage.triager import Triager
from watchdogd.triage_desk import TriageDesk
from watchdogd.write.deliver import Deliverer
from watchdogd.write.journald import JournaldSink
from watchdogd.write.lanes import Terms
from watchdogd.write.webhook import WebhookSink

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

    from watchdogd.background import Standing
    from watchdogd.config import Config
    from watchdogd.entities import Alert, Checkpoint
    from watchdogd.match.engine import Engine
    from watchdogd.ports import AlertScorer, Clock, LineSource, Sink, Standings
    from watchdogd.store.database import Store
    from watchdogd.store.outbox import Outbox

log = logging.getLogger("watchdogd.service")

AUDIT_SOURCE = "audit_log"
NETLINK_RETRY_LAST_S = 300.0
BASELINE_LIMIT = 8_192


async def build_pipeline(
    config: Config,
    engine: Engine,
    store: Store,
    triage: TriageParts,
    counters: Counters,
    clock: Clock,
    contexts: Contexts | None = None,
) -> tuple[Pipeline, OffsetLedger]:
    """The rooms from decode to store, with what the database remembers. Raises StoreError where it cannot be read."""
    proc = ProcReader()
    own = proc.read(os.getpid())
    start_ms = own.key.start_ms if own else clock.now_ms()
    known = await store.load_instances(proc.boot_id)
    instances = [Instance(run.pid, run.start_ms, run.last_ms) for run in known]
    instances.append(Instance(os.getpid(), start_ms, None))
    baseline = Baseline(await store.load_baseline(BASELINE_LIMIT), limit=BASELINE_LIMIT)
    enricher = Enricher(
        ProcessTree(proc, counters=counters),
        Identity(clock, look_up_host_user),
        baseline,
        OwnProcesses(instances),
        host=socket.gethostname(),
        counters=counters,
        contexts=contexts,
    )
    engine.correlator.restore(await store.load_correlations(), clock.now_ms())
    repeats = Repeats()
    judge = Judge(
        Decoder(counters, live=True, repeats=repeats, source=AUDIT_SOURCE),
        enricher,
        engine,
        triage.scorer.score,
        counters,
        host=socket.gethostname(),
        late_after_ms=int(config.late_after_s * 1000),
        beside={NETLINK_SOURCE: Decoder(counters, live=True, repeats=repeats, source=NETLINK_SOURCE, from_kernel=True)},
    )
    ledger = OffsetLedger(AUDIT_SOURCE, config.sources.audit_log.path, await store.load_checkpoint(AUDIT_SOURCE))
    pipeline = Pipeline(
        judge,
        store,
        ledger,
        triage.desk,
        baseline.take_changes,
        lambda: InstanceHeartbeat(proc.boot_id, os.getpid(), start_ms, clock.now_ms()),
        counters,
        clock,
        lambda: notify("WATCHDOG=1", "STATUS=the database refuses commits; reading waits"),
    )
    pipeline.grouping = plan_grouping(config.grouping, config.inhibit_rules)
    return pipeline, ledger


def watch_packages(config: Config, counters: Counters, clock: Clock) -> tuple[Contexts, PackageFiles]:
    """Contexts by the configuration and the host's packages, which a thread begins to read; `stop` ends it."""
    packages = PackageFiles(clock, counters=counters)
    contexts = Contexts(config.contexts, packages.is_packaged)
    packages.start(contexts.forget)
    return contexts, packages


class TriageParts(NamedTuple):
    """What the service holds of triage."""

    desk: TriageDesk
    gatherer: Gatherer
    opinions: Opinions
    board: ExamBoard
    scorer: Scorer
    """The one that learns: judge and triager use it, too."""

    async def keep_standing(self, standing: Standing) -> Standing:
        """Keep an exam; verdicts from before it are not used again. Raises StoreError."""
        kept = await self.board.keep(standing)
        self.desk.forget_verdicts()
        return kept


async def build_desk(config: Config, store: Store, counters: Counters, clock: Clock) -> TriageParts:
    """Triage's parts, with what they remember. Raises StoreError where the database cannot be read."""
    verdicts = Verdicts(store, counters, clock)
    gatherer = Gatherer(verdicts, PackageOwners(counters=counters).describe, choose_cases, socket.gethostname())
    scorer = Scorer()
    board = await ExamBoard.open(store)
    desk = TriageDesk(
        build_triager(config, counters, clock, scorer, board.known),
        config.triage,
        choose_routes(config),
        verdicts,
        gatherer.gather,
        fingerprint,
        counters,
        clock,
    )
    opinions = Opinions(verdicts, gatherer, desk, tokens_of, scorer)
    await opinions.restore()
    return TriageParts(desk, gatherer, opinions, board, scorer)


def build_triager(
    config: Config, counters: Counters, clock: Clock, scorer: AlertScorer, standings: Standings
) -> Triager | None:
    """The triager, None where the configuration turns AI off."""
    if not config.triage.enabled:
        return None
    client = OllamaClient(config.triage.ollama_url, timeout_s=config.triage.timeout_s)
    return Triager(config.triage, client, counters, clock, scorer, standings)


def build_sinks(config: Config, clock: Clock) -> dict[str, Sink]:
    """Every configured sink by name."""
    sinks: dict[str, Sink] = {hook.name: WebhookSink(hook, clock) for hook in config.webhooks}
    if config.journald.enabled:
        sinks["journald"] = JournaldSink(mask=config.journald.mask)
    return sinks


def choose_routes(config: Config) -> Routes:
    """Which sink hears of which levels."""
    journald = (("journald", Level.INFORMATIONAL),) if config.journald.enabled else ()
    wishes = tuple((hook.name, Wish(hook.match.levels, hook.match.rules, hook.match.tags)) for hook in config.webhooks)
    return Routes(journald + tuple((hook.name, hook.min_level) for hook in config.webhooks), wishes)


def choose_terms(config: Config) -> dict[str, Terms]:
    """How each sink is dealt with: the journal is tried for ever, a webhook as configured."""
    hooks = {hook.name: Terms(give_up_s=hook.give_up_s, at_once=hook.max_in_flight) for hook in config.webhooks}
    return {"journald": Terms(give_up_s=math.inf), **hooks}


def build_deliveries(
    config: Config, outbox: Outbox, store: Store, desk: TriageDesk, counters: Counters, clock: Clock
) -> tuple[Deliverer, DeliveryDesk]:
    """The deliverer, and who tells of dead letters (by the routes in force) and answers for the outbox."""
    wanted = asyncio.Event()
    deliverer = Deliverer(
        outbox, build_sinks(config, clock), counters, clock, terms=choose_terms(config), on_given_up=wanted.set
    )
    choose = partial(_choose_sinks, desk)
    table = OutboxTable(store, clock)
    delivery_desk = DeliveryDesk(outbox, table, deliverer, choose, wanted, counters, clock, socket.gethostname())
    return deliverer, delivery_desk


def _choose_sinks(desk: TriageDesk, alert: Alert) -> tuple[str, ...]:
    return desk.routes.choose(alert.level)


class AuditSources:
    """The two ways in which audit records come, opened in an order that leaves no gap between them."""

    def __init__(self, config: Config, counters: Counters, clock: Clock, *, from_start: bool) -> None:
        self._settings = config.sources
        self._counters = counters
        self._clock = clock
        self._from_start = from_start
        self._node: str | None = None
        self._readers: dict[str, LineSource | None] = {AUDIT_SOURCE: None, NETLINK_SOURCE: None}

    def report(self, is_running: Callable[[LineSource], bool]) -> Iterator[SourceReport]:
        """Each source that is switched on, and whether it is read now."""
        reads = {AUDIT_SOURCE: self._settings.audit_log.path, NETLINK_SOURCE: "the kernel's audit socket"}
        wanted = {AUDIT_SOURCE: self._settings.audit_log.enabled, NETLINK_SOURCE: self._settings.audit_netlink.enabled}
        for name, reader in self._readers.items():
            if wanted[name]:
                yield SourceReport(name, reads[name], reader is not None and is_running(reader))

    async def open(
        self, pipeline: Pipeline, ledger: OffsetLedger, commit: Callable[[Batch], Awaitable[object]]
    ) -> list[Coroutine[None, None, None]]:
        """What follows each source that is switched on, to be run as tasks. Raises what `commit` does."""
        netlink = self._open_netlink()  # before the log: what comes between the two is in both
        follows = [await self._open_log(pipeline, ledger, commit), self._follow_netlink(netlink, pipeline)]
        return [follow for follow in follows if follow is not None]

    async def _open_log(
        self, pipeline: Pipeline, ledger: OffsetLedger, commit: Callable[[Batch], Awaitable[object]]
    ) -> Coroutine[None, None, None] | None:
        """Find where reading begins, commit that, warm the process tree; what follows the log from there.

        A log that is missing now is read from its first line once it is there: all of it is new then.
        """
        if not self._settings.audit_log.enabled:
            return None
        path = Path(self._settings.audit_log.path)
        from_start = self._from_start or is_missing(path)

        def reopen(checkpoint: Checkpoint | None) -> AuditLogTail:
            tail = AuditLogTail(path, checkpoint=checkpoint, from_start=from_start, counters=self._counters)
            self._readers[AUDIT_SOURCE] = tail
            return tail

        tail = reopen(ledger.checkpoint())
        try:
            point = await asyncio.to_thread(tail.resume_point)
            self._node = choose_node(await asyncio.to_thread(warm, pipeline.judge, tail), socket.gethostname())
        except SourceError as error:
            log.error("%s", error)
            tail.close()
            return pipeline.follow(None, reopen)
        ledger.begin(point)
        await commit(Batch(checkpoint=point))
        return pipeline.follow(tail, reopen)

    def _open_netlink(self) -> AuditNetlink | None:
        """Join the kernel's audit group now, if that is wanted and possible; `run` tries again and says why not."""
        if not self._settings.audit_netlink.enabled:
            return None
        source = AuditNetlink(name_type, self._counters, self._clock)
        with contextlib.suppress(SourceError):
            source.open()
        return source

    def _follow_netlink(self, source: AuditNetlink | None, pipeline: Pipeline) -> Coroutine[None, None, None] | None:
        if source is None:
            return None
        source.use_node(self._node)
        self._readers[NETLINK_SOURCE] = source

        def reopen(_: Checkpoint | None) -> AuditNetlink:
            again = AuditNetlink(name_type, self._counters, self._clock)
            again.use_node(self._node)
            self._readers[NETLINK_SOURCE] = again
            return again

        return pipeline.follow(source, reopen, retry_last_s=NETLINK_RETRY_LAST_S)


def warm(judge: Judge, tail: AuditLogTail) -> set[str | None]:
    """Rebuild the process tree from the lines before the resume point, which were judged in an earlier run.

    Returns the nodes that recorded them.
    """
    decoder = Decoder(Counters(), live=False)
    nodes: set[str | None] = set()
    for records in tail.history():
        nodes |= judge.warm(records, decoder)
    return nodes


def is_missing(path: Path) -> bool:
    """Whether nothing of that name is there."""
    return not path.exists()
