"""A database that is damaged is set aside, and what can still be read of it goes into a new one.

It must not keep the daemon from watching: the log is read again from its oldest file, and alert ids are the same.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from watchdogd.entities import Level, Rule
from watchdogd.errors import StoreDamagedError, StoreError
from watchdogd.own_alerts import OwnEvent, build_own_alert
from watchdogd.store.connection import explain
from watchdogd.store.documents import decode_alert

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from watchdogd.entities import Alert

KEPT_ASIDE = 3
"""How many damaged databases are kept, the newest: whoever damages them again and again must not fill the disk."""
SALVAGED_ROWS = 10_000
"""Of alerts and of deliveries, from either end; the newest of what lies between; and all that wait."""

DAMAGE_RULE = Rule(
    id="5b0e2f1c-7c1a-4c57-9f0e-5a5d1f3c9b42",
    title="The watchdog's database was damaged or removed",
    level=Level.CRITICAL,
    techniques=("T1565.001", "T1070"),
    triage="never",
)

_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PRIMARY_CODE = 0xFF
_MARKER = b"CREATE TABLE deliveries"
_LOOKED_AT_BYTES = 16 << 20
_PARTS = ("", "-wal", "-shm")
# In the order of their references. Not: checkpoints and correlations, for the log is read again from its start.
_TABLES = (
    *("alerts", "deliveries", "opinions", "lessons", "standings", "baseline", "instances", "silences"),
    *("files", "file_patterns", "health", "norms"),
)
PROBED_ROWS = 2_000
"""Beyond the last row that was read, where nobody knows how many there are."""

_NUMBERED = ("alerts", "deliveries")
_WANTED = (
    "id IN (SELECT alert_id FROM deliveries WHERE state = 'pending')",
    "triage_state = 'pending'",
    "id IN (SELECT alert_id FROM opinions)",
)
_log = logging.getLogger("watchdogd.store")


class SetAside(msgspec.Struct, frozen=True):
    """What became of a database that could not be used; `file` is None where it had been removed."""

    path: str
    file: str | None
    reason: str
    time_ms: int
    rows: dict[str, int] = {}
    """Salvaged into the new one, by table."""
    reread: bool = True
    """Whether reading begins anew at the oldest log; else the database was written back whole."""


def is_damage(error: BaseException | None) -> bool:
    """Whether SQLite says that the file is damaged, not that it cannot be had just now."""
    return isinstance(error, sqlite3.Error) and (getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE) in _DAMAGE


def refuse(path: Path, error: sqlite3.Error) -> StoreError:
    """The error to raise: StoreDamagedError where trying again cannot help."""
    text = explain(path, error)
    return StoreDamagedError(text) if is_damage(error) else StoreError(text)


def is_ours(path: Path) -> bool:
    """Whether what stands there looks like our database, and not like a file that the settings name by mistake."""
    try:
        with path.open("rb") as file:
            start = file.read(_LOOKED_AT_BYTES)
    except OSError:
        return False
    return _MARKER in start or not any(start)


def set_aside(path: Path, now_ms: int, reason: str) -> SetAside:
    """Rename the database and its WAL to `PATH.corrupt-TIME`; remove the oldest such. Raises StoreError."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_ms / 1000))
    target = path.with_name(f"{path.name}.corrupt-{stamp}")
    number = 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.corrupt-{stamp}.{number}")
    try:
        for part in _PARTS:
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{path}{part}", f"{target}{part}")  # noqa: PTH104 - names with a suffix, as SQLite makes them
    except OSError as error:
        raise StoreError(f"{path}: is damaged and cannot be set aside ({error.strerror}): {reason}") from error
    for old in list_aside(path)[:-KEPT_ASIDE]:
        for part in _PARTS:
            with contextlib.suppress(OSError):
                os.unlink(f"{old}{part}")  # noqa: PTH108 - as above
    return SetAside(str(path), str(target), reason, now_ms)


def list_aside(path: Path) -> list[Path]:
    """Databases that were set aside, the oldest first."""
    with contextlib.suppress(OSError):
        found = [other for other in path.parent.glob(f"{path.name}.corrupt-*") if not other.name.endswith(_PARTS[1:])]
        return sorted(found, key=lambda other: (other.stat().st_ctime_ns, other.name))
    return []


def salvage(source: Path, connection: sqlite3.Connection) -> dict[str, int]:
    """Copy what can be read of a damaged database: rows by table. Never raises; the least is nothing."""
    rows = {}
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(source))}?mode=ro", uri=True)) as old:
            old.text_factory = bytes_or_text
            for table in _TABLES:
                rows[table] = _copy_table(old, connection, table)
        rows["alerts"] = rows.get("alerts", 0) - _forget_untold(connection)
    except sqlite3.Error as error:
        _log.warning("%s: no more can be read of it: %s", source, error)
    return {table: count for table, count in rows.items() if count}


def bytes_or_text(value: bytes) -> str | bytes:
    """Text, or the bytes of a damaged row that are none."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _copy_table(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> int:
    """Whole or not at all where the new database refuses (a full disk)."""
    wanted = [row[1] for row in new.execute(f"PRAGMA table_info({table})")]
    try:
        given = {row[1] for row in old.execute(f"PRAGMA table_info({table})")}
    except sqlite3.Error:
        return 0
    columns = [name for name in wanted if name in given]
    if not columns:
        return 0
    marks = ", ".join("?" * len(columns))
    insert = f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - our own names
    count = 0
    new.execute("BEGIN IMMEDIATE")
    try:
        for row in _read_rows(old, table, columns):
            if table == "alerts" and not _is_sound(dict(zip(columns, row, strict=True))):
                continue
            with contextlib.suppress(sqlite3.IntegrityError):  # of a damaged row, or without its alert
                count += new.execute(insert, row).rowcount
        new.execute("COMMIT")
    except sqlite3.Error as error:
        _log.warning("%s of the damaged database are lost: %s", table, error)
        if new.in_transaction:
            new.execute("ROLLBACK")
        return 0
    return count


def _is_sound(row: dict[str, object]) -> bool:
    """Whether an alert's document is whole: only its first part is on the page of its row."""
    document = row.get("document")
    try:
        return isinstance(document, bytes) and decode_alert(document).id == row.get("id")
    except msgspec.DecodeError:
        return False


def _forget_untold(connection: sqlite3.Connection) -> int:
    """Drop alerts of which nobody knows whether they were told: the log tells them again."""
    query = (
        "DELETE FROM alerts WHERE state = 'active' AND id NOT IN (SELECT alert_id FROM deliveries) "
        "AND id NOT IN (SELECT alert_id FROM opinions)"
    )
    return connection.execute(query).rowcount


def _read_rows(old: sqlite3.Connection, table: str, columns: list[str]) -> Iterator[tuple[object, ...]]:
    """What can be read, a row maybe more than once."""
    select = f"SELECT {', '.join(columns)} FROM {table}"  # noqa: S608 - our own names
    key = columns[0]
    if table not in _NUMBERED:
        for order in ("DESC", "ASC"):
            yield from _read_on(old, f"{select} ORDER BY {key} {order}")
        return
    if table == "alerts":
        for wanted in _WANTED:
            yield from _read_on(old, f"{select} WHERE {wanted}")
    first = last = None
    for row in _read_on(old, f"{select} ORDER BY {key} DESC LIMIT {SALVAGED_ROWS}"):
        last = row[0]
        yield row
    for row in _read_on(old, f"{select} ORDER BY {key} LIMIT {SALVAGED_ROWS}"):
        first = row[0]
        yield row
    yield from _probe(old, f"{select} WHERE {key} = ?", first, last)


def _read_on(old: sqlite3.Connection, query: str) -> Iterator[tuple[object, ...]]:
    """Up to what is damaged."""
    with contextlib.suppress(sqlite3.DatabaseError):
        yield from old.execute(query)


def _probe(old: sqlite3.Connection, query: str, first: object, last: object) -> Iterator[tuple[object, ...]]:
    """One by one what lies between the two damaged places where reading from either end stopped, the newest first."""
    if first is None and last is None:
        return
    low = first + 1 if isinstance(first, int) else 1
    high = last - 1 if isinstance(last, int) else low + PROBED_ROWS
    for number in range(high, max(low, high - SALVAGED_ROWS) - 1, -1):
        with contextlib.suppress(sqlite3.DatabaseError):
            yield from old.execute(query, (number,))


def build_damage_alert(found: SetAside, host: str) -> Alert:
    """What everybody is told of it: whoever wants to hide from the watchdog damages its memory."""
    kept = f"what stood there is {found.file} now" if found.file else "nothing stood there"
    salvaged = ", ".join(f"{count} {table}" for table, count in found.rows.items()) or "nothing"
    what = (
        f"Salvaged: {salvaged}. The log is read again from its oldest file: alerts that were sent before may come "
        "again, under the same ids."
        if found.reread
        else "It was written back: nothing is lost."
    )
    event = OwnEvent(
        rule=DAMAGE_RULE,
        action="database_set_aside",
        outcome="unknown",
        time_ms=found.time_ms,
        began_ms=found.time_ms,
        reason=found.reason,
        fields={"TargetFilename": found.path, "SetAside": found.file or "", "Reason": found.reason},
        matched=("TargetFilename",),
        evidence_score=1.0,
        lines=(f"{found.path}: {found.reason}; {kept}. {what}",),
        name=found.file or f"{found.path}\n{found.time_ms}",
    )
    return build_own_alert(event, host)
