"""Groups and inhibitors as the database keeps them; each function is part of a caller's transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from watchdogd.entities import AlertState
from watchdogd.grouping import ACTIVE, KEPT_INHIBITORS, Group, Inhibitor, count_repeat, decide, lead, list_inhibitors
from watchdogd.store.columns import as_json, clamp
from watchdogd.store.documents import decode_alert, encode_alert

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from watchdogd.entities import Alert
    from watchdogd.grouping import Decision, Facts
    from watchdogd.store.batch import NewAlert

KEPT_MS = 7 * 86_400_000
"""How long after its end (in the log's time) a group is remembered (by the clock): a log may be read late."""

_FORGOTTEN_AT_ONCE = 4


def decide_group(connection: sqlite3.Connection, item: NewAlert, now_ms: int) -> Decision:
    """What becomes of a new alert; what follows from it for later ones is written."""
    facts, alert = item.facts, item.alert
    if facts is None:
        return ACTIVE
    group = _load_group(connection, facts)
    inhibitors = [one for key in facts.watched for one in _load_inhibitors(connection, key, item.sinks)]
    decision = decide(facts, item.sinks, group, inhibitors)
    if decision.state is AlertState.ACTIVE:
        _keep_group(connection, facts, lead(alert, facts, item.sinks))
        _forget_old(connection, now_ms)
    for key, one in list_inhibitors(alert, facts, decision, group):
        connection.execute(
            "INSERT INTO inhibitors (key, alert_id, rank, from_ms, until_ms) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET from_ms = min(from_ms, excluded.from_ms), "
            "until_ms = max(until_ms, excluded.until_ms)",
            (key, one.alert_id, one.rank, clamp(one.from_ms), clamp(one.until_ms)),
        )
    return decision


def asks(connection: sqlite3.Connection, item: NewAlert, decision: Decision) -> bool:
    """Whether triage is to be asked about it: it is told, or it repeats an alert and asks what that one did not."""
    if decision.state is AlertState.ACTIVE:
        return True
    if decision.state is not AlertState.FOLDED:
        return False
    query = "SELECT 1 FROM alerts WHERE id = ? AND question = ?"
    return connection.execute(query, (decision.leader, item.question)).fetchone() is None


def _load_group(connection: sqlite3.Connection, facts: Facts) -> Group | None:
    """None, too, where the leader is not in the database any more."""
    row = connection.execute(
        "SELECT leader, rank, start_ms, question, sinks, lowered FROM groups WHERE key = ? "
        "AND EXISTS (SELECT 1 FROM alerts WHERE alerts.id = groups.leader)",
        (facts.key,),
    ).fetchone()
    if row is None:
        return None
    leader, rank, start_ms, question, sinks, lowered = row
    return Group(leader, rank, start_ms, question, tuple(msgspec.json.decode(sinks)), bool(lowered))


def _load_inhibitors(connection: sqlite3.Connection, key: str, sinks: Sequence[str]) -> list[Inhibitor]:
    """Those that all of these sinks have, or are to have."""
    query = (
        "SELECT alert_id, rank, from_ms, until_ms FROM inhibitors AS i WHERE key = ? AND NOT EXISTS "
        "(SELECT 1 FROM json_each(?) AS s WHERE s.value NOT IN (SELECT sink FROM deliveries AS d "
        "WHERE d.alert_id = i.alert_id AND d.kind = 'alert' AND d.state NOT IN ('routed', 'dropped'))) "
        "ORDER BY until_ms DESC LIMIT ?"
    )
    return [Inhibitor(*row) for row in connection.execute(query, (key, as_json(sinks), KEPT_INHIBITORS))]


def _keep_group(connection: sqlite3.Connection, facts: Facts, group: Group) -> None:
    until_ms = clamp(group.start_ms + facts.repeat_ms)
    connection.execute(
        "INSERT OR REPLACE INTO groups (key, leader, rank, start_ms, until_ms, question, sinks) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (facts.key, group.leader, group.rank, clamp(group.start_ms), until_ms, group.question, as_json(group.sinks)),
    )


def _forget_old(connection: sqlite3.Connection, now_ms: int) -> None:
    """A few of those that are long over: with each that begins, so that there are never many."""
    for table, key in (("groups", "key"), ("inhibitors", "key, alert_id")):
        connection.execute(
            f"DELETE FROM {table} WHERE ({key}) IN "  # noqa: S608 - constants
            f"(SELECT {key} FROM {table} WHERE until_ms < ? ORDER BY until_ms LIMIT ?)",
            (now_ms - KEPT_MS, _FORGOTTEN_AT_ONCE),
        )


def raise_count(connection: sqlite3.Connection, leader_id: str, repeat: Alert) -> None:
    """Count a repeat to the alert that it repeats. One that cannot be read stays as it is: sending it says so."""
    (document,) = connection.execute("SELECT document FROM alerts WHERE id = ?", (leader_id,)).fetchone()
    try:
        leader = decode_alert(document)
    except msgspec.DecodeError:
        return
    counted = encode_alert(count_repeat(leader, repeat))
    connection.execute("UPDATE alerts SET document = ? WHERE id = ?", (counted, leader_id))


def add_updates(
    connection: sqlite3.Connection, leader_id: str, sending: AbstractSet[int], now_ms: int, interval_ms: int
) -> None:
    """Tell each sink that has the alert, or is being sent it, that it came again: at most once an interval.

    Sinks that are still to be sent the alert, or an earlier update, see the new count there. What was sent later than
    now (the clock was set back since) counts as sent now.
    """
    connection.execute(
        "INSERT INTO deliveries (alert_id, sink, kind, due_ms, created_ms, rank, queue, number) "
        "SELECT alert_id, sink, 'update', max(:now, :interval + min(:now, coalesce((SELECT max(t.ended_ms) "
        "FROM deliveries AS t WHERE t.alert_id = d.alert_id AND t.sink = d.sink AND t.kind <> 'verdict'), :now))), "
        ":now, rank, queue, 1 "
        "FROM deliveries AS d WHERE alert_id = :id AND kind = 'alert' "
        "AND (state = 'delivered' OR id IN (SELECT value FROM json_each(:sending))) "
        "ON CONFLICT DO UPDATE SET due_ms = excluded.due_ms, created_ms = excluded.created_ms, state = 'pending', "
        "attempts = 0, next_try_ms = 0, number = number + 1, ended_ms = NULL, last_error = NULL "
        "WHERE state <> 'pending' OR id IN (SELECT value FROM json_each(:sending))",
        {"id": leader_id, "now": now_ms, "interval": interval_ms, "sending": as_json(sending)},
    )


def keep_repeats(ruled: Alert, document: bytes) -> Alert:
    """The alert with its verdict, and what the database's own document has learnt of repeats since it was read."""
    try:
        known = decode_alert(document)
    except msgspec.DecodeError:
        return ruled
    return msgspec.structs.replace(
        ruled,
        count=known.count,
        first_seen_ms=known.first_seen_ms,
        last_seen_ms=known.last_seen_ms,
        events=known.events,
        state=known.state,
        leader=known.leader,
        silence=known.silence,
    )


def may_lower(connection: sqlite3.Connection, alert_id: str) -> bool:
    """Whether an alert may be kept in the journal: not where repeats count to it that ask something else.

    Where it may, nothing that asks something else will count to it from now on, and it inhibits nothing.
    """
    row = connection.execute(
        "SELECT 1 FROM alerts AS own JOIN alerts AS other ON other.leader = own.id AND other.state = 'folded' "
        "AND other.question <> own.question WHERE own.id = ? LIMIT 1",
        (alert_id,),
    ).fetchone()
    if row is not None:
        return False
    connection.execute("UPDATE groups SET lowered = 1 WHERE leader = ?", (alert_id,))
    connection.execute("DELETE FROM inhibitors WHERE alert_id = ?", (alert_id,))
    return True
