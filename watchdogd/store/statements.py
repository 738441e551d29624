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
from watchdogd.store.file_baseline import write_files
from watchdogd.store.groups import add_updates, asks, decide_group, keep_repeats, may_lower, raise_count
from watchdogd.store.norms import write_norms

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence
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
    for point in (batch.checkpoint, *batch.checkpoints_beside):
        if point is None:
            continue
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
    if batch.health is not None:
        connection.execute("INSERT OR REPLACE INTO health VALUES (1, ?, ?)", (batch.health, now_ms))
    if batch.files:
        write_files(connection, batch.files)
    write_norms(connection, batch.norms, now_ms)
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
        if item.told:
            mark_told(connection, {alert.id: item.told}, sending, now_ms)
    elif alert.state is AlertState.FOLDED and alert.leader is not None and item.facts is not None:
        raise_count(connection, alert.leader, alert)
        add_updates(connection, alert.leader, sending, now_ms, item.facts.interval_ms)
    return Written(alert.state, is_asked)


def mark_told(
    connection: sqlite3.Connection, told: Mapping[str, Sequence[str]], sending: AbstractSet[int], now_ms: int
) -> None:
    """By alert, the sinks that took it before it was stored: they are not sent it again."""
    update = (
        "UPDATE deliveries SET state = 'delivered', attempts = 1, ended_ms = ? "  # noqa: S608 - a constant
        f"WHERE {_UNTRIED} AND sink IN (SELECT value FROM json_each(?))"
    )
    for alert_id, sinks in told.items():
        connection.execute(update, (now_ms, alert_id, as_json(sending), as_json(sinks)))


def promote(connection: sqlite3.Connection, item: RuledAlert, now_ms: int) -> bool:
    """Tell an alert that was folded after all, where its verdict is more than a repeat's: malicious, or a higher level.

    Else tell those who want its verdict and do not have the alert that it repeats. It stays counted where it was.
    """
    alert = item.alert
    if alert.state is not AlertState.FOLDED:
        return False
    is_worse = alert.level.rank > alert.rule.level.rank
    is_malicious = alert.verdict is not None and alert.verdict.label is Label.MALICIOUS
    sinks = item.sinks
    if not (is_worse or is_malicious):
        query = "SELECT sink FROM deliveries WHERE alert_id = ? AND kind = 'alert' AND state <> 'routed'"
        heard = {sink for (sink,) in connection.execute(query, (alert.leader,))}
        sinks = () if item.journald_only else tuple(sink for sink in sinks if sink not in heard)
    if not sinks:
        return False
    told = msgspec.structs.replace(alert, state=AlertState.ACTIVE)
    connection.execute("UPDATE alerts SET state = 'active', document = ? WHERE id = ?", (encode_alert(told), alert.id))
    add_deliveries(connection, alert, sinks, now_ms)
    return True


def add_deliveries(connection: sqlite3.Connection, alert: Alert, sinks: Sequence[str], now_ms: int) -> None:
    """Tell an alert to those of the sinks that it was not for so far, or was called off for.

    At once, or when those that it was for already have waited for repeats.
    """
    connection.executemany(
        "INSERT INTO deliveries (alert_id, sink, kind, due_ms, created_ms, rank, queue, hold_ms) "
        "SELECT :id, :sink, 'alert', :now + wait_ms, :now, :rank, :queue, wait_ms FROM (SELECT max(0, coalesce("
        "(SELECT max(created_ms + hold_ms) FROM deliveries WHERE alert_id = :id AND kind = 'alert'), 0) - :now) "
        "AS wait_ms) WHERE true "
        "ON CONFLICT DO UPDATE SET state = 'pending', due_ms = excluded.due_ms, created_ms = excluded.created_ms, "
        "rank = excluded.rank, queue = excluded.queue, hold_ms = excluded.hold_ms, ended_ms = NULL "
        "WHERE state = 'routed'",
        [
            {"id": alert.id, "sink": sink, "now": now_ms, "rank": alert.level.rank, "queue": name_queue(alert)}
            for sink in sinks
        ],
    )


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


def call_off_for(
    connection: sqlite3.Connection, alert_id: str, sinks: Sequence[str], sending: AbstractSet[int], now_ms: int
) -> None:
    """End the deliveries of an alert to these sinks that have not been tried with it, where it may be kept from them.

    It may not where repeats count to it that ask something else.
    """
    wanted = f"{_UNTRIED} AND sink IN (SELECT value FROM json_each(?))"  # noqa: S608 - constants
    arguments = (alert_id, as_json(sending), as_json(sinks))
    row = connection.execute(f"SELECT 1 FROM deliveries WHERE {wanted} LIMIT 1", arguments).fetchone()  # noqa: S608
    if row is not None and may_lower(connection, alert_id):
        update = f"UPDATE deliveries SET state = 'routed', ended_ms = ? WHERE {wanted}"  # noqa: S608 - as above
        connection.execute(update, (now_ms, *arguments))


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
