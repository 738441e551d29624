"""The durable queue of deliveries: at least once to every sink, of what is due the worst first, groups in order."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from watchdogd.entities import Alert, Delivery
from watchdogd.errors import StoreError
from watchdogd.store.clock_steps import measure_offset_ms
from watchdogd.store.columns import as_json, clamp
from watchdogd.store.documents import decode_alert, escape_text
from watchdogd.store.statements import write_alert
from watchdogd.store.troubles import (
    end_trouble,
    find_untold,
    load_troubles,
    note_failure,
    note_given_up,
    note_told,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Mapping

    from watchdogd.entities import GivenUp, SinkTrouble
    from watchdogd.ports import Clock
    from watchdogd.store.batch import NewAlert
    from watchdogd.store.database import Store
    from watchdogd.telemetry import Counters

ERROR_CHARACTERS = 500
"""How much of a sink's error is kept."""

PAY_AGAIN_MS = 1000
"""How long a mark that the disk refused waits, where nothing else wakes the writer."""

WINDOW = 256
"""How many deliveries are looked at to find those of free queues, before all are."""

_SINKS = """
    WITH RECURSIVE waiting (sink) AS (
        SELECT min(sink) FROM deliveries WHERE state = 'pending'
        UNION ALL
        SELECT (SELECT min(sink) FROM deliveries WHERE state = 'pending' AND sink > waiting.sink)
        FROM waiting WHERE waiting.sink IS NOT NULL)
    SELECT sink FROM waiting WHERE sink IS NOT NULL
"""
"""Steps from one name to the next: SELECT DISTINCT would read everything that waits."""

_READY = """
    SELECT queue FROM deliveries
    WHERE state = 'pending' AND sink = :sink AND due_ms <= :now_ms AND (next_try_ms = 0 OR next_try_ms <= :now_ms)
    {more}
    ORDER BY rank DESC, due_ms, id LIMIT :limit
"""
_FIRST_LOOK = _READY.format(more="")
_FULL_LOOK = _READY.format(more="AND queue NOT IN (SELECT value FROM json_each(:blocked))")
_HEAD = """
    SELECT d.id, d.alert_id, d.sink, d.kind, d.attempts, d.created_ms, d.number,
    (SELECT document FROM alerts WHERE alerts.id = d.alert_id),
    d.kind = 'alert' OR EXISTS (SELECT 1 FROM deliveries AS a WHERE a.alert_id = d.alert_id AND a.sink = d.sink
        AND a.kind = 'alert' AND a.state = 'delivered')
    FROM deliveries AS d
    WHERE d.state = 'pending' AND d.sink = :sink AND d.queue = :queue AND d.due_ms <= :now_ms
    ORDER BY d.id LIMIT 1
"""
"""Of a queue the first that was stored: the order of commits, which no clock changes."""

_TO_RETRY = (
    "SELECT DISTINCT queue FROM deliveries "
    "WHERE state = 'pending' AND sink = ? AND next_try_ms <> 0 AND next_try_ms > ?"
)
_NEXT_DUE = """
    SELECT min(moment) FROM (
        SELECT (SELECT min(due_ms) FROM deliveries
            WHERE state = 'pending' AND sink = :sink AND rank = ranks.value AND due_ms > :now_ms) AS moment
        FROM json_each('[0, 1, 2, 3, 4]') AS ranks
        UNION ALL
        SELECT min(next_try_ms) FROM deliveries
        WHERE state = 'pending' AND sink = :sink AND next_try_ms <> 0 AND next_try_ms > :now_ms)
"""
_DELIVERED = (
    "UPDATE deliveries SET state = 'delivered', attempts = attempts + 1, ended_ms = ?, last_error = NULL "
    "WHERE id = ? AND number = ?"
)
_DEAD = (
    "UPDATE deliveries SET state = 'dead', attempts = attempts + 1, ended_ms = ?, last_error = ? "
    "WHERE id = ? AND number = ? AND state = 'pending'"
)
_RETRY = "UPDATE deliveries SET attempts = attempts + 1, next_try_ms = ?, last_error = ? WHERE id = ? AND number = ?"
"""Marks are of one `number`: an alert that came again while its update was sent is told again."""

_END_REST = (
    "UPDATE deliveries SET state = 'dead', ended_ms = ?, last_error = 'the alert itself was given up' "
    "WHERE alert_id = ? AND sink = ? AND kind <> 'alert' AND state = 'pending'"
)
_GIVE_UP = (
    "UPDATE deliveries SET state = 'dead', ended_ms = ?, last_error = ? WHERE sink = ? AND state = 'pending' "
    "AND created_ms <= ? AND id NOT IN (SELECT value FROM json_each(?))"
)

_log = logging.getLogger("watchdogd.store")


class Outbox:
    """`ports.Outbox` over the store.

    What is being sent is remembered in memory only: taking writes nothing, so a full disk does not keep committed
    alerts from leaving, and after a crash everything that was not marked is due again. A mark that the disk refuses is
    kept and written with a later call; until then the sink is not told again. So marking never raises; everything else
    raises StoreError where the database refuses.
    """

    def __init__(self, store: Store, counters: Counters, clock: Clock) -> None:
        self._store = store
        self._counters = counters
        self._clock = clock
        self._owed: dict[int, Callable[[sqlite3.Connection], int | None]] = {}
        """Marks by delivery; each returns how many other deliveries were given up with it."""
        self._paying = asyncio.Lock()
        self._said = ""
        """The last refusal of marks: a full disk must not fill the journal."""
        self._queues: dict[int, tuple[str, str]] = {}
        """Sink and queue of what is being sent; only the store's thread touches it."""

    async def take_due(self, now_ms: int, room: Mapping[str, int]) -> list[tuple[Delivery, Alert]]:
        """Deliveries whose time has come: of the highest level first, then the longest due, of each queue one.

        `room` says how many by sink; one that is not named there has room for one. They stay taken until they are
        marked. A queue is a group's alerts of one level, in the order of the commits: nothing is taken while another
        of the same queue is being sent or waits to be tried again. What waits for a verdict holds up nothing.
        """
        await self._store.follow_clock()
        await self._pay()
        taken, unreadable = await self._store.read(self._take, now_ms, room)
        for delivery, error in unreadable:
            self._counters.add("store_unreadable_alerts_total")
            self._counters.add("write_dead_letters_total")
            _log.warning("alert %s cannot be read from the database: %s", delivery.alert_id, error)
            await self.mark_failed(delivery, f"cannot be read from the database: {error}", None)
        return taken

    async def give_back(self, delivery: Delivery) -> None:
        """Taken and not tried after all: it is due as it was. Raises StoreError."""
        await self._store.read(self._release, frozenset({delivery.id}))

    async def mark_delivered(self, delivery: Delivery, *, is_well: bool = False) -> None:
        """The sink took it; `is_well` says that this ended its trouble."""
        now_ms = self._clock.now_ms()

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(_DELIVERED, (now_ms, delivery.id, delivery.number))
            if is_well:
                end_trouble(connection, delivery.sink)

        await self._mark(delivery, work)

    async def mark_failed(
        self, delivery: Delivery, error: str, next_try_ms: int | None, paused_until_ms: int = 0
    ) -> None:
        """The sink did not take it: due again at `next_try_ms`; None gives it up.

        `paused_until_ms`, where it is not 0, is remembered: until then the sink as a whole is left alone.
        """
        now_ms = self._clock.now_ms()
        offset_ms = measure_offset_ms(self._clock)
        reason = escape_text(error[:ERROR_CHARACTERS])

        def work(connection: sqlite3.Connection) -> int:
            step_ms = measure_offset_ms(self._clock) - offset_ms  # the clock may be set while the mark is owed
            if paused_until_ms:
                note_failure(connection, delivery.sink, paused_until_ms + step_ms, now_ms + step_ms)
            if next_try_ms is not None:
                connection.execute(_RETRY, (clamp(next_try_ms + step_ms), reason, delivery.id, delivery.number))
                return 0
            connection.execute(_DEAD, (now_ms, reason, delivery.id, delivery.number))
            rest = 0
            if delivery.kind == "alert":
                rest = connection.execute(_END_REST, (now_ms, delivery.alert_id, delivery.sink)).rowcount
            note_given_up(connection, delivery.sink, 1 + rest, reason, now_ms)
            return rest

        await self._mark(delivery, work)

    async def give_up(self, sink: str, created_ms: int, error: str) -> int:
        """Give up all that waits for a sink since then or longer and is not being sent; how many that were."""
        now_ms = self._clock.now_ms()
        reason = escape_text(error[:ERROR_CHARACTERS])

        def work(connection: sqlite3.Connection) -> int:
            arguments = (now_ms, reason, sink, created_ms, as_json(self._store.sending))
            count = connection.execute(_GIVE_UP, arguments).rowcount
            if count:
                note_given_up(connection, sink, count, reason, now_ms)
            return count

        return await self._store.write(work)

    async def next_due_ms(self, now_ms: int, room: Mapping[str, int]) -> int | None:
        """When, after now, the next delivery falls due to a sink with room, None where none does.

        Soon, where a mark is owed. What is due already waits for another's end.
        """
        await self._store.follow_clock()
        due_ms = await self._store.read(_find_due, now_ms, room)
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

    async def load_troubles(self) -> list[SinkTrouble]:
        """What is known of sinks that fail, or failed in an earlier life."""
        return await self._store.read(load_troubles)

    async def find_untold(self) -> list[GivenUp]:
        """By sink, what was given up and no alert says yet."""
        return await self._store.read(find_untold)

    async def tell(self, given_up: GivenUp, alert: NewAlert) -> bool:
        """Commit the alert that says so, and that it was said; False where the alert was known."""
        now_ms = self._clock.now_ms()

        def work(connection: sqlite3.Connection) -> bool:
            note_told(connection, given_up)
            return write_alert(connection, alert, now_ms) is not None

        return await self._store.write(work)

    def _take(
        self, connection: sqlite3.Connection, now_ms: int, room: Mapping[str, int]
    ) -> tuple[list[tuple[Delivery, Alert]], list[tuple[Delivery, str]]]:
        taken: list[tuple[Delivery, Alert]] = []
        unreadable: list[tuple[Delivery, str]] = []
        for (sink,) in connection.execute(_SINKS).fetchall():
            free = room.get(sink, 1)
            for queue in self._find_queues(connection, now_ms, sink, free) if free > 0 else ():
                row = connection.execute(_HEAD, {"sink": sink, "queue": queue, "now_ms": now_ms}).fetchone()
                *columns, document, may_go = row
                if not may_go:
                    continue
                delivery = Delivery(*columns)
                try:
                    taken.append((delivery, decode_alert(document)))
                except msgspec.DecodeError as error:
                    unreadable.append((delivery, str(error)))
                self._store.sending.add(delivery.id)
                self._queues[delivery.id] = (sink, queue)
        return taken, unreadable

    def _find_queues(self, connection: sqlite3.Connection, now_ms: int, sink: str, free: int) -> list[str]:
        """Up to `free` queues of which something is due and nothing in hand or to be tried again, the worst first."""
        blocked = {queue for busy, queue in self._queues.values() if busy == sink}
        blocked.update(queue for (queue,) in connection.execute(_TO_RETRY, (sink, now_ms)))
        known = {"sink": sink, "now_ms": now_ms}
        rows = connection.execute(_FIRST_LOOK, {**known, "limit": WINDOW}).fetchall()
        found = _choose(rows, blocked, free)
        if found or len(rows) < WINDOW:
            return found
        rows = connection.execute(_FULL_LOOK, {**known, "blocked": as_json(blocked), "limit": WINDOW}).fetchall()
        return _choose(rows, blocked, free)

    async def _mark(self, delivery: Delivery, work: Callable[[sqlite3.Connection], int | None]) -> None:
        self._owed[delivery.id] = work
        await self._pay()

    async def _pay(self) -> None:
        """Write every mark that is owed, in one transaction; what cannot be written stays owed."""
        async with self._paying:
            owed = dict(self._owed)
            if not owed:
                return
            try:
                more = await self._store.write(partial(_apply, owed))
                await self._store.read(self._release, frozenset(owed))
            except StoreError as error:
                if str(error) != self._said:
                    _log.warning("%d deliveries are not marked yet: %s", len(owed), error)
                self._said = str(error)
                return
            self._said = ""
            self._counters.add("write_dead_letters_total", more)
            for delivery_id in owed:
                del self._owed[delivery_id]

    def _release(self, _connection: sqlite3.Connection, delivery_ids: frozenset[int]) -> None:
        self._store.sending -= delivery_ids
        for delivery_id in delivery_ids:
            self._queues.pop(delivery_id, None)


def _choose(rows: list[tuple[str]], blocked: Collection[str], free: int) -> list[str]:
    """The first queues of the rows, each once."""
    return list(dict.fromkeys(queue for (queue,) in rows if queue not in blocked))[:free]


def _find_due(connection: sqlite3.Connection, now_ms: int, room: Mapping[str, int]) -> int | None:
    sinks = [sink for (sink,) in connection.execute(_SINKS) if room.get(sink, 1) > 0]
    moments = [connection.execute(_NEXT_DUE, {"sink": sink, "now_ms": now_ms}).fetchone()[0] for sink in sinks]
    return min((moment for moment in moments if moment is not None), default=None)


def _apply(owed: dict[int, Callable[[sqlite3.Connection], int | None]], connection: sqlite3.Connection) -> int:
    return sum(work(connection) or 0 for work in owed.values())
