"""The parts of the daemon, built from its settings: pipeline, triager and sinks."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from watchdogd.collect.audit_log import SOURCE as AUDIT_SOURCE
from watchdogd.collect.audit_netlink import SOURCE as NETLINK_SOURCE
from watchdogd.decode.decoder import Decoder
from watchdogd.decode.journal import JournalDecoder
from watchdogd.decode.repeats import Repeats
from watchdogd.delivery_desk import DeliveryDesk
from watchdogd.enrich.baseline import Baseline
from watchdogd.enrich.context import Contexts
from watchdogd.enrich.deeds import RecentDeeds, name_inode
from watchdogd.enrich.enricher import Enricher
from watchdogd.enrich.identity import Identity, look_up_host_user
from watchdogd.enrich.norms import Norms
from watchdogd.enrich.own import Instance, OwnProcesses
from watchdogd.enrich.ownership import PackageOwners
from watchdogd.enrich.package import PackageFiles
from watchdogd.enrich.process import ProcessTree
from watchdogd.enrich.procfs import ProcReader
from watchdogd.entities import Level
from watchdogd.exam_board import ExamBoard
from watchdogd.gathering import Gatherer
from watchdogd.grouping_settings import plan_grouping
from watchdogd.judge import Judge
from watchdogd.notify import notify
from watchdogd.opinions import Opinions
from watchdogd.pipeline import Pipeline
from watchdogd.routes import Routes, Wish
from watchdogd.store.database import InstanceHeartbeat
from watchdogd.store.ledger import OffsetLedger
from watchdogd.store.norms import load_norms
from watchdogd.store.outbox_table import OutboxTable
from watchdogd.store.verdicts import Verdicts
from watchdogd.triage.cases import choose_cases
from watchdogd.triage.features import fingerprint, tokens_of
from watchdogd.triage.ollama import OllamaClient
from watchdogd.triage.scorer import Scorer
from watchdogd.triage.triager import Triager
from watchdogd.triage_desk import TriageDesk
from watchdogd.write.apprise_sink import AppriseSink
from watchdogd.write.deliver import Deliverer
from watchdogd.write.journald import JournaldSink
from watchdogd.write.lanes import Terms
from watchdogd.write.masked import Masker
from watchdogd.write.webhook import WebhookSink

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watchdogd.background import Standing
    from watchdogd.config import Config
    from watchdogd.entities import Alert
    from watchdogd.integrity_desk import IntegrityDesk
    from watchdogd.match.engine import Engine
    from watchdogd.ports import AlertScorer, Clock, Sink, Standings
    from watchdogd.store.database import Store
    from watchdogd.store.outbox import Outbox
    from watchdogd.telemetry import Counters

log = logging.getLogger("watchdogd.service")

BASELINE_LIMIT = 8_192


async def build_pipeline(
    config: Config,
    engine: Engine,
    store: Store,
    triage: TriageParts,
    counters: Counters,
    clock: Clock,
    contexts: Contexts | None = None,
    tree: ProcessTree | None = None,
) -> tuple[Pipeline, OffsetLedger]:
    """The rooms from decode to store, with what the database remembers. Raises StoreError where it cannot be read."""
    proc = ProcReader()
    own = proc.read(os.getpid())
    start_ms = own.key.start_ms if own else clock.now_ms()
    known = await store.load_instances(proc.boot_id)
    instances = [Instance(run.pid, run.start_ms, run.last_ms) for run in known]
    instances.append(Instance(os.getpid(), start_ms, None))
    baseline = Baseline(await store.load_baseline(BASELINE_LIMIT), limit=BASELINE_LIMIT)
    norms = Norms(await load_norms(store), counters=counters)
    enricher = Enricher(
        ProcessTree(proc, counters=counters) if tree is None else tree,
        Identity(clock, look_up_host_user),
        baseline,
        OwnProcesses(instances),
        host=socket.gethostname(),
        counters=counters,
        contexts=contexts,
        norms=norms,
    )
    engine.correlator.restore(await store.load_correlations(), clock.now_ms())
    repeats = Repeats()
    entries = JournalDecoder(counters, is_own_pid=lambda pid: pid == os.getpid())
    judge = Judge(
        Decoder(counters, live=True, repeats=repeats, source=AUDIT_SOURCE),
        enricher,
        engine,
        triage.scorer.score,
        counters,
        host=socket.gethostname(),
        late_after_ms=int(config.late_after_s * 1000),
        beside={
            NETLINK_SOURCE: Decoder(counters, live=True, repeats=repeats, source=NETLINK_SOURCE, from_kernel=True),
            **dict.fromkeys(("journal", "auth_log"), entries),
        },
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
    pipeline.take_norms = norms.take_changes
    pipeline.grouping = plan_grouping(config.grouping, config.inhibit_rules)
    return pipeline, ledger


def build_integrity(
    config: Config, folders: Sequence[Path], pipeline: Pipeline, store: Store, counters: Counters, clock: Clock
) -> IntegrityDesk | None:
    """What watches files, None where the configuration turns that off; `folders` are those of the rules."""
    settings = config.sources.file_integrity
    if not settings.enabled:
        return None
    from watchdogd.collect.package_changes import PackageChanges  # noqa: PLC0415 - memory only where it is used
    from watchdogd.file_changes import FileChanges, Terms  # noqa: PLC0415 - as above
    from watchdogd.integrity_desk import IntegrityDesk  # noqa: PLC0415 - as above

    own = [Path(__file__).resolve().parent, *folders, *([Path(config.path)] if config.path else [])]
    deeds = RecentDeeds(lambda path: desk.covers(path))  # noqa: PLW0108 - which is made below
    changes = FileChanges(
        Terms(settings.who_wait_s, settings.package_wait_s),
        PackageChanges(),
        deeds,
        Identity(clock, look_up_host_user).name,
        name_inode,
        counters,
        clock,
    )
    desk = IntegrityDesk(
        settings,
        [str(path) for path in own if "\0" not in str(path)],
        Path(config.store.path),
        store,
        changes,
        pipeline.intake.take_events,
        counters,
        clock,
    )
    desk.tell_selected = deeds.forget_answers
    pipeline.judge.note_deeds = deeds.note
    pipeline.judge.tell_judged = changes.settle
    pipeline.list_files, pipeline.forget_files = changes.list_ready, changes.forget
    return desk


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
    masker = Masker()
    sinks: dict[str, Sink] = {
        hook.name: AppriseSink(hook, masker) if hook.format == "apprise" else WebhookSink(hook, clock, masker=masker)
        for hook in config.webhooks
    }
    if config.journald.enabled:
        sinks["journald"] = JournaldSink(mask=config.journald.mask, masker=masker)
    return sinks


def choose_routes(config: Config) -> Routes:
    """Which sink hears of which levels."""
    journald = (("journald", Level.INFORMATIONAL),) if config.journald.enabled else ()
    wishes = tuple(
        (hook.name, Wish(hook.match.levels, hook.match.rules, hook.match.tags, hook.match.verdicts))
        for hook in config.webhooks
    )
    return Routes(journald + tuple((hook.name, hook.min_level) for hook in config.webhooks), wishes)


def choose_terms(config: Config) -> dict[str, Terms]:
    """How each sink is dealt with: the journal is tried for ever, a webhook as configured."""
    hooks = {
        hook.name: Terms(hook.give_up_s, 1 if hook.format == "apprise" else hook.max_in_flight)  # each is a process
        for hook in config.webhooks
    }
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
