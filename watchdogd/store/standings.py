"""Exam results of models in the database, and a look at it from another process while the daemon has it."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from watchdogd.background import Standing
from watchdogd.errors import StoreError
from watchdogd.store.connection import BUSY_S, explain
from watchdogd.store.documents import decode_alert

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from watchdogd.entities import Alert
    from watchdogd.store.database import Store

KEPT = 200
"""Exams kept, the newest: each new model or prompt makes one more."""


async def save_standing(store: Store, standing: Standing) -> None:
    """Keep an exam's result; it replaces the earlier one of the same bytes and prompt. Raises StoreError."""

    def work(connection: sqlite3.Connection) -> None:
        row = (standing.digest, standing.prompt_version, msgspec.json.encode(standing), standing.examined_ms)
        connection.execute("INSERT OR REPLACE INTO standings VALUES (?, ?, ?, ?)", row)
        connection.execute(
            "DELETE FROM standings WHERE examined_ms < "
            "(SELECT examined_ms FROM standings ORDER BY examined_ms DESC LIMIT 1 OFFSET ?)",
            (KEPT - 1,),
        )

    await store.write(work)


async def load_standings(store: Store) -> list[Standing]:
    """Every exam's result, newest first. Raises StoreError."""
    return await store.read(_select_standings)


def look_up_standings(path: Path) -> list[Standing]:
    """The same from the file alone, changing nothing; empty where there is no database. Raises StoreError."""
    with _look(path) as connection:
        return [] if connection is None else _select_standings(connection)


def look_up_opinions(path: Path) -> list[tuple[str, Alert]]:
    """What the operator said of alerts (label, alert), newest first. Raises StoreError."""
    query = (
        "SELECT opinions.label, alerts.document FROM opinions JOIN alerts ON alerts.id = opinions.alert_id "
        "ORDER BY opinions.given_ms DESC LIMIT 1000"
    )
    with _look(path) as connection:
        found = [] if connection is None else connection.execute(query).fetchall()
    opinions = []
    for label, document in found:
        with contextlib.suppress(msgspec.DecodeError):
            opinions.append((label, decode_alert(document)))
    return opinions


def _select_standings(connection: sqlite3.Connection) -> list[Standing]:
    """Those that can be read: what a newer watchdogd wrote says nothing."""
    found = connection.execute("SELECT document FROM standings ORDER BY examined_ms DESC").fetchall()
    standings = []
    for (document,) in found:
        with contextlib.suppress(msgspec.DecodeError):
            standings.append(msgspec.json.decode(document, type=Standing))
    return standings


@contextlib.contextmanager
def _look(path: Path) -> Iterator[sqlite3.Connection | None]:
    """The database, for reading alone; None where there is none, or one from before these tables. Raises StoreError."""
    try:
        if not path.exists():
            yield None
            return
    except PermissionError as error:
        raise StoreError(f"{path}: cannot be read: run this with sudo") from error
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=BUSY_S)
        ) as connection:
            query = "SELECT count(*) FROM sqlite_master WHERE name IN ('standings', 'opinions')"
            (tables,) = connection.execute(query).fetchone()
            yield connection if tables == 2 else None  # noqa: PLR2004 - both of them
    except sqlite3.Error as error:
        raise StoreError(explain(path, error)) from error
