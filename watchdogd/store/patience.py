"""Waiting at a start for a database that cannot be had just now: a full disk must not end the watchdog for good."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import sqlite3
from typing import TYPE_CHECKING, TypeVar

from watchdogd.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

FIRST_S, LAST_S = 0.5, 5.0

_PASSING = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
    }
)
_PASSING_ERRNO = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENFILE, errno.EMFILE})
_PRIMARY_CODE = 0xFF
_log = logging.getLogger("watchdogd.store")


def may_pass(error: StoreError) -> bool:
    """Whether the cause may end by itself or by somebody who frees space; not where a setting must be mended."""
    cause = error.__cause__
    if isinstance(cause, sqlite3.Error):
        return (getattr(cause, "sqlite_errorcode", 0) & _PRIMARY_CODE) in _PASSING
    return isinstance(cause, OSError) and cause.errno in _PASSING_ERRNO


async def persist(work: Callable[[], Awaitable[T]], stop: asyncio.Event, tell: Callable[[str], None]) -> T | None:
    """What `work` returns, tried until it works; None where `stop` was set before.

    `tell` hears each refusal. Raises StoreError where waiting cannot help.
    """
    delay_s, said = FIRST_S, ""
    while True:
        try:
            return await work()
        except StoreError as error:
            if not may_pass(error):
                raise
            if str(error) != said:
                _log.error("%s; nothing is read until it can be used, trying again every %.0f s", error, LAST_S)
            said = str(error)
            tell(said)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await stop.wait()
        if stop.is_set():
            return None
        delay_s = min(delay_s * 2, LAST_S)
