"""Silences as the database keeps them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

from watchdogd.silences import MatcherError, Silence, decode_matchers, encode_matchers
from watchdogd.store.documents import escape_text

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator

    from watchdogd.store.database import Store

KEPT = 1_000
"""Ended silences that are kept, the newest."""

_COLUMNS = "id, matchers, created_ms, starts_ms, until_ms, reason, author, ended_ms"
_log = logging.getLogger("watchdogd.store")


async def add_silence(store: Store, silence: Silence) -> None:
    """Keep a new one; of those that have ended the oldest make room. Raises StoreError."""

    def work(connection: sqlite3.Connection) -> None:
        connection.execute(
            f"INSERT INTO silences ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - a constant
            (
                silence.id,
                encode_matchers(silence.matchers),
                silence.created_ms,
                silence.starts_ms,
                silence.until_ms,
                escape_text(silence.reason),
                escape_text(silence.author),
                silence.ended_ms,
            ),
        )
        ended = "min(until_ms, coalesce(ended_ms, until_ms))"
        connection.execute(
            f"DELETE FROM silences WHERE id IN (SELECT id FROM silences WHERE {ended} < ? "  # noqa: S608 - a constant
            f"ORDER BY {ended} DESC LIMIT -1 OFFSET ?)",
            (silence.created_ms, KEPT),
        )
        connection.execute(
            "DELETE FROM tallies WHERE name GLOB 'silence.*' AND substr(name, 9) NOT IN (SELECT id FROM silences)"
        )

    await store.write(work)


async def end_silence(store: Store, silence_id: str, now_ms: int) -> bool:
    """End it now; False where there is none of this id that is still to end. Raises StoreError."""

    def work(connection: sqlite3.Connection) -> bool:
        query = "UPDATE silences SET ended_ms = ? WHERE id = ? AND ended_ms IS NULL AND until_ms > ?"
        return connection.execute(query, (now_ms, silence_id, now_ms)).rowcount == 1

    return await store.write(work)


async def load_silences(store: Store, ending_after_ms: int | None = None) -> list[tuple[Silence, int]]:
    """Silences, the newest first, with the number of alerts that each muted: all, or those still to end then.

    Raises StoreError.
    """
    after_ms = -(1 << 63) if ending_after_ms is None else ending_after_ms
    query = (
        f"SELECT {_COLUMNS}, coalesce(count, 0) FROM silences "  # noqa: S608 - a constant
        "LEFT JOIN tallies ON name = 'silence.' || id "
        "WHERE ? IS NULL OR (ended_ms IS NULL AND until_ms > ?) ORDER BY created_ms DESC, id"
    )
    arguments = (ending_after_ms, after_ms)
    return list(_read(await store.read(lambda connection: connection.execute(query, arguments).fetchall())))


def _read(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Silence, int]]:
    """Those that can be read: one that cannot silences nothing."""
    for silence_id, matchers, *columns, muted in rows:
        try:
            read = decode_matchers(matchers)
        except (msgspec.MsgspecError, MatcherError) as error:
            _log.warning("silence %s cannot be read, and silences nothing: %s", silence_id, error)
            continue
        yield Silence(silence_id, read, *columns), muted
