"""What is written to the database, statement by statement; each function is part of a caller's transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from watchdogd.entities import AlertState, Label, Seen
from watchdogd.errors import StoreError
from watchdogd.sessions import name_origin
from watchdogd.store.batch import Written
from watchdogd.store.columns import INT64_MAX, as_json, clamp
from watchdogd.store.documents import encode_alert, escape_text
from watchdogd.store.groups import add_updates, asks, decide_group, keep_repeats, raise_count

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from watchdogd.entities import Alert, CorrelationRow
    from watchdogd.store.batch import Batch, InstanceHeartbeat, NewAlert, RuledAlert

BASELINE_PATTERNS = 100_000
"""How many patterns the baseline keeps: those seen most recently."""

INSTANCES = 100
"""How many former lives of the daemon are kept."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
Days = tuple[tuple[_Count, _Count], ...]

_UNTRIED = (
    "alert_id = ? AND kind = 'alert' AND state = 'pending' AND attempts = 0 "
    "AND id NOT IN (SELECT value FROM json_each(?))"
)


def write_batch(
    connection: sqlite3.Connection, batch: Batch, now_ms: int, sending: AbstractSet[int] = frozenset()
) -> dict[str, Written]:
    """Write a batch; what became of the alerts that are new, by id."""
    new = {}
    for item in batch.alerts:
        written = write_alert(connection, item, now_ms, sending)
        if written is not None:
            new[item.alert.id] = written
    point = batch.checkpoint
    if point is not None:
        connection.execute(
            "INSERT INTO checkpoints (source, path, file_id, offset, saved_ms) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET path = excluded.path, file_id = excluded.file_id, "
            "offset = excluded.offset, saved_ms = excluded.saved_ms",
            (point.source, escape_text(point.path), point.file_id, point.offset, now_ms),
        )
    if batch.seen:
        _write_baseline(connection, batch.seen, now_ms)
    if batch.heartbeat is not None:
        _write_heartbeat(connection, batch.heartbeat)
    if batch.correlations:
        _write_correlations(connection, batch.correlations)
    return new


def write_alert(
    connection: sqlite3.Connection, item: NewAlert, now_ms: int, sending: AbstractSet[int] = frozenset()
) -> Written | None:
    """Write an alert and whom to tell; None, and nothing written, where it is known already.

    A repeat raises the count of the alert that it repeats, which goes out as an update in time.
    """
    if connection.execute("SELECT 1 FROM alerts WHERE id = ?", (item.alert.id,)).fetchone() is not None:
        return None
    decision = decide_group(connection, item, now_ms)
    alert = decision.apply(item.alert) if item.facts is not None else item.alert
    is_asked = item.triage and asks(connection, item, decision)
    connection.execute(
        "INSERT INTO alerts (id, time_ms, rule_id, level, triage_state, document, question, origin, state, leader, "
        "silence) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            alert.id,
            clamp(alert.time_ms),
            escape_text(alert.rule.id),
            alert.level.value,
            "pending" if is_asked else "none",
            encode_alert(alert),
            escape_text(item.question),
            escape_origin(alert),
            alert.state.value,
            alert.leader,
            alert.silence,
        ),
    )
    if alert.state is AlertState.ACTIVE:
        due_ms = max(item.due_ms, now_ms + item.hold_ms) if item.hold_ms else item.due_ms
        connection.executemany(
            "INSERT INTO deliveries (alert_id, sink, kind, due_ms, created_ms, rank, queue, hold_ms) "
            "VALUES (?, ?, 'alert', ?, ?, ?, ?, ?)",
            [
                (alert.id, sink, due_ms, now_ms, alert.level.rank, name_queue(alert), item.hold_ms)
                for sink in item.sinks
            ],
        )
    elif alert.state is AlertState.FOLDED and alert.leader is not None and item.facts is not None:
        raise_count(connection, alert.leader, alert)
        add_updates(connection, alert.leader, sending, now_ms, item.facts.interval_ms)
    return Written(alert.state, is_asked)


def promote(connection: sqlite3.Connection, item: RuledAlert, now_ms: int) -> bool:
    """Tell an alert that was folded after all, where its verdict is more than a repeat's: malicious, or a higher level.

    It stays counted where it was.
    """
    alert = item.alert
    is_worse = alert.level.rank > alert.rule.level.rank
    is_malicious = alert.verdict is not None and alert.verdict.label is Label.MALICIOUS
    if alert.state is not AlertState.FOLDED or not (is_worse or is_malicious):
        return False
    told = msgspec.structs.replace(alert, state=AlertState.ACTIVE)
    connection.execute("UPDATE alerts SET state = 'active', document = ? WHERE id = ?", (encode_alert(told), alert.id))
    connection.executemany(
        "INSERT INTO deliveries (alert_id, sink, kind, due_ms, created_ms, rank, queue) "
        "VALUES (?, ?, 'alert', ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        [(alert.id, sink, now_ms, now_ms, alert.level.rank, name_queue(alert)) for sink in item.sinks],
    )
    return True


def name_queue(alert: Alert) -> str:
    """What is sent in order: alerts of one group and level. A worse one waits for none of its group."""
    return escape_text(f"{alert.level.rank}|{alert.group_key}")


def escape_origin(alert: Alert) -> str | None:
    """The session that an alert belongs to, as the database can hold it."""
    origin = name_origin(alert)
    return None if origin is None else escape_text(origin)


def write_verdict(connection: sqlite3.Connection, alert: Alert) -> None:
    """Give an alert its verdict; what repeats have told of it meanwhile stays. Raises StoreError: it is not there."""
    row = connection.execute("SELECT document FROM alerts WHERE id = ?", (alert.id,)).fetchone()
    if row is None:
        raise StoreError(f"alert {alert.id} is not in the database: its verdict cannot be kept")
    connection.execute(
        "UPDATE alerts SET document = ?, level = ?, triage_state = 'done' WHERE id = ?",
        (encode_alert(keep_repeats(alert, row[0])), alert.level.value, alert.id),
    )


def _write_baseline(connection: sqlite3.Connection, seen: dict[str, Seen], now_ms: int) -> None:
    for pattern, more in seen.items():
        name = escape_text(pattern)
        query = "SELECT seen, first_seen_ms, days, days_from FROM baseline WHERE pattern = ?"
        row = connection.execute(query, (name,)).fetchone()
        total = more if row is None else decode_seen(*row).plus(more)
        days = msgspec.json.encode(total.days).decode()
        connection.execute(
            "INSERT INTO baseline (pattern, seen, first_seen_ms, last_seen_ms, days, days_from) "
            "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET seen = excluded.seen, "
            "first_seen_ms = excluded.first_seen_ms, last_seen_ms = excluded.last_seen_ms, days = excluded.days",
            (
                name,
                total.count,
                clamp(total.first_ms),
                now_ms,
                days,
                total.days_from,
            ),
        )


def decode_seen(count: int, first_ms: int, days: str | bytes, days_from: int) -> Seen:
    """A row of the baseline. Days that cannot be read say nothing, for good."""
    try:
        return Seen(count, first_ms, msgspec.json.decode(days, type=Days), days_from)
    except (msgspec.MsgspecError, UnicodeError):
        return Seen(count, first_ms, (), INT64_MAX)


def _write_heartbeat(connection: sqlite3.Connection, beat: InstanceHeartbeat) -> None:
    connection.execute(
        "INSERT INTO instances (boot_id, pid, start_ms, last_ms) VALUES (?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET last_ms = max(last_ms, excluded.last_ms)",
        (beat.boot_id, beat.pid, beat.start_ms, beat.last_ms),
    )


def _write_correlations(connection: sqlite3.Connection, rows: Sequence[CorrelationRow]) -> None:
    """In order: a group may be gone and there again."""
    for row in rows:
        identity = (row.rule_id, row.digest, escape_text(row.group_key))
        if row.state is None:
            connection.execute("DELETE FROM correlations WHERE rule_id = ? AND digest = ? AND group_key = ?", identity)
        else:
            connection.execute(
                "INSERT INTO correlations (rule_id, digest, group_key, state, updated_ms) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET state = excluded.state, updated_ms = excluded.updated_ms",
                (*identity, row.state, clamp(row.updated_ms)),
            )


def prune(connection: sqlite3.Connection) -> None:
    """Keep the baseline and the list of former lives within their bounds."""
    connection.execute(
        "DELETE FROM baseline WHERE pattern IN "
        "(SELECT pattern FROM baseline ORDER BY last_seen_ms DESC LIMIT -1 OFFSET ?)",
        (BASELINE_PATTERNS,),
    )
    connection.execute(
        "DELETE FROM instances WHERE (boot_id, pid, start_ms) IN "
        "(SELECT boot_id, pid, start_ms FROM instances ORDER BY last_ms DESC LIMIT -1 OFFSET ?)",
        (INSTANCES,),
    )


def call_off(
    connection: sqlite3.Connection, alert_id: str, kept_sink: str, sending: AbstractSet[int], now_ms: int
) -> None:
    """End the deliveries of an alert that no sink but `kept_sink` has been tried with."""
    connection.execute(
        f"UPDATE deliveries SET state = 'routed', ended_ms = ? WHERE {_UNTRIED} AND sink <> ?",  # noqa: S608 - a constant
        (now_ms, alert_id, as_json(sending), kept_sink),
    )


def release_now(connection: sqlite3.Connection, alert_id: str, sending: AbstractSet[int], now_ms: int) -> None:
    """Make the deliveries of an alert that no sink has been tried with due now."""
    connection.execute(
        f"UPDATE deliveries SET due_ms = min(due_ms, max(?, created_ms + hold_ms)) WHERE {_UNTRIED}",  # noqa: S608
        (now_ms, alert_id, as_json(sending)),
    )


def add_verdict_deliveries(
    connection: sqlite3.Connection, alert_id: str, sending: AbstractSet[int], now_ms: int
) -> None:
    """Tell the verdict to each sink that has the alert or is being sent it, once."""
    connection.execute(
        "INSERT INTO deliveries (alert_id, sink, kind, due_ms, created_ms, rank, queue) "
        "SELECT alert_id, sink, 'verdict', ?, ?, rank, queue FROM deliveries WHERE alert_id = ? AND kind = 'alert' "
        "AND (state = 'delivered' OR id IN (SELECT value FROM json_each(?))) ON CONFLICT DO NOTHING",
        (now_ms, now_ms, alert_id, as_json(sending)),
    )
