"""What the daemon tells systemd (sd_notify(3)), and what systemd asks of it."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import systemd.daemon

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator, Mapping

TELL_EVERY_S = 5.0
EXTENSION_US = 60_000_000


def notify(*assignments: str) -> None:
    """Tell systemd; does nothing where it did not start us."""
    systemd.daemon.notify("\n".join(assignments))


@contextlib.contextmanager
def telling_alive(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Tell systemd while it lasts that what takes long is work: a start, or a database that is saved."""
    pending: list[asyncio.TimerHandle] = []

    def tell() -> None:
        notify(f"EXTEND_TIMEOUT_USEC={EXTENSION_US}", "WATCHDOG=1")
        pending[:] = [loop.call_later(TELL_EVERY_S, tell)]

    pending.append(loop.call_later(TELL_EVERY_S, tell))
    try:
        yield
    finally:
        pending[0].cancel()


def read_watchdog_interval_s(environ: Mapping[str, str]) -> float | None:
    """WatchdogSec as systemd hands it over (sd_watchdog_enabled(3)), None where it is off or not meant for us."""
    usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not usec.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1_000_000
