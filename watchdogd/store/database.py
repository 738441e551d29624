"""The only state: one SQLite file, owned by one thread, behind an asynchronous front."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import msgspec

from watchdogd.entities import Alert, Checkpoint, CorrelationRow
from watchdogd.errors import StoreDamagedError, StoreError
from watchdogd.store.anchor import Anchor
from watchdogd.store.batch import Batch, InstanceHeartbeat, NewAlert, Written
from watchdogd.store.clock_steps import ClockSteps, mend_step_back, move_waiting
from watchdogd.store.damage import refuse
from watchdogd.store.documents import decode_alert
from watchdogd.store.opening import open_database
from watchdogd.store.statements import (
    BASELINE_PATTERNS,
    add_verdict_deliveries,
    call_off,
    decode_seen,
    mark_told,
    prune,
    release_now,
    write_batch,
    write_verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from watchdogd.entities import Seen
    from watchdogd.ports import Clock
    from watchdogd.store.damage import SetAside
    from watchdogd.telemetry import Counters

__all__ = ["Batch", "InstanceHeartbeat", "NewAlert", "Store", "Written"]

T = TypeVar("T")
P = ParamSpec("P")

_COUNTERS = (
    "store_commit_errors_total",
    "store_read_errors_total",
    "store_unreadable_alerts_total",
    "store_clock_steps_total",
    "store_written_back_total",
)

_log = logging.getLogger("watchdogd.store")


class Store:
    """Alerts, deliveries, checkpoint, baseline. Every method that changes something is one transaction.

    All work runs on one thread of its own, in the order it was asked for. Every method raises StoreError, and then has
    changed nothing; later ones work again when the cause is mended.

    Durability: WAL. A transaction with new alerts is synced to the disk before it counts (`synchronous = FULL`), for
    the log's own lines may not survive a power cut, and host metrics cannot be read again. All others are not
    (`NORMAL`): a power cut may undo the latest of them, in order and whole, so that the checkpoint is never ahead of
    its alerts; lines are read again, deliveries made again, triage asked again. A killed process loses nothing.
    """

    def __init__(
        self,
        path: Path,
        counters: Counters,
        clock: Clock,
        *,
        connection: sqlite3.Connection,
        lock_fd: int,
        executor: ThreadPoolExecutor,
        found: SetAside | None = None,
    ) -> None:
        self._path = path
        self._counters = counters
        self._clock = clock
        self._connection = connection
        self._anchor = Anchor(path, lock_fd, counters)
        self._written_back: deque[SetAside] = deque()
        self._executor = executor
        self._durable: bool | None = None
        self._closed = False
        self._steps = ClockSteps(clock)
        self.found = found
        """The damaged or missing database in whose place this one was made; None where all is well."""
        self.damaged = asyncio.Event()
        """Set when a read or write found the database damaged: it is of no more use, open it again with `damage`."""
        self.damage = ""
        self.written_back: asyncio.Queue[SetAside] = asyncio.Queue()
        """Each time that the file was removed or replaced while in use."""
        self.sending: set[int] = set()
        """Ids of deliveries in a sink's hands; only the store's thread touches it. A crash forgets them: they are
        still `pending` in the file."""

    @classmethod
    async def open(cls, path: Path, counters: Counters, clock: Clock, *, damaged: str = "") -> Store:
        """Open or make the database (mode 0600, missing folders 0700), exclusively.

        A database of ours that is damaged, or was found so (`damaged` says how), is set aside for a new one: `found`.
        Raises StoreError: a directory stands there, it is no database of ours, another daemon has it, it is from a
        newer version, or the disk refuses.
        """
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="watchdogd-store")
        loop = asyncio.get_running_loop()
        try:
            opened = await loop.run_in_executor(executor, open_database, path, clock.now_ms(), damaged)
        except BaseException:
            executor.shutdown(wait=False)
            raise
        store = cls(
            path,
            counters,
            clock,
            connection=opened.connection,
            lock_fd=opened.lock_fd,
            executor=executor,
            found=opened.found,
        )
        counters.add("store_set_aside_total", 1 if opened.found is not None and opened.fresh else 0)
        for name in _COUNTERS:
            counters.add(name, 0)
        try:
            await store.write(prune)
            store._note_step(await store.write(mend_step_back, clock.now_ms()))
        except StoreError as error:
            _log.warning("old entries stay for now: %s", error)
        return store

    async def close(self) -> None:
        """Finish what was asked for, write the WAL back, release the file; again is harmless."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(sqlite3.Error):  # of a damaged one
            await asyncio.get_running_loop().run_in_executor(self._executor, self._connection.close)
        self._executor.shutdown(wait=True)
        os.close(self._anchor.lock_fd)

    async def write(
        self,
        work: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run `work(connection, ...)` on the store's thread as one transaction, for the modules of this room."""
        return await self._submit(partial(self._transact, lambda connection: work(connection, *args, **kwargs)))

    async def read(
        self,
        work: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run `work(connection, ...)`, which changes nothing, on the store's thread."""
        return await self._submit(partial(self._look, lambda connection: work(connection, *args, **kwargs)))

    async def follow_clock(self) -> None:
        """Move what waits with a wall clock that was set: no deadline becomes later by it. Every write does so, too.

        Never raises: where the database refuses, a later call or write does it.
        """
        if self._steps.find_ms():
            with contextlib.suppress(StoreError):
                await self.write(lambda _: None)

    async def commit(self, batch: Batch) -> Mapping[str, Written]:
        """Write a batch in one transaction; what became of the alerts that were not known before, by id.

        Known alerts, and their deliveries, stay as they are: that is what absorbs lines that were read twice.
        """
        now_ms = self._clock.now_ms()

        def work(connection: sqlite3.Connection) -> Mapping[str, Written]:
            return write_batch(connection, batch, now_ms, self.sending)

        return await self._submit(partial(self._transact, work, durable=bool(batch.alerts)))

    async def mark_told(self, told: Mapping[str, Sequence[str]]) -> None:
        """By alert, the sinks that took it past the database: they are not sent it again."""
        await self.write(mark_told, told, self.sending, self._clock.now_ms())

    async def record_verdict(
        self,
        alert: Alert,
        *,
        release: bool,
        journald_only: bool,
        verdict_update: bool,
        journald_sink: str = "journald",
    ) -> None:
        """Store an alert with its verdict; triage of it is done.

        Deliveries of it that no sink has been tried with yet fall due now (`release`), or, with `journald_only`, are
        called off for every sink but `journald_sink`. With `verdict_update` each sink that has the alert already, or
        is being sent it, is told the verdict once.
        """
        routed_but = journald_sink if journald_only else None
        now_ms = self._clock.now_ms()

        def work(connection: sqlite3.Connection) -> None:
            write_verdict(connection, alert)
            if routed_but is not None:
                call_off(connection, alert.id, routed_but, self.sending, now_ms)
            if release:
                release_now(connection, alert.id, self.sending, now_ms)
            if verdict_update:
                add_verdict_deliveries(connection, alert.id, self.sending, now_ms)

        await self.write(work)

    async def load_checkpoint(self, source: str) -> Checkpoint | None:
        """The last committed checkpoint of a source."""
        query = "SELECT source, path, file_id, offset FROM checkpoints WHERE source = ?"
        row = await self.read(lambda connection: connection.execute(query, (source,)).fetchone())
        return None if row is None else Checkpoint(*row)

    async def load_baseline(self, limit: int = BASELINE_PATTERNS) -> dict[str, Seen]:
        """What is known by pattern; the most recently seen where there are more."""
        query = "SELECT pattern, seen, first_seen_ms, days, days_from FROM baseline ORDER BY last_seen_ms DESC LIMIT ?"
        rows = await self.read(lambda connection: connection.execute(query, (limit,)).fetchall())
        return {pattern: decode_seen(*row) for pattern, *row in rows}

    async def load_health(self) -> bytes | None:
        """What the last life knew of its own blindness."""
        query = "SELECT state FROM health"
        row = await self.read(lambda connection: connection.execute(query).fetchone())
        return None if row is None else bytes(row[0])

    async def load_correlations(self) -> list[CorrelationRow]:
        """What correlations knew of their groups at the last commit."""
        query = "SELECT rule_id, digest, group_key, state, updated_ms FROM correlations"
        rows = await self.read(lambda connection: connection.execute(query).fetchall())
        return [CorrelationRow(*row) for row in rows]

    async def load_instances(self, boot_id: str | None = None) -> list[InstanceHeartbeat]:
        """Former lives of the daemon, newest first: of one boot, or of all."""
        query = (
            "SELECT boot_id, pid, start_ms, last_ms FROM instances WHERE boot_id = ? OR ? IS NULL "
            "ORDER BY last_ms DESC, start_ms DESC"
        )
        rows = await self.read(lambda connection: connection.execute(query, (boot_id, boot_id)).fetchall())
        return [InstanceHeartbeat(*row) for row in rows]

    async def pending_triage(self, limit: int) -> list[Alert]:
        """Alerts that wait for a verdict, oldest first: triage resumes with them after a crash."""
        return await self._load_alerts("WHERE triage_state = 'pending' ORDER BY seq LIMIT ?", limit)

    async def find_alert(self, alert_id: str) -> Alert | None:
        """The alert with this id."""
        found = await self._load_alerts("WHERE id = ?", alert_id)
        return found[0] if found else None

    async def latest_alerts(self, limit: int) -> list[Alert]:
        """The alerts committed last, newest first."""
        return await self._load_alerts("ORDER BY seq DESC LIMIT ?", limit)

    async def count_alerts(self) -> int:
        """How many alerts there are."""
        count: int = await self.read(lambda connection: connection.execute("SELECT count(*) FROM alerts").fetchone()[0])
        return count

    async def _load_alerts(self, clause: str, argument: str | int) -> list[Alert]:
        query = f"SELECT id, document FROM alerts {clause}"  # noqa: S608 - clauses are constants of this class
        rows = await self.read(lambda connection: connection.execute(query, (argument,)).fetchall())
        alerts = []
        for alert_id, document in rows:
            try:
                alerts.append(decode_alert(document))
            except msgspec.DecodeError as error:
                self._counters.add("store_unreadable_alerts_total")
                _log.warning("alert %s cannot be read from the database: %s", alert_id, error)
        return alerts

    async def _submit(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise StoreError(f"{self._path}: the store is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except StoreDamagedError as error:
            self.damage = str(error)
            self.damaged.set()
            raise
        finally:
            while self._written_back:
                self.written_back.put_nowait(self._written_back.popleft())

    def _look(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return work(self._connection)
        except sqlite3.Error as error:
            self._counters.add("store_read_errors_total")
            raise refuse(self._path, error) from error

    def _hold_file(self) -> sqlite3.Connection:
        before = self._connection
        self._connection, found = self._anchor.hold(before, self._clock.monotonic_s(), self._clock.now_ms())
        if self._connection is not before:
            self._durable = None
        if found is not None:
            self._written_back.append(found)
        return self._connection

    def _transact(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = False) -> T:
        connection = self._hold_file()
        try:
            if durable != self._durable:
                connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            connection.execute("BEGIN IMMEDIATE")
            step_ms = self._steps.find_ms()
            if step_ms:
                move_waiting(connection, step_ms)
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException as error:
            self._counters.add("store_commit_errors_total")
            self._roll_back()
            if isinstance(error, sqlite3.Error):
                raise refuse(self._path, error) from error
            raise
        self._steps.settle(step_ms)
        self._note_step(step_ms)
        return result

    def _note_step(self, step_ms: int) -> None:
        if step_ms:
            self._counters.add("store_clock_steps_total")
            way = "back" if step_ms < 0 else "forward"
            _log.warning(
                "the clock was set %s by %.0f s: what waits is due after the same wait", way, abs(step_ms) / 1000
            )

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            _log.warning("%s: rolling back: %s", self._path, error)
