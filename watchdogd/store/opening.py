"""Opening the database, whatever became of it since the last run."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from pathlib import Path
from typing import NamedTuple

import msgspec

from watchdogd.errors import StoreError
from watchdogd.store.anchor import name_whole, put_in_place
from watchdogd.store.connection import connect, lock_database
from watchdogd.store.damage import SetAside, is_damage, is_ours, list_aside, salvage, set_aside

_log = logging.getLogger("watchdogd.store")


class Opened(NamedTuple):
    """A connection and the lock that goes with it."""

    connection: sqlite3.Connection
    lock_fd: int
    found: SetAside | None
    """In whose place the database is, as long as no reading has begun from it."""
    fresh: bool
    """Whether it was made just now."""


def open_database(path: Path, now_ms: int, damaged: str = "") -> Opened:
    """Lock and open; set aside what is damaged. `damaged`: what an earlier try has found. Raises StoreError."""
    lock = Path(f"{path}.lock")
    known = lock.exists()
    lock_fd = lock_database(path)
    try:
        if damaged and path.exists():
            return _replace(path, now_ms, damaged, lock_fd)
        whole = name_whole(path)
        if whole.exists():  # the last run ended while it wrote its database back
            with contextlib.suppress(OSError):
                put_in_place(path, whole, now_ms)
        missing = known and not path.exists()
        try:
            connection = connect(path)
        except StoreError as error:
            if not is_damage(error.__cause__) or not (known or is_ours(path)):
                raise
            return _replace(path, now_ms, str(error), lock_fd)
        if missing:
            found = SetAside(str(path), None, "it is gone although it was there before", now_ms)
            _log.critical("%s: %s: a new one is made, and the log is read again from its start", path, found.reason)
            return Opened(connection, lock_fd, found, fresh=True)
        return Opened(connection, lock_fd, _find_unfinished(path, connection), fresh=False)
    except BaseException:
        os.close(lock_fd)
        if not known:  # the next start must not take a stranger's file for ours
            with contextlib.suppress(OSError):
                lock.unlink()
        raise


def _replace(path: Path, now_ms: int, reason: str, lock_fd: int) -> Opened:
    """Set the database aside, make a new one, salvage. Raises StoreError."""
    found = set_aside(path, now_ms, reason)
    _log.critical(
        "%s; set aside as %s: a new one is made, and the log is read again from its start", reason, found.file
    )
    connection = connect(path)
    if found.file is not None:
        found = msgspec.structs.replace(found, rows=salvage(Path(found.file), connection))
        said = ", ".join(f"{count} {table}" for table, count in found.rows.items())
        _log.warning("%s: salvaged of it: %s", found.file, said or "nothing")
    return Opened(connection, lock_fd, found, fresh=True)


def _find_unfinished(path: Path, connection: sqlite3.Connection) -> SetAside | None:
    """What was set aside by a run that ended before it began to read the log again."""
    aside = list_aside(path)
    try:
        (points,) = connection.execute("SELECT count(*) FROM checkpoints").fetchone()
    except sqlite3.Error:
        return None
    if points or not aside:
        return None
    time_ms = aside[-1].stat().st_mtime_ns // 1_000_000
    return SetAside(str(path), str(aside[-1]), "it was damaged and set aside by an earlier run", time_ms)
