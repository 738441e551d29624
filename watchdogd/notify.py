"""What the daemon tells systemd (sd_notify(3)), and what systemd asks of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import systemd.daemon

if TYPE_CHECKING:
    from collections.abc import Mapping


def notify(*assignments: str) -> None:
    """Tell systemd; does nothing where it did not start us."""
    systemd.daemon.notify("\n".join(assignments))


def read_watchdog_interval_s(environ: Mapping[str, str]) -> float | None:
    """WatchdogSec as systemd hands it over (sd_watchdog_enabled(3)), None where it is off or not meant for us."""
    usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not usec.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1_000_000
