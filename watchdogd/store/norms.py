"""What is usual of each metric, as `enrich` writes it: the table `norms`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from watchdogd.store.columns import clamp

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from watchdogd.store.database import Store

MAKE_NORMS: Final = (
    """CREATE TABLE norms (
        series TEXT PRIMARY KEY,
        state BLOB NOT NULL,
        updated_ms INTEGER NOT NULL
    ) WITHOUT ROWID""",
)
KEPT: Final = 512
"""Series kept, those stored last."""


def write_norms(connection: sqlite3.Connection, norms: Mapping[str, bytes], now_ms: int) -> None:
    """Write what is usual of these series; part of a caller's transaction."""
    if not norms:
        return
    connection.executemany(
        "INSERT OR REPLACE INTO norms (series, state, updated_ms) VALUES (?, ?, ?)",
        [(series, state, clamp(now_ms)) for series, state in norms.items()],
    )
    connection.execute(
        "DELETE FROM norms WHERE series IN (SELECT series FROM norms ORDER BY updated_ms DESC LIMIT -1 OFFSET ?)",
        (KEPT,),
    )


async def load_norms(store: Store) -> dict[str, bytes]:
    """What is known by series. Raises StoreError."""
    rows = await store.read(lambda connection: connection.execute("SELECT series, state FROM norms").fetchall())
    return {series: state for series, state in rows if isinstance(series, str) and isinstance(state, bytes)}
