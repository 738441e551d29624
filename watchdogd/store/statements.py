"""What is written to the database, statement by statement; each function is part of a caller's transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from watchdogd.entities import Seen
from watchdogd.errors import StoreError
from watchdogd.sessions import name_origin
from watchdogd.store.documents import encode_alert, escape_text

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from watchdogd.entities import Alert, CorrelationRow
    from watchdogd.store.batch import Batch, InstanceHeartbeat, NewAlert

BASELINE_PATTERNS = 100_000
"""How many patterns the baseline keeps: those seen most recently."""

INSTANCES = 100
"""How many former lives of the daemon are kept."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
Days = tuple[tuple[_Count, _Count], ...]

_INT64_MAX = (1 << 63) - 1
_UNTRIED = (
    "alert_id = ? AND kind = 'alert' AND state = 'pending' AND attempts = 0 "
    "AND id NOT IN (SELECT value FROM json_each(?))"
)


def clamp(number: int) -> int:
    """The nearest number that a column holds: a garbled time in a log must not stop a commit."""
    return max(-_INT64_MAX, min(_INT64_MAX, number))


def as_json(values: AbstractSet[int] | AbstractSet[str]) -> str:
    """A set as `json_each` takes it: SQL has no lists."""
    return msgspec.json.encode(list(values)).decode()


def write_batch(connection: sqlite3.Connection, batch: Batch, now_ms: int) -> frozenset[str]:
    """Write a batch; the ids of the alerts that are new."""
    new = frozenset([item.alert.id for item in batch.alerts if write_alert(connection, item, now_ms)])
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


def write_alert(connection: sqlite3.Connection, item: NewAlert, now_ms: int) -> bool:
    """Write an alert and whom to tell; False, and nothing written, where it is known already."""
    alert = item.alert
    state = "pending" if item.triage else "none"
    cursor = connection.execute(
        "INSERT INTO alerts (id, time_ms, rule_id, level, triage_state, document, question, origin, state, leader, "
        "silence) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
        (
            alert.id,
            clamp(alert.time_ms),
            escape_text(alert.rule.id),
            alert.level.value,
            state,
            encode_alert(alert),
            escape_text(item.question),
            escape_origin(alert),
            alert.state.value,
            alert.leader,
            alert.silence,
        ),
    )
    if cursor.rowcount != 1:
        return False
    connection.executemany(
        "INSERT INTO deliveries (alert_id, sink, kind, due_ms, created_ms, rank, queue) "
        "VALUES (?, ?, 'alert', ?, ?, ?, ?)",
        [(alert.id, sink, item.due_ms, now_ms, alert.level.rank, name_queue(alert)) for sink in item.sinks],
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
    """Replace an alert by itself with a verdict. Raises StoreError where it is not there."""
    cursor = connection.execute(
        "UPDATE alerts SET document = ?, level = ?, triage_state = 'done' WHERE id = ?",
        (encode_alert(alert), alert.level.value, alert.id),
    )
    if cursor.rowcount != 1:
        raise StoreError(f"alert {alert.id} is not in the database: its verdict cannot be kept")


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
        return Seen(count, first_ms, (), _INT64_MAX)


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
        f"UPDATE deliveries SET due_ms = min(due_ms, ?) WHERE {_UNTRIED}",  # noqa: S608 - a constant
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
