"""A search in the history of alerts: along one index in the order of time, a stretch of it at a time.

So each page of an answer takes a bounded time, however rare what is wanted, and however cold the file is.
"""

# ruff: noqa: S608 -- SQL made of constants of this module

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from watchdogd.entities import AlertState
from watchdogd.errors import AmbiguousNameError, UnknownNameError
from watchdogd.listings import PAGE, AlertsRequest, Cursor
from watchdogd.store.columns import clamp
from watchdogd.store.documents import escape_text
from watchdogd.store.listing import UNFOLDED

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

LEAST_PREFIX = 4
SHOWN = 5
STRETCH = 2_000
"""Rows of the index between two looks at the time."""

_BEFORE = "(way.time_ms, way.seq) < (?, ?)"
_FROM = "(way.time_ms, way.seq) >= (?, ?)"
_ORDER = "ORDER BY way.time_ms DESC, way.seq DESC"
_LAST = Cursor((1 << 63) - 1, (1 << 63) - 1)
_FIRST = Cursor(-(1 << 63), 0)


class Found(NamedTuple):
    """What an id, or the beginning of one, stands for."""

    seq: int
    alert_id: str


class Way(NamedTuple):
    """The index that is walked along, and what is asked of each row."""

    along: str
    """FROM and WHERE of the rows that are walked over."""
    along_values: tuple[str | int, ...]
    join: str
    """What gives `alert`, the row in `listing`, where `way` is another table."""
    conditions: str
    values: tuple[str, ...]
    start: Cursor

    def walk(self, connection: sqlite3.Connection, before: Cursor, limit: int) -> tuple[list[Cursor], Cursor | None]:
        """What is found in the next stretch, and where that ends: None at the end of the index."""
        table, _, where = self.along.partition(" WHERE ")
        place = (before.time_ms, before.seq)
        row = connection.execute(
            f"SELECT way.time_ms, way.seq FROM {self.along} AND {_BEFORE} {_ORDER} LIMIT 1 OFFSET ?",
            (*self.along_values, *place, STRETCH - 1),
        ).fetchone()
        last = _FIRST if row is None else Cursor(*row)
        rows = connection.execute(
            f"SELECT way.time_ms, way.seq FROM {table} {self.join} WHERE {where} AND {_BEFORE} AND {_FROM} "
            f"{self.conditions} {_ORDER} LIMIT ?",
            (*self.along_values, *place, last.time_ms, last.seq, *self.values, limit),
        )
        return [Cursor(*found) for found in rows], None if row is None else last


def find_way(connection: sqlite3.Connection, wanted: AlertsRequest) -> Way:
    """By user; else, without repeats, by rule, verdict, level or state; else by time alone.

    Raises StoreError for a rule or an alert that nobody knows.
    """
    rules = [] if wanted.rule is None else _find_rules(connection, wanted.rule)
    equal: dict[str, str] = {"rule_id": rules[0]} if len(rules) == 1 else {}
    equal.update(_list_values(wanted))
    asked: list[tuple[str, tuple[str, ...]]] = []
    if len(rules) > 1:
        asked.append((f"AND alert.rule_id IN ({', '.join('?' * len(rules))})", tuple(rules)))
    user = None if wanted.user is None else escape_text(wanted.user)
    join, along, along_values = "", "listing AS way INDEXED BY listing_time WHERE true", list[str | int]()
    if user is not None:
        along, along_values = "listing_users AS way WHERE way.name = ?", [user]
        join = "CROSS JOIN listing AS alert ON alert.seq = way.seq"
    elif wanted.state not in {None, AlertState.FOLDED}:
        first = next(iter(equal))
        index = first.removesuffix("_id")
        along = f"listing AS way INDEXED BY listing_{index} WHERE way.{UNFOLDED} AND way.{first} = ?"
        along_values = [equal.pop(first)]
    asked += [(f"AND +alert.{name} = ?", (value,)) for name, value in equal.items()]
    if wanted.since_ms is not None:
        along += " AND way.time_ms >= ?"
        along_values.append(clamp(wanted.since_ms))
    conditions = " ".join(condition for condition, _ in asked)
    return Way(
        along,
        tuple(along_values),
        join,
        conditions if join else conditions.replace("alert.", "way."),
        tuple(value for _, values in asked for value in values),
        _find_start(connection, wanted),
    )


def find_one(connection: sqlite3.Connection, text: str) -> Found:
    """The alert whose id this is, or begins so. Raises StoreError with what to do where that is none or several."""
    prefix = escape_text(text.strip().lower())
    if len(prefix) < LEAST_PREFIX:
        raise UnknownNameError(f"an alert is named by its id, or by at least the first {LEAST_PREFIX} characters of it")
    query = "SELECT seq, id FROM alerts WHERE id >= ? AND id < ? ORDER BY seq DESC LIMIT ?"
    found = [Found(*row) for row in connection.execute(query, (prefix, f"{prefix}\U0010ffff", PAGE))]
    exact = [one for one in found if one.alert_id == prefix]
    if len(found) == 1 or exact:
        return (exact or found)[0]
    if not found:
        raise UnknownNameError(f"no alert has an id that begins with {prefix[:80]}: `watchdogd alerts list` shows them")
    named = ", ".join(one.alert_id[:16] for one in found[:SHOWN])
    raise AmbiguousNameError(
        f"{len(found)} alerts have an id that begins with {prefix[:80]}: {named}{'...' if found[SHOWN:] else ''}"
    )


def _list_values(wanted: AlertsRequest) -> Iterator[tuple[str, str]]:
    """What one value is wanted of, what tells most first."""
    if wanted.verdict is not None:
        yield "verdict", wanted.verdict.value
    if wanted.level is not None:
        yield "level", wanted.level.value
    if wanted.state is not None:
        yield "state", wanted.state.value


def _find_start(connection: sqlite3.Connection, wanted: AlertsRequest) -> Cursor:
    starts = [_LAST]
    if wanted.until_ms is not None:
        starts.append(Cursor(clamp(wanted.until_ms), -1))
    if wanted.before is not None:
        starts.append(wanted.before)
    if wanted.before_id is not None:
        seq = find_one(connection, wanted.before_id).seq
        starts.append(Cursor(*connection.execute("SELECT time_ms, seq FROM listing WHERE seq = ?", (seq,)).fetchone()))
    return min(starts, key=lambda start: (start.time_ms, start.seq))


def _find_rules(connection: sqlite3.Connection, text: str) -> list[str]:
    """Ids of rules by id or title, whatever its case."""
    known = connection.execute("SELECT rule_id, title FROM rule_titles").fetchall()
    wanted = escape_text(text).casefold()
    found = [rule_id for rule_id, title in known if wanted in (rule_id.casefold(), title.casefold())]
    if not found:
        raise UnknownNameError(
            f"no alert in the database is of a rule with the id or title {escape_text(text)[:100]!r}: "
            "`watchdogd rules list` shows all rules"
        )
    return found[:PAGE]
