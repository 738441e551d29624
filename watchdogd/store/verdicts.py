"""What triage and the operator say of alerts, as the database keeps it, and what they ask it about other alerts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from watchdogd.background import Case, RelatedAlert
from watchdogd.entities import Alert, AlertState, Label
from watchdogd.store.documents import decode_alert, escape_text
from watchdogd.store.groups import may_lower
from watchdogd.store.statements import (
    add_deliveries,
    add_verdict_deliveries,
    call_off,
    call_off_for,
    escape_origin,
    promote,
    release_now,
    write_alert,
    write_verdict,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from watchdogd.ports import Clock
    from watchdogd.store.batch import RuledAlert
    from watchdogd.store.database import Store
    from watchdogd.telemetry import Counters

JOURNALD = "journald"
CASES = 500
"""How many of the operator's verdicts serve as cases: the newest."""

_COMMAND_CHARACTERS = 512
_log = logging.getLogger("watchdogd.store")


class Verdicts:
    """Over the store; every method that changes something is one transaction, and all raise StoreError."""

    def __init__(self, store: Store, counters: Counters, clock: Clock) -> None:
        self._store = store
        self._counters = counters
        self._clock = clock

    async def record(self, ruled: Sequence[RuledAlert]) -> frozenset[str]:
        """Store verdicts; triage of these alerts is done. The ids of extra alerts that were not known before.

        Deliveries that no sink has been tried with yet fall due now, or are called off (`journald_only`, `refused`);
        `sinks` that an alert was not for so far get it now. The same again changes nothing.
        """
        new, promoted = await self._store.write(self._record, ruled, self._clock.now_ms())
        self._counters.add("store_promoted_alerts_total", promoted)
        return new

    async def waiting_questions(self, limit: int) -> list[tuple[str, Alert]]:
        """Questions that alerts wait for, oldest first, each with its oldest alert."""
        query = (
            "SELECT question, document, min(seq) AS first FROM alerts WHERE triage_state = 'pending' "
            "GROUP BY question ORDER BY first LIMIT ?"
        )
        rows = await self._store.read(lambda connection: connection.execute(query, (limit,)).fetchall())
        return [(question, alert) for question, document, _ in rows for alert in self._decode([document])]

    async def waiting_alerts(self, question: str, limit: int) -> list[Alert]:
        """Alerts that wait for the verdict on this question, oldest first."""
        query = "SELECT document FROM alerts WHERE question = ? AND triage_state = 'pending' ORDER BY seq LIMIT ?"
        arguments = (escape_text(question), limit)
        rows = await self._store.read(lambda connection: connection.execute(query, arguments).fetchall())
        return self._decode([document for (document,) in rows])

    async def related(self, alert: Alert, within_ms: int, limit: int) -> tuple[RelatedAlert, ...]:
        """The latest earlier alerts of the same login session, or of the same process tree, newest last."""
        origin = escape_origin(alert)
        if origin is None:
            return ()
        query = (
            "SELECT document FROM alerts WHERE origin = ? AND id <> ? AND time_ms BETWEEN ? AND ? "
            "ORDER BY time_ms DESC, seq DESC LIMIT ?"
        )
        arguments = (origin, alert.id, max(0, alert.time_ms - within_ms), min(alert.time_ms, (1 << 63) - 1), limit)
        rows = await self._store.read(lambda connection: connection.execute(query, arguments).fetchall())
        return tuple(_as_related(found) for found in reversed(self._decode([document for (document,) in rows])))

    async def find(self, prefix: str, limit: int) -> list[Alert]:
        """Alerts whose id begins so, newest first."""
        query = (
            "SELECT document FROM alerts WHERE seq IN "
            "(SELECT seq FROM alerts WHERE id >= ? AND id < ? ORDER BY seq DESC LIMIT ?) ORDER BY seq DESC"
        )
        text = escape_text(prefix)
        arguments = (text, f"{text}\U0010ffff", limit)
        rows = await self._store.read(lambda connection: connection.execute(query, arguments).fetchall())
        return self._decode([document for (document,) in rows])

    async def find_opinion(self, alert_id: str) -> Label | None:
        """The operator's verdict on this alert."""
        query = "SELECT label FROM opinions WHERE alert_id = ?"
        row = await self._store.read(lambda connection: connection.execute(query, (alert_id,)).fetchone())
        return None if row is None else Label(row[0])

    async def keep_opinion(self, case: Case, lesson: tuple[str, bytes] | None = None) -> None:
        """Keep the operator's verdict on the alert `case.id`, in place of an earlier one, with what was learnt of it.

        `lesson`: who learns, and its state.
        """
        await self._store.write(_keep_opinion, case, lesson, self._clock.now_ms())

    async def load_cases(self, limit: int = CASES) -> tuple[Case, ...]:
        """The operator's verdicts, newest first."""
        query = "SELECT document FROM opinions ORDER BY given_ms DESC, alert_id LIMIT ?"
        rows = await self._store.read(lambda connection: connection.execute(query, (limit,)).fetchall())
        cases = []
        for (document,) in rows:
            try:
                cases.append(msgspec.json.decode(document, type=Case))
            except (msgspec.MsgspecError, UnicodeError) as error:
                _log.warning("a verdict of the operator cannot be read from the database: %s", error)
        return tuple(cases)

    async def count_opinions(self) -> dict[str, int]:
        """How many verdicts of the operator there are, by label."""
        query = "SELECT label, count(*) FROM opinions GROUP BY label ORDER BY label"
        rows = await self._store.read(lambda connection: connection.execute(query).fetchall())
        return dict(rows)

    async def load_lesson(self, learner: str) -> bytes | None:
        """What this learner has kept, None where it has not learnt yet."""
        query = "SELECT state FROM lessons WHERE learner = ?"
        row = await self._store.read(lambda connection: connection.execute(query, (learner,)).fetchone())
        return None if row is None else bytes(row[0])

    def _record(
        self, connection: sqlite3.Connection, ruled: Sequence[RuledAlert], now_ms: int
    ) -> tuple[frozenset[str], int]:
        sending = self._store.sending
        new, promoted = [], 0
        for item in ruled:
            alert_id = item.alert.id
            write_verdict(connection, item.alert)
            promoted += promote(connection, item, now_ms)
            if item.journald_only and may_lower(connection, alert_id):
                call_off(connection, alert_id, JOURNALD, sending, now_ms)
            elif item.alert.state is AlertState.ACTIVE:
                call_off_for(connection, alert_id, item.refused, sending, now_ms)
                add_deliveries(connection, item.alert, item.sinks, now_ms)
            release_now(connection, alert_id, sending, now_ms)
            if item.verdict_update:
                add_verdict_deliveries(connection, alert_id, sending, now_ms)
            new += [extra.alert.id for extra in item.extra if write_alert(connection, extra, now_ms)]
        return frozenset(new), promoted

    def _decode(self, documents: Sequence[bytes]) -> list[Alert]:
        alerts = []
        for document in documents:
            try:
                alerts.append(decode_alert(document))
            except msgspec.DecodeError as error:
                self._counters.add("store_unreadable_alerts_total")
                _log.warning("an alert cannot be read from the database: %s", error)
        return alerts


def _as_related(alert: Alert) -> RelatedAlert:
    process = alert.process
    return RelatedAlert(
        id=alert.id,
        time_ms=alert.time_ms,
        rule_id=alert.rule.id,
        title=alert.rule.title,
        level=alert.level,
        techniques=alert.rule.techniques,
        command=" ".join(process.argv)[:_COMMAND_CHARACTERS] if process is not None else "",
        label=alert.verdict.label if alert.verdict is not None else Label.UNTRIAGED,
    )


def _keep_opinion(connection: sqlite3.Connection, case: Case, lesson: tuple[str, bytes] | None, now_ms: int) -> None:
    connection.execute(
        "INSERT INTO opinions (alert_id, label, note, given_ms, document) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET label = excluded.label, note = excluded.note, given_ms = excluded.given_ms, "
        "document = excluded.document",
        (case.id, case.label.value, escape_text(case.note), now_ms, msgspec.json.encode(case)),
    )
    if lesson is not None:
        connection.execute(
            "INSERT INTO lessons (learner, state, saved_ms) VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET state = excluded.state, saved_ms = excluded.saved_ms",
            (*lesson, now_ms),
        )
