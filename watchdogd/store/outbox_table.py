"""The outbox as an operator sees it: what waits, what was given up; sent again, or dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watchdogd.reports import DeliveryRow, OutboxReport
from watchdogd.store.columns import as_json
from watchdogd.store.documents import escape_text

if TYPE_CHECKING:
    import sqlite3

    from watchdogd.ports import Clock
    from watchdogd.reports import OutboxDrop, OutboxRequest, OutboxRetry
    from watchdogd.store.database import Store

STATES = ("pending", "dead", "dropped")
"""Those that can be listed; of each there is an index."""

_ROWS = """
    SELECT d.id, d.alert_id, d.sink, d.kind, d.state, d.attempts, d.created_ms, max(d.due_ms, d.next_try_ms),
        d.ended_ms, coalesce(d.last_error, ''), coalesce(a.level, ''), coalesce(t.title, a.rule_id, '')
    FROM deliveries AS d LEFT JOIN alerts AS a ON a.id = d.alert_id LEFT JOIN rule_titles AS t ON t.rule_id = a.rule_id
    WHERE d.state = '{state}' AND (:sink IS NULL OR d.sink = :sink) AND d.id > :after ORDER BY d.id LIMIT :limit
"""
_COUNT = (
    "SELECT sink, count(*) FROM deliveries WHERE state = '{state}' AND (:sink IS NULL OR sink = :sink) GROUP BY sink"
)
_SENDING = "id NOT IN (SELECT value FROM json_each(:sending))"
_CHOSEN = {
    "ids": "id IN (SELECT value FROM json_each(:ids)) AND state IN ('pending', 'dead', 'dropped')",
    "sink": "sink = :sink AND state IN ('pending', 'dead')",
    "all_dead": "state = 'dead'",
}
_RETRY = (
    "UPDATE deliveries SET state = 'pending', due_ms = min(due_ms, :now_ms), next_try_ms = 0, attempts = 0, "
    "created_ms = :now_ms, ended_ms = NULL WHERE {chosen} AND {sending} "
    "AND sink IN (SELECT value FROM json_each(:sinks)) RETURNING alert_id, sink, kind"
)
_RETRY_ALERT = (
    "UPDATE deliveries SET state = 'pending', due_ms = min(due_ms, :now_ms), next_try_ms = 0, attempts = 0, "
    "created_ms = :now_ms, ended_ms = NULL "
    "WHERE alert_id = :alert_id AND sink = :sink AND kind = 'alert' AND state IN ('dead', 'dropped')"
)
_DROP = (
    "UPDATE deliveries SET state = 'dropped', ended_ms = :now_ms, last_error = :reason "
    "WHERE state IN ('pending', 'dead') AND {chosen} AND {sending} RETURNING alert_id, sink, kind"
)
_DROP_REST = "alert_id = :alert_id AND sink = :sink AND kind <> 'alert'"


class OutboxTable:
    """Every method raises StoreError where the database refuses, and then has changed nothing."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def list(self, wanted: OutboxRequest) -> OutboxReport:
        """A page of deliveries in the order in which they were made, and how many there are by sink and state."""
        return await self._store.read(self._list, wanted)

    async def retry(self, wanted: OutboxRetry, sinks: frozenset[str]) -> tuple[int, frozenset[str]]:
        """Make them due now, as if they had never been tried: how many, and to which sinks.

        Of these `sinks` only; never what is being sent. A verdict takes its alert with it, which goes first.
        """
        return await self._store.write(self._retry, wanted, sinks)

    async def drop(self, wanted: OutboxDrop) -> int:
        """Send them never, for that reason, unless they are being sent; how many. An alert takes what follows it."""
        return await self._store.write(self._drop, wanted)

    def _list(self, connection: sqlite3.Connection, wanted: OutboxRequest) -> OutboxReport:
        states = STATES if wanted.state == "all" else (wanted.state,)
        arguments = {"sink": wanted.sink, "after": wanted.after, "limit": wanted.limit + 1}
        rows: list[DeliveryRow] = []
        counts: dict[str, dict[str, int]] = {}
        for state in states:
            rows += [DeliveryRow(*row) for row in connection.execute(_ROWS.format(state=state), arguments)]
            for sink, count in connection.execute(_COUNT.format(state=state), arguments):
                counts.setdefault(sink, {})[state] = count
        rows.sort(key=lambda row: row.id)
        more = len(rows) > wanted.limit
        return OutboxReport(tuple(rows[: wanted.limit]), counts, rows[wanted.limit - 1].id if more else None)

    def _retry(
        self, connection: sqlite3.Connection, wanted: OutboxRetry, sinks: frozenset[str]
    ) -> tuple[int, frozenset[str]]:
        chosen = _CHOSEN["ids" if wanted.ids else "sink" if wanted.sink is not None else "all_dead"]
        known = {
            "ids": as_json(set(wanted.ids)),
            "sink": wanted.sink,
            "now_ms": self._clock.now_ms(),
            "sending": as_json(self._store.sending),
            "sinks": as_json(sinks),
        }
        rows = connection.execute(_RETRY.format(chosen=chosen, sending=_SENDING), known).fetchall()
        count = len(rows)
        for alert_id, sink, kind in rows:
            if kind != "alert":
                alert = {"now_ms": known["now_ms"], "alert_id": alert_id, "sink": sink}
                count += connection.execute(_RETRY_ALERT, alert).rowcount
        return count, frozenset(sink for _, sink, _ in rows)

    def _drop(self, connection: sqlite3.Connection, wanted: OutboxDrop) -> int:
        known = {
            "ids": as_json(set(wanted.ids)),
            "now_ms": self._clock.now_ms(),
            "reason": f"dropped: {escape_text(wanted.reason)}",
            "sending": as_json(self._store.sending),
        }
        rows = connection.execute(_DROP.format(chosen=_CHOSEN["ids"], sending=_SENDING), known).fetchall()
        count = len(rows)
        for alert_id, sink, kind in rows:
            if kind == "alert":
                rest = known | {"alert_id": alert_id, "sink": sink}
                count += len(connection.execute(_DROP.format(chosen=_DROP_REST, sending=_SENDING), rest).fetchall())
        return count
