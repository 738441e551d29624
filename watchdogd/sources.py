"""Where the daemon's lines come from: audit's log and socket, the journal or a syslog file."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from watchdogd.collect.audit_log import SOURCE as AUDIT_SOURCE
from watchdogd.collect.audit_log import AuditLogTail
from watchdogd.collect.audit_netlink import SOURCE as NETLINK_SOURCE
from watchdogd.collect.audit_netlink import AuditNetlink
from watchdogd.collect.journal import SOURCE as JOURNAL_SOURCE
from watchdogd.collect.journal import JournalFollow, find_newest
from watchdogd.decode.decoder import Decoder
from watchdogd.decode.tables import name_type
from watchdogd.enrich.hosts import choose_node
from watchdogd.errors import SourceError
from watchdogd.reports import SourceReport
from watchdogd.store.database import Batch
from watchdogd.store.ledger import OffsetLedger
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

    from watchdogd.config import Config
    from watchdogd.entities import Checkpoint
    from watchdogd.judge import Judge
    from watchdogd.pipeline import Pipeline
    from watchdogd.ports import Clock, LineSource
    from watchdogd.store.database import Store

log = logging.getLogger("watchdogd.service")

AUTH_LOG_SOURCE: Final = "auth_log"
BESIDE_RETRY_LAST_S: Final = 300.0
"""For what a host may lack for good."""


class Sources:
    """Where lines come from. The two ways of audit records are opened in an order that leaves no gap between them."""

    def __init__(self, config: Config, counters: Counters, clock: Clock, *, from_start: bool) -> None:
        self._settings = config.sources
        self._counters = counters
        self._clock = clock
        self._from_start = from_start
        self._node: str | None = None
        self._readers: dict[str, LineSource | None] = dict.fromkeys(self._settings_by_name())

    def _settings_by_name(self) -> dict[str, tuple[bool, str]]:
        """Whether each source is switched on, and what it reads."""
        settings = self._settings
        return {
            AUDIT_SOURCE: (settings.audit_log.enabled, settings.audit_log.path),
            NETLINK_SOURCE: (settings.audit_netlink.enabled, "the kernel's audit socket"),
            JOURNAL_SOURCE: (settings.journal.enabled, "the journal"),
            AUTH_LOG_SOURCE: (settings.auth_log.enabled, settings.auth_log.path),
        }

    def report(self, is_running: Callable[[LineSource], bool]) -> Iterator[SourceReport]:
        """Each source that is switched on, and whether it is read now."""
        for name, (wanted, reads) in self._settings_by_name().items():
            reader = self._readers[name]
            if wanted:
                yield SourceReport(name, reads, reader is not None and is_running(reader))

    async def open(
        self, pipeline: Pipeline, ledger: OffsetLedger, store: Store, commit: Callable[[Batch], Awaitable[object]]
    ) -> list[Coroutine[None, None, None]]:
        """What follows each source that is switched on, to be run as tasks. Raises what `commit` does, StoreError."""
        netlink = self._open_netlink()  # before the log: what comes between the two is in both
        follows = [
            await self._open_log(pipeline, ledger, commit),
            self._follow_netlink(netlink, pipeline),
            await self._follow_journal(pipeline, store, commit),
            await self._follow_auth_log(pipeline, store, commit),
        ]
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
            return pipeline.intake.follow(None, reopen)
        ledger.begin(point)
        await commit(Batch(checkpoint=point))
        return pipeline.intake.follow(tail, reopen)

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

        return pipeline.intake.follow(source, reopen, retry_last_s=BESIDE_RETRY_LAST_S)

    async def _follow_journal(
        self, pipeline: Pipeline, store: Store, commit: Callable[[Batch], Awaitable[object]]
    ) -> Coroutine[None, None, None] | None:
        settings = self._settings.journal
        if not settings.enabled:
            return None
        ledger = OffsetLedger(JOURNAL_SOURCE, JOURNAL_SOURCE, await store.load_checkpoint(JOURNAL_SOURCE))

        def reopen(checkpoint: Checkpoint | None) -> JournalFollow:
            follow = JournalFollow(checkpoint=checkpoint, units=settings.units, counters=self._counters)
            self._readers[JOURNAL_SOURCE] = follow
            return follow

        if ledger.checkpoint() is None and not self._from_start:
            try:
                newest = await asyncio.to_thread(find_newest)
            except SourceError as error:
                log.warning("%s; what it holds once it can be read is all read", error)
                return pipeline.intake.follow(None, reopen, ledger=ledger, retry_last_s=BESIDE_RETRY_LAST_S)
            if newest is not None:
                ledger.begin(newest)
                await commit(Batch(checkpoints_beside=(newest,)))
        return pipeline.intake.follow(
            reopen(ledger.checkpoint()), reopen, ledger=ledger, retry_last_s=BESIDE_RETRY_LAST_S
        )

    async def _follow_auth_log(
        self, pipeline: Pipeline, store: Store, commit: Callable[[Batch], Awaitable[object]]
    ) -> Coroutine[None, None, None] | None:
        settings = self._settings.auth_log
        if not settings.enabled:
            return None
        path = Path(settings.path)
        ledger = OffsetLedger(AUTH_LOG_SOURCE, settings.path, await store.load_checkpoint(AUTH_LOG_SOURCE))
        from_start = self._from_start or is_missing(path)

        def reopen(checkpoint: Checkpoint | None) -> AuditLogTail:
            tail = AuditLogTail(
                path, checkpoint=checkpoint, from_start=from_start, counters=self._counters, source=AUTH_LOG_SOURCE
            )
            self._readers[AUTH_LOG_SOURCE] = tail
            return tail

        tail = reopen(ledger.checkpoint())
        try:
            point = await asyncio.to_thread(tail.resume_point)
        except SourceError as error:
            log.warning("%s", error)
            tail.close()
            return pipeline.intake.follow(None, reopen, ledger=ledger, retry_last_s=BESIDE_RETRY_LAST_S)
        ledger.begin(point)  # before we are ready: what is written from then on is read
        await commit(Batch(checkpoints_beside=(point,)))
        return pipeline.intake.follow(tail, reopen, ledger=ledger, retry_last_s=BESIDE_RETRY_LAST_S)


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
