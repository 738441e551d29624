"""What commands tell of what was lost: those that read logs on stderr, `status` of the running daemon."""

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

PASSING = frozenset(
    {
        "collect_lines_total",
        "collect_netlink_lines_total",
        "collect_sampled_events_total",
        "collect_integrity_scans_total",
        "collect_integrity_files_total",
        "collect_integrity_changes_total",
        "collect_integrity_merged_total",
        "collect_integrity_events_total",
        "collect_integrity_packaged_total",
        "collect_integrity_unknown_actors_total",
        "decode_lines_total",
        "decode_event_lines_total",
        "decode_repeated_lines_total",
        "decode_end_lines_total",
        "decode_blank_lines_total",
        "decode_journal_own_total",
        "decode_repeated_events_total",
        "decode_events_total",
        "enrich_evicted_processes_total",
        "judge_events_total",
        "judge_own_events_total",
        "judge_evaluated_events_total",
        "judge_matches_total",
        "judge_alerts_total",
        "judge_standing_total",
        "store_alerts_total",
        "store_folded_alerts_total",
        "store_inhibited_alerts_total",
        "store_silenced_alerts_total",
        "store_promoted_alerts_total",
        "store_active_alerts_total",
        "service_alerts_total",
        "store_pruned_alerts_total",
        "store_repeated_alerts_total",
        "triage_cached_total",
        "triage_taken_total",
        "triage_settled_total",
        "triage_folded_total",
        "triage_requests_total",
        "write_sent_total",
        "write_emergency_folded_total",
        "write_updates_total",
        "service_reloads_total",
        "api_requests_total",
        "api_refused_total",
        "api_questions_total",
    }
)
"""Counters of what passes ("What passes" in docs/architecture.md); every other one is of loss."""


def explain_loss(name: str) -> str:
    """What a counter of loss counts, as far as it has words of its own; docs/architecture.md has them all."""
    meaning = _MEANINGS.get(name)
    return f"{meaning} ({name})" if meaning else name


def report_losses(counters: Counters) -> None:
    """One line for each kind that occurred."""
    for name, meaning in _MEANINGS.items():
        count = counters.get(name)
        if count:
            sys.stderr.write(f"watchdogd: {meaning}: {count}\n")
