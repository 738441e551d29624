"""What the kernel knows of its own clock: adjtimex(2) without any mode, which reads and sets nothing.

Alone, as a script, it writes that down. The daemon's sandbox bars the call (ProtectClock=yes), so a unit beside it runs
this file (systemd/watchdogd-audit-status.service), with the host's own Python: nothing but the standard library here.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from typing import NamedTuple

STA_UNSYNC = 0x0040
STA_NANO = 0x2000
TIMEX_BYTES = 512


class ClockState(NamedTuple):
    """What the kernel is told by whoever keeps its clock (NTP)."""

    offset_s: float
    max_error_s: float
    is_synchronised: bool


class _Timex(ctypes.Structure):
    """`struct timex` up to what is read here (adjtimex(2)), with room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * TIMEX_BYTES),
    )


def ask_kernel() -> ClockState:
    """The kernel's view of its clock. PermissionError where a sandbox bars the call."""
    libc = ctypes.CDLL(None, use_errno=True)
    timex = _Timex()
    if libc.adjtimex(ctypes.byref(timex)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    per_s = 1e9 if timex.status & STA_NANO else 1e6
    return ClockState(timex.offset / per_s, timex.maxerror / 1e6, not timex.status & STA_UNSYNC)


def show(state: ClockState) -> str:
    """A line: offset and greatest error in seconds, 1 or 0 for whether somebody keeps the clock."""
    return f"{state.offset_s:.9f} {state.max_error_s:.6f} {state.is_synchronised:d}\n"


def parse(text: str) -> ClockState:
    """What `show` made. ValueError where it is something else."""
    offset, most, kept = text.split()
    state = ClockState(float(offset), float(most), bool(int(kept)))
    if not math.isfinite(state.offset_s + state.max_error_s):
        raise ValueError(f"{text!a}: no numbers of a clock")
    return state


if __name__ == "__main__":
    sys.stdout.write(show(ask_kernel()))
