"""Opening the database file, and saying in words what SQLite has against it."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from typing import TYPE_CHECKING

from watchdogd.errors import StoreError
from watchdogd.store.schema import migrate

if TYPE_CHECKING:
    from pathlib import Path

BUSY_S = 5.0
"""How long a statement waits for another process (the sqlite3 shell) that holds the database."""

_WAL_LIMIT_BYTES = 64 << 20
_CACHE_KIB = 512
"""Of pages in memory, a quarter of SQLite's default: what is read again lies in the system's cache, too."""
_INCREMENTAL = 2
"""Of `PRAGMA auto_vacuum`."""
_VACUUM_BYTES = 16 << 20
"""A file up to this is rewritten at a start, in less than a second."""
_PRIMARY_CODE = 0xFF
_log = logging.getLogger("watchdogd.store")

_REASONS = {
    sqlite3.SQLITE_BUSY: "is locked by another process: close it (fuser names it)",
    sqlite3.SQLITE_LOCKED: "is locked by another process: close it (fuser names it)",
    sqlite3.SQLITE_NOTADB: "is not a database of watchdogd: move the file away, or set another store path",
    sqlite3.SQLITE_CORRUPT: "is damaged: move the file away (a new one is made; sqlite3's .recover saves the old)",
    sqlite3.SQLITE_READONLY: "cannot be written: check its owner, mode and mount",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: check owner and mode of file and folder",
    sqlite3.SQLITE_PERM: "cannot be opened: check owner and mode of file and folder",
}


def explain(path: Path, error: sqlite3.Error) -> str:
    """One line: the file, what is wrong, what to do about it."""
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(path)):
        return f"{path}: disk full: free space on this file system; nothing was committed"
    return f"{path}: {_REASONS.get(code, 'was refused')} ({error})"


def _is_full(path: Path) -> bool:
    try:
        free = os.statvfs(path.parent)
    except OSError:
        return False
    return free.f_bavail * free.f_frsize < 1 << 16


def lock_database(path: Path) -> int:
    """Descriptor of `PATH.lock`, held exclusively until it is closed. Makes missing folders (0700).

    A file beside the database, because closing any descriptor of the database itself would drop SQLite's own locks.
    Raises StoreError.
    """
    try:
        for folder in reversed([path.parent, *path.parent.parents]):
            if not folder.exists():
                folder.mkdir(mode=0o700, exist_ok=True)
        if path.is_dir():
            raise StoreError(f"{path}: is a directory: the store's path must name a file in it")
        fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"{path}: cannot be made ({error.strerror}): check the store's path and its mode") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        os.close(fd)
        raise StoreError(f"{path}: is used by another watchdogd (pid {holder or 'unknown'}): stop it first") from error
    _note_holder(fd)
    return fd


def _note_holder(fd: int) -> None:
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError:
        return  # a full disk must not stop the daemon for a courtesy


def connect(path: Path) -> sqlite3.Connection:
    """The database, its tables up to date, readable by its owner only. Raises StoreError."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.fchmod(fd, 0o600)
        os.close(fd)
    except OSError as error:
        raise StoreError(f"{path}: cannot be opened ({error.strerror}): check owner and mode") from error
    try:
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    except sqlite3.Error as error:
        raise StoreError(explain(path, error)) from error
    try:
        _prepare(path, connection)
    except sqlite3.Error as error:
        connection.close()
        raise StoreError(explain(path, error)) from error
    except StoreError:
        connection.close()
        raise
    return connection


def _prepare(path: Path, connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # takes effect before the first table, and by VACUUM
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreError(f"{path}: this file system cannot hold a WAL database: choose a local one")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    migrate(connection)
    _let_shrink(path, connection)


def _let_shrink(path: Path, connection: sqlite3.Connection) -> None:
    """See that free pages can be given back: a database from before that is made anew where that takes no time."""
    (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone()
    if mode == _INCREMENTAL:
        return
    if path.stat().st_size > _VACUUM_BYTES:
        _log.info(
            "%s was made by an older watchdogd: the file does not shrink when old alerts are pruned, new ones take "
            "their room (to change that, stop watchdogd and run: sqlite3 %s 'PRAGMA auto_vacuum = 2; VACUUM')",
            path,
            path,
        )
        return
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("VACUUM")
    except sqlite3.Error as error:
        _log.warning("%s: the file cannot shrink for now: %s", path, error)
