"""The ledger of loss: what came in at each stage went somewhere, and every place has a name.

Each equation holds two independent counts of the same things against each other. Where one does not hold, something was
lost of which nobody knows: a fault of watchdogd itself. What is lost and known of has a counter among the right sides.
docs/architecture.md explains them ("The ledger").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Equation(msgspec.Struct, frozen=True):
    """`left` came in, `right` is what became of it; both are names of amounts."""

    between: str
    unit: str
    left: tuple[str, ...]
    right: tuple[str, ...]


EQUATIONS: Final = (
    Equation(
        "reading and decoding",
        "lines",
        ("collect_lines_total", "collect_netlink_lines_total"),
        ("decode_lines_total", "lines_queued", "collect_unjudged_lines_total"),
    ),
    Equation(
        "decoding and events",
        "lines",
        ("decode_lines_total",),
        (
            "decode_event_lines_total",
            "decode_repeated_lines_total",
            "decode_duplicate_records_total",
            "decode_end_lines_total",
            "decode_garbage_lines_total",
            "decode_blank_lines_total",
            "decode_journal_own_total",
            "lines_open",
        ),
    ),
    Equation(
        "changes of files and events",
        "changes",
        ("collect_integrity_changes_total",),
        ("collect_integrity_events_total", "collect_integrity_packaged_total", "file_changes_held"),
    ),
    Equation(
        "events and judging",
        "events",
        ("decode_events_total", "collect_sampled_events_total"),
        ("judge_events_total", "events_queued", "collect_unjudged_events_total"),
    ),
    Equation(
        "judging and rules",
        "events",
        ("judge_events_total",),
        ("judge_evaluated_events_total", "judge_own_events_total", "judge_failed_events_total"),
    ),
    Equation(
        "rules and alerts",
        "matches",
        ("judge_matches_total",),
        ("judge_alerts_total", "judge_standing_total", "judge_failed_matches_total"),
    ),
    Equation(
        "alerts and the database",
        "alerts",
        ("judge_alerts_total", "service_alerts_total"),
        ("store_alerts_total", "store_repeated_alerts_total", "alerts_held"),
    ),
    Equation(
        "new alerts and what became of them",
        "alerts",
        ("store_alerts_total",),
        (
            "store_active_alerts_total",
            "store_folded_alerts_total",
            "store_inhibited_alerts_total",
            "store_silenced_alerts_total",
        ),
    ),
    Equation(
        "alerts stored and alerts there",
        "alerts",
        ("alerts_carried", "store_alerts_total"),
        ("alerts_stored", "store_pruned_alerts_total", "store_pruned_early_total"),
    ),
    Equation(
        "questions and verdicts",
        "alerts",
        ("questions_carried", "triage_taken_total"),
        ("triage_settled_total", "questions_waiting"),
    ),
    Equation(
        "deliveries due and deliveries ended",
        "deliveries",
        ("deliveries_carried", "deliveries_made", "deliveries_again"),
        (
            "deliveries_delivered",
            "deliveries_dead",
            "deliveries_dropped",
            "deliveries_routed",
            "deliveries_deleted",
            "deliveries_pending",
        ),
    ),
)
"""In the order of the flow."""


class Balance(msgspec.Struct, frozen=True):
    """One equation with its numbers. Where `difference` is not 0, it does not hold; None: it could not be checked."""

    between: str
    unit: str
    left: dict[str, int]
    right: dict[str, int]
    difference: int | None
    """More came in than is accounted for; below 0: more is accounted for than came in."""


class LedgerReport(msgspec.Struct, frozen=True):
    """All equations. Amounts are since the start of the daemon; `..._carried` is what it found in the database."""

    complete: bool
    """Every one of them holds."""
    unaccounted: tuple[str, ...]
    """In words, each that does not."""
    balances: tuple[Balance, ...]

    def describe(self) -> str:
        """`yes`, or `no: 3 lines unaccounted between reading and decoding`."""
        return "yes" if self.complete else f"no: {'; '.join(self.unaccounted)}"


def balance_ledger(amounts: Mapping[str, int], unread: frozenset[str] = frozenset()) -> LedgerReport:
    """Check every equation. An amount that is not there is 0; those in `unread` could not be found out."""
    balances = tuple(_balance(equation, amounts, unread) for equation in EQUATIONS)
    unaccounted = tuple(_complain(balances))
    return LedgerReport(not unaccounted, unaccounted, balances)


def _balance(equation: Equation, amounts: Mapping[str, int], unread: frozenset[str]) -> Balance:
    left = {name: amounts.get(name, 0) for name in equation.left}
    right = {name: amounts.get(name, 0) for name in equation.right}
    is_known = unread.isdisjoint((*equation.left, *equation.right))
    difference = sum(left.values()) - sum(right.values()) if is_known else None
    return Balance(equation.between, equation.unit, left, right, difference)


def _complain(balances: tuple[Balance, ...]) -> Iterator[str]:
    for balance in balances:
        if balance.difference is None:
            yield f"{balance.unit} between {balance.between} cannot be counted now"
        elif balance.difference > 0:
            yield f"{balance.difference} {balance.unit} unaccounted between {balance.between}"
        elif balance.difference < 0:
            yield f"{-balance.difference} {balance.unit} too many between {balance.between}"
