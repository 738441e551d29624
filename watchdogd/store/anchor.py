"""That the open database is still the file of its name: a removed one would take all that is written with it."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from watchdogd.errors import StoreDamagedError, StoreError
from watchdogd.store.connection import connect, lock_database
from watchdogd.store.damage import set_aside

if TYPE_CHECKING:
    from watchdogd.store.damage import SetAside
    from watchdogd.telemetry import Counters

LOOK_EVERY_S = 1.0
AGAIN_AFTER_S = 30.0
"""Where writing it back failed."""

_log = logging.getLogger("watchdogd.store")


class Anchor:
    """Of one open database; on the store's thread alone."""

    def __init__(self, path: Path, lock_fd: int, counters: Counters) -> None:
        self._path = path
        self._counters = counters
        self.lock_fd = lock_fd
        self._file = _identify(path)
        self._look_at_s = 0.0
        counters.set_gauge("store_detached", 0)

    def hold(
        self, connection: sqlite3.Connection, now_s: float, now_ms: int
    ) -> tuple[sqlite3.Connection, SetAside | None]:
        """The connection to use from now on, and what happened to the file where something did.

        Where the file of its name is gone or another one, what is open is written there (a stranger's file is set
        aside). Where that fails, it is tried again later, and the open one serves as long as the daemon runs.
        Raises StoreDamagedError where it was written, but cannot be opened.
        """
        if now_s < self._look_at_s:
            return connection, None
        self._look_at_s = now_s + LOOK_EVERY_S
        if self._file is None or _identify(self._path) == self._file:
            return connection, None
        self._counters.set_gauge("store_detached", 1)
        try:
            found, fresh = self._write_back(connection, now_ms)
        except StoreDamagedError:
            raise
        except (OSError, sqlite3.Error, StoreError) as error:
            self._look_at_s = now_s + AGAIN_AFTER_S
            _log.critical(
                "%s was removed or replaced while in use, and cannot be written back (%s): what is stored from now on "
                "ends with this process; trying again every %.0f s",
                self._path,
                error,
                AGAIN_AFTER_S,
            )
            return connection, None
        self._file = _identify(self._path)
        self._counters.set_gauge("store_detached", 0)
        self._counters.add("store_written_back_total")
        _log.critical("%s: %s; it was written back, nothing is lost", self._path, found.reason)
        return fresh, found

    def _write_back(self, connection: sqlite3.Connection, now_ms: int) -> tuple[SetAside, sqlite3.Connection]:
        """Copy what is open, put it in its place, open that. Until the copy is whole nothing has changed."""
        copy = Path(f"{self._path}.rescued")
        self._relock()
        with contextlib.suppress(FileNotFoundError):
            copy.unlink()
        os.close(os.open(copy, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connection.execute("VACUUM INTO ?", (str(copy),))
        whole = copy.rename(name_whole(self._path))
        found = put_in_place(self._path, whole, now_ms)
        with contextlib.suppress(sqlite3.Error):
            connection.close()  # before the new one has a WAL: this removes one by its name
        try:
            return found, connect(self._path)
        except StoreError as error:
            raise StoreDamagedError(str(error)) from error

    def _relock(self) -> None:
        """Hold the lock of the name again; makes missing folders. Raises StoreError where somebody else has it."""
        lock = Path(f"{self._path}.lock")
        with contextlib.suppress(OSError):
            if os.path.samestat(lock.stat(), os.fstat(self.lock_fd)):
                return
        fd = lock_database(self._path)
        os.close(self.lock_fd)
        self.lock_fd = fd


def name_whole(path: Path) -> Path:
    """Where the database is for a moment, complete, before it is put in its place."""
    return Path(f"{path}.whole")


def put_in_place(path: Path, whole: Path, now_ms: int) -> SetAside:
    """Rename a complete database to its place; what stands there is set aside. Raises OSError, StoreError."""
    stranger = os.path.lexists(path)
    reason = "it was replaced while in use" if stranger else "it was removed while in use"
    found = set_aside(path, now_ms, reason)
    if not stranger:  # only the WAL of what was removed: it is in the copy
        for part in ("-wal", "-shm"):
            with contextlib.suppress(OSError):
                os.unlink(f"{found.file}{part}")  # noqa: PTH108 - names with a suffix, as SQLite makes them
        found = msgspec.structs.replace(found, file=None)
    whole.rename(path)
    return msgspec.structs.replace(found, reread=False)


def _identify(path: Path) -> tuple[int, int] | None:
    """Device and inode; None where there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
