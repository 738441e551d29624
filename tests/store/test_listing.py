"""The listing and its counts follow the alerts, whoever writes them."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from watchdogd.entities import AlertState, Label, Level, Process, ProcessKey, Rule
from watchdogd.store.database import Batch, NewAlert, Store
from watchdogd.store.schema import MIGRATIONS
from watchdogd.store.verdicts import Verdicts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from watchdogd.entities import Alert, Verdict
    from watchdogd.ports import Clock
    from watchdogd.telemetry import Counters

    MakeAlert = Callable[..., Alert]

PROCESS = Process(
    ProcessKey("", 7, 1), 7, 1, "/bin/cat", "cat", ("cat",), "/", 33, None, 1000, "alice", None, None
)  # fmt: skip
BEFORE_LISTING = 5
"""Migrations before the listing's."""


def new(*alerts: Alert) -> Batch:
    return Batch(alerts=tuple(NewAlert(alert, ("journald",), 0, triage=False) for alert in alerts))


async def select(store: Store, query: str) -> list[tuple[Any, ...]]:
    return await store.read(lambda connection: connection.execute(query).fetchall())


async def test_each_alert_has_a_row_that_follows_it(
    store: Store, counters: Counters, clock: Clock, alert: MakeAlert, verdict: Verdict
) -> None:
    await store.commit(new(alert("a", process=PROCESS, time_ms=5), alert("b", state=AlertState.SILENCED, silence="s1")))
    rows = "SELECT time_ms, state, level, verdict, rule_id, user, login FROM listing ORDER BY seq"
    assert await select(store, rows) == [
        (5, "active", "high", "untriaged", "r1", "33", "alice"),
        (1, "silenced", "high", "untriaged", "r1", None, None),
    ]
    judged = replace(alert("a", process=PROCESS), verdict=verdict, level=Level.CRITICAL)
    await store.record_verdict(judged, release=True, journald_only=False, verdict_update=False)
    assert (await select(store, rows))[0] == (5, "active", "critical", Label.SUSPICIOUS, "r1", "33", "alice")
    await store.write(lambda connection: connection.execute("UPDATE alerts SET state = 'folded' WHERE id = 'a'"))
    assert (await select(store, rows))[0][1] == "folded"
    assert await Verdicts(store, counters, clock).find("a", 2) == [judged]


async def test_counts_follow_the_alerts(store: Store, alert: MakeAlert) -> None:
    tallies = "SELECT name, count FROM tallies WHERE count <> 0 AND name GLOB 's*.*' ORDER BY name"
    silenced = alert("c", state=AlertState.SILENCED, silence="s1")
    await store.commit(new(alert("a"), alert("b"), silenced))
    await store.commit(new(alert("a"), silenced))  # read again after a crash
    assert await select(store, tallies) == [("silence.s1", 1), ("state.active", 2), ("state.silenced", 1)]
    await store.write(lambda connection: connection.execute("UPDATE alerts SET state = 'folded' WHERE id = 'a'"))
    assert await select(store, tallies) == [
        ("silence.s1", 1),
        ("state.active", 1),
        ("state.folded", 1),
        ("state.silenced", 1),
    ]

    def delete(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM deliveries")
        connection.execute("DELETE FROM alerts WHERE id <> 'b'")

    await store.write(delete)
    assert await select(store, tallies) == [("silence.s1", 1), ("state.active", 1)]
    assert await select(store, "SELECT count(*) FROM listing") == [(1,)]


async def test_who_ran_it_is_known_as_long_as_the_alert_is(store: Store, alert: MakeAlert) -> None:
    users = "SELECT name, seq FROM listing_users ORDER BY seq, name"
    folded = alert("b", process=PROCESS, state=AlertState.FOLDED, leader="a")
    await store.commit(new(alert("a", process=PROCESS), folded, alert("c")))
    assert await select(store, users) == [("33", 1), ("alice", 1), ("33", 2), ("alice", 2)]

    def delete(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM deliveries")
        connection.execute("DELETE FROM alerts WHERE id = 'a'")

    await store.write(delete)
    assert await select(store, users) == [("33", 2), ("alice", 2)]


async def test_the_newest_title_of_a_rule_counts(store: Store, alert: MakeAlert) -> None:
    await store.commit(new(alert("a"), alert("b", rule=Rule(id="r2", title="Other", level=Level.LOW))))
    await store.commit(new(alert("c", rule=Rule(id="r1", title="Renamed", level=Level.HIGH))))
    assert await select(store, "SELECT * FROM rule_titles") == [("r1", "Renamed"), ("r2", "Other")]


async def test_alerts_that_cannot_be_read_are_listed_too(store: Store) -> None:
    def insert(connection: sqlite3.Connection) -> None:
        for name, document in {"x": b"\xff{", "y": b"[]", "z": ""}.items():
            connection.execute(
                "INSERT INTO alerts (id, time_ms, rule_id, level, triage_state, document) "
                "VALUES (?, 1, 'r', 'low', 'none', ?)",
                (name, document),
            )
        connection.execute("UPDATE alerts SET document = 'broken', triage_state = 'done' WHERE id = 'x'")

    await store.write(insert)
    assert await select(store, "SELECT verdict, user FROM listing") == [("untriaged", None)] * 3


async def test_alerts_from_before_the_listing_are_in_it(
    path: Path, counters: Counters, clock: Clock, alert: MakeAlert
) -> None:
    path.parent.mkdir(parents=True)
    connection = sqlite3.connect(path)
    for migration in MIGRATIONS[:BEFORE_LISTING]:
        for statement in migration:
            connection.execute(statement)
    for name, document in {"a": '{"rule": {"title": "T"}, "process": {"user": "bob"}}', "b": "\x00", "c": "{}"}.items():
        connection.execute(
            "INSERT INTO alerts (id, time_ms, rule_id, level, triage_state, document, state, silence) "
            "VALUES (?, 1, ?, 'low', 'none', ?, ?, ?)",
            (name, f"rule {name}", document, "silenced" if name == "c" else "active", "s" if name == "c" else None),
        )
    connection.execute(f"PRAGMA user_version = {BEFORE_LISTING}")
    connection.commit()
    connection.close()
    store = await Store.open(path, counters, clock)
    await store.commit(new(alert("d")))
    assert await select(store, "SELECT user FROM listing ORDER BY seq") == [("bob",), (None,), (None,), (None,)]
    tallies = [("silence.s", 1), ("state.active", 3), ("state.silenced", 1)]
    assert await select(store, "SELECT * FROM tallies WHERE name GLOB 's*.*' ORDER BY name") == tallies
    titles = [("r1", "Shadow read"), ("rule a", "T"), ("rule b", ""), ("rule c", "")]
    assert await select(store, "SELECT * FROM rule_titles ORDER BY rule_id") == titles
    assert await select(store, "PRAGMA auto_vacuum") == [(2,)]  # the file of an older watchdogd can shrink now
    await store.close()
