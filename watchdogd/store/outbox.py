"""The durable queue of deliveries: at least once to every sink, of what is due the worst first."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from watchdogd.entities import Alert, Delivery
from watchdogd.errors import StoreError
from watchdogd.store.clock_steps import measure_offset_ms
from watchdogd.store.documents import decode_alert, escape_text
from watchdogd.store.statements import as_json, clamp

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from watchdogd.ports import Clock
    from watchdogd.store.database import Store
    from watchdogd.telemetry import Counters

ERROR_CHARACTERS = 500
"""How much of a sink's error is kept."""

PAY_AGAIN_MS = 1000
"""How long a mark that the disk refused waits, where nothing else wakes the writer."""

_WAITING = """
    FROM deliveries AS d WHERE d.state = 'pending'
    AND d.sink NOT IN (SELECT value FROM json_each(:busy))
    AND d.id NOT IN (SELECT value FROM json_each(:sending))
    AND (d.kind = 'alert' OR EXISTS (
        SELECT 1 FROM deliveries AS a
        WHERE a.alert_id = d.alert_id AND a.sink = d.sink AND a.kind = 'alert' AND a.state = 'delivered'))
"""
_END = "UPDATE deliveries SET state = ?, attempts = attempts + 1, ended_ms = ?, last_error = ? WHERE id = ?"
_RETRY = "UPDATE deliveries SET attempts = attempts + 1, due_ms = ?, last_error = ? WHERE id = ?"
_END_VERDICT = (
    "UPDATE deliveries SET state = 'dead', ended_ms = ?, last_error = 'the alert itself was given up' "
    "WHERE alert_id = ? AND sink = ? AND kind = 'verdict' AND state = 'pending'"
)

_log = logging.getLogger("watchdogd.store")


class Outbox:
    """`ports.Outbox` over the store.

    What is being sent is remembered in memory only: taking writes nothing, so a full disk does not keep committed
    alerts from leaving, and after a crash everything that was not marked is due again. A mark that the disk refuses is
    kept and written with a later call; until then the sink is not told again. So marking never raises; `take_due` and
    `next_due_ms` raise StoreError where the database cannot be read.
    """

    def __init__(self, store: Store, counters: Counters, clock: Clock) -> None:
        self._store = store
        self._counters = counters
        self._clock = clock
        self._owed: dict[int, Callable[[sqlite3.Connection], None]] = {}
        self._paying = asyncio.Lock()

    async def take_due(self, now_ms: int, limit: int, busy: frozenset[str]) -> list[tuple[Delivery, Alert]]:
        """Deliveries whose time has come, the highest level first, then the longest due; none for a sink in `busy`.

        They stay taken until they are marked. A verdict waits until the same sink has its alert.
        """
        await self._store.follow_clock()
        await self._pay()
        taken, unreadable = await self._store.read(self._take, now_ms, limit, busy)
        for delivery, error in unreadable:
            self._counters.add("store_unreadable_alerts_total")
            _log.warning("alert %s cannot be read from the database: %s", delivery.alert_id, error)
            await self.mark_failed(delivery, f"cannot be read from the database: {error}", None)
        return taken

    async def mark_delivered(self, delivery: Delivery) -> None:
        """The sink took it."""
        now_ms = self._clock.now_ms()

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(_END, ("delivered", now_ms, None, delivery.id))

        await self._mark(delivery, work)

    async def mark_failed(self, delivery: Delivery, error: str, next_try_ms: int | None) -> None:
        """The sink did not take it: due again at `next_try_ms`; None gives it up."""
        now_ms = self._clock.now_ms()
        offset_ms = measure_offset_ms(self._clock)
        reason = escape_text(error[:ERROR_CHARACTERS])

        def work(connection: sqlite3.Connection) -> None:
            if next_try_ms is not None:
                step_ms = measure_offset_ms(self._clock) - offset_ms  # the clock may be set while the mark is owed
                connection.execute(_RETRY, (clamp(next_try_ms + step_ms), reason, delivery.id))
                return
            connection.execute(_END, ("dead", now_ms, reason, delivery.id))
            if delivery.kind == "alert":
                connection.execute(_END_VERDICT, (now_ms, delivery.alert_id, delivery.sink))

        await self._mark(delivery, work)

    async def next_due_ms(self, busy: frozenset[str]) -> int | None:
        """When the next delivery falls due, None where nothing waits. Soon, where a mark is owed."""
        await self._store.follow_clock()
        due_ms = await self._store.read(self._find_due, busy)
        if not self._owed:
            return due_ms
        again_ms = self._clock.now_ms() + PAY_AGAIN_MS
        return again_ms if due_ms is None else min(due_ms, again_ms)

    async def release_all(self) -> None:
        """What waits for a verdict waits no longer: the daemon is about to stop, the alert must not wait with it."""
        now_ms = self._clock.now_ms()

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE deliveries SET due_ms = min(due_ms, ?) WHERE state = 'pending' AND attempts = 0", (now_ms,)
            )

        await self._store.write(work)

    def _find_due(self, connection: sqlite3.Connection, busy: frozenset[str]) -> int | None:
        due_ms: int | None
        (due_ms,) = connection.execute(f"SELECT min(d.due_ms) {_WAITING}", self._filters(busy)).fetchone()
        return due_ms

    def _filters(self, busy: frozenset[str]) -> dict[str, str]:
        return {"busy": as_json(busy), "sending": as_json(self._store.sending)}

    def _take(
        self, connection: sqlite3.Connection, now_ms: int, limit: int, busy: frozenset[str]
    ) -> tuple[list[tuple[Delivery, Alert]], list[tuple[Delivery, str]]]:
        rows = connection.execute(
            "SELECT d.id, d.alert_id, d.sink, d.kind, d.attempts, d.created_ms, "  # noqa: S608 - a constant
            f"(SELECT document FROM alerts WHERE alerts.id = d.alert_id) {_WAITING} "
            "AND d.due_ms <= :now_ms ORDER BY d.rank DESC, d.due_ms, d.id LIMIT :limit",
            {**self._filters(busy), "now_ms": now_ms, "limit": limit},
        ).fetchall()
        taken: list[tuple[Delivery, Alert]] = []
        unreadable: list[tuple[Delivery, str]] = []
        for *columns, document in rows:
            delivery = Delivery(*columns)
            try:
                taken.append((delivery, decode_alert(document)))
            except msgspec.DecodeError as error:
                unreadable.append((delivery, str(error)))
            self._store.sending.add(delivery.id)
        return taken, unreadable

    async def _mark(self, delivery: Delivery, work: Callable[[sqlite3.Connection], None]) -> None:
        self._owed[delivery.id] = work
        await self._pay()

    async def _pay(self) -> None:
        """Write every mark that is owed, in one transaction; what cannot be written stays owed."""
        async with self._paying:
            owed = dict(self._owed)
            if not owed:
                return
            try:
                await self._store.write(partial(_apply, owed))
                await self._store.read(self._release, frozenset(owed))
            except StoreError as error:
                _log.warning("%d deliveries are not marked yet: %s", len(owed), error)
                return
            for delivery_id in owed:
                del self._owed[delivery_id]

    def _release(self, _connection: sqlite3.Connection, delivery_ids: frozenset[int]) -> None:
        self._store.sending -= delivery_ids


def _apply(owed: dict[int, Callable[[sqlite3.Connection], None]], connection: sqlite3.Connection) -> None:
    for work in owed.values():
        work(connection)
