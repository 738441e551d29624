"""What a command that reads logs tells of lines and records that gave nothing, on stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watchdogd.telemetry import Counters

_MEANINGS = {
    "decode_garbage_lines_total": "lines that are no audit records",
    "decode_incomplete_events_total": "events without all their records",
    "decode_duplicate_records_total": "records that came twice",
    "decode_late_records_total": "records that came after their event",
    "judge_failed_events_total": "events that watchdogd failed to judge (its own fault, please report it)",
    "collect_overlong_lines_total": "lines cut at 1 MiB",
}


def report_losses(counters: Counters) -> None:
    """One line for each kind that occurred."""
    for name, meaning in _MEANINGS.items():
        count = counters.get(name)
        if count:
            sys.stderr.write(f"watchdogd: {meaning}: {count}\n")
