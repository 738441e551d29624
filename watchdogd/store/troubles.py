"""What is kept of sinks that fail: until when they are left alone, since when they fail, what was given up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watchdogd.entities import GivenUp, SinkTrouble
from watchdogd.store.columns import clamp

if TYPE_CHECKING:
    import sqlite3

TELL_AGAIN_MS = 3_600_000
"""A sink that takes some and refuses others is told of once in so long."""

_FAIL = (
    "INSERT INTO troubles (sink, paused_until_ms, down_since_ms) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET "
    "paused_until_ms = excluded.paused_until_ms, down_since_ms = coalesce(down_since_ms, excluded.down_since_ms)"
)
_GIVE_UP = (
    "INSERT INTO troubles (sink, gave_up_ms, given_up, error) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET "
    "gave_up_ms = CASE WHEN gave_up_ms IS NULL AND abs(?2 - coalesce(told_ms, ?2 - ?5)) >= ?5 "
    "THEN ?2 ELSE gave_up_ms END, given_up = given_up + ?3, error = ?4"
)
_END = (
    "UPDATE troubles SET paused_until_ms = 0, down_since_ms = NULL, given_up = 0, "
    "gave_up_ms = CASE WHEN told_ms >= gave_up_ms THEN NULL ELSE gave_up_ms END WHERE sink = ?"
)
_UNTOLD = (
    "SELECT sink, gave_up_ms, given_up, error FROM troubles "
    "WHERE gave_up_ms IS NOT NULL AND (told_ms IS NULL OR told_ms < gave_up_ms) ORDER BY gave_up_ms, sink"
)


def note_failure(connection: sqlite3.Connection, sink: str, paused_until_ms: int, now_ms: int) -> None:
    """A sink failed and is left alone until then; it fails since now, or since what is known."""
    connection.execute(_FAIL, (sink, clamp(paused_until_ms), now_ms))


def note_given_up(connection: sqlite3.Connection, sink: str, count: int, error: str, now_ms: int) -> None:
    """So many deliveries were given up: to be told, if nothing was told since the sink last worked, or lately."""
    connection.execute(_GIVE_UP, (sink, now_ms, count, error, TELL_AGAIN_MS))


def end_trouble(connection: sqlite3.Connection, sink: str) -> None:
    """The sink works. What was given up and not told yet is still to be told."""
    connection.execute(_END, (sink,))


def load_troubles(connection: sqlite3.Connection) -> list[SinkTrouble]:
    """Everything known of sinks that fail or have failed."""
    rows = connection.execute("SELECT sink, paused_until_ms, down_since_ms, gave_up_ms FROM troubles ORDER BY sink")
    return [SinkTrouble(*row) for row in rows]


def find_untold(connection: sqlite3.Connection) -> list[GivenUp]:
    """What was given up and nobody was told of."""
    return [GivenUp(*row) for row in connection.execute(_UNTOLD)]


def note_told(connection: sqlite3.Connection, given_up: GivenUp) -> None:
    """Somebody was told: an alert about it is being committed."""
    query = "UPDATE troubles SET told_ms = max(coalesce(told_ms, 0), ?) WHERE sink = ?"
    connection.execute(query, (given_up.since_ms, given_up.sink))
