"""`watchdogd outbox list|retry|drop`: what waits for its receiver, what was given up; sent again, or dropped."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

from watchdogd.cli.daemon import add_socket_option, ask, choose_socket
from watchdogd.cli.options import add_config_option
from watchdogd.errors import WatchdogdError
from watchdogd.reports import OutboxChange, OutboxDrop, OutboxReport, OutboxRequest, OutboxRetry

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from watchdogd.reports import DeliveryRow

HELP = "list, send again or drop what waits for a receiver or was given up"

TIMEOUT_S = 30.0
_REASON_CHARS = 400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the three actions with their options."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser(
        "list", help="show deliveries in the order in which they were made", allow_abbrev=False
    )
    listing.add_argument(
        "--state",
        choices=("pending", "dead", "dropped", "all"),
        default="all",
        help="pending: still to be sent; dead: given up; dropped: by you (default: all)",
    )
    listing.add_argument("--sink", metavar="NAME", help="of one sink only")
    listing.set_defaults(act=show_list)
    retry = actions.add_parser("retry", help="send deliveries again now, under the same ids", allow_abbrev=False)
    which = retry.add_mutually_exclusive_group(required=True)
    which.add_argument("ids", metavar="ID", nargs="*", type=int, default=[], help="as `outbox list` shows them")
    which.add_argument("--sink", metavar="NAME", help="all that waits or was given up for one sink; its pause ends")
    which.add_argument("--all-dead", action="store_true", help="all that was given up")
    retry.set_defaults(act=send_again)
    drop = actions.add_parser("drop", help="never send deliveries; they count as lost", allow_abbrev=False)
    drop.add_argument("ids", metavar="ID", nargs="+", type=int, help="as `outbox list` shows them")
    drop.add_argument("--reason", required=True, metavar="TEXT", help="why: kept with them and logged")
    drop.set_defaults(act=give_up)
    for action in (listing, retry, drop):
        add_config_option(action)
        add_socket_option(action)
        action.add_argument("--format", choices=("text", "json"), default="text", help="json: one object")


def run(args: argparse.Namespace) -> int:
    """Do what was asked for. 0, or 2 where the daemon does not answer, refuses, or changed nothing."""
    status: int = args.act(args)
    return status


def show_list(args: argparse.Namespace) -> int:
    """Print the deliveries, all pages of them."""
    socket = choose_socket(args)
    request = OutboxRequest(args.state, args.sink)
    rows: list[DeliveryRow] = []
    while True:
        report = ask(socket, "outbox", OutboxReport, TIMEOUT_S, request)
        rows += report.deliveries
        if report.next_after is None:
            break
        request = msgspec.structs.replace(request, after=report.next_after)
    report = msgspec.structs.replace(report, deliveries=tuple(rows))
    if args.format == "json":
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in render(report))
    return 0


def send_again(args: argparse.Namespace) -> int:
    """Have deliveries sent again."""
    report = ask(choose_socket(args), "outbox_retry", OutboxChange, TIMEOUT_S, OutboxRetry(_ids(args), args.sink))
    return _tell(args, report, "sent again now")


def give_up(args: argparse.Namespace) -> int:
    """Have deliveries dropped."""
    reason = args.reason.strip()
    if not 0 < len(reason) <= _REASON_CHARS:
        raise WatchdogdError(f"--reason needs 1 to {_REASON_CHARS} characters")
    report = ask(choose_socket(args), "outbox_drop", OutboxChange, TIMEOUT_S, OutboxDrop(_ids(args), reason))
    return _tell(args, report, "dropped")


def render(report: OutboxReport) -> Iterator[str]:
    """The list for a person: a line a delivery, then how many there are."""
    from watchdogd.write.formats.ecs import format_time  # noqa: PLC0415 - start-up of other commands
    from watchdogd.write.formats.text import escape_controls  # noqa: PLC0415

    for row in report.deliveries:
        tries = f"{row.attempts} attempt{'' if row.attempts == 1 else 's'}"
        when = f"next {format_time(row.next_try_ms)}" if row.state == "pending" else format_time(row.ended_ms or 0)
        error = f": {row.error}" if row.error else ""
        yield escape_controls(
            f"{row.id}  {row.state}  {row.sink}  {row.kind} {row.alert_id[:16]}  {row.level}  {row.title}  "
            f"(since {format_time(row.created_ms)}, {tries}, {when}{error})"
        )
    for sink, states in sorted(report.counts.items()):
        yield escape_controls(f"{sink}: " + ", ".join(f"{count} {state}" for state, count in states.items()))
    if not report.counts:
        yield "nothing"


def _ids(args: argparse.Namespace) -> tuple[int, ...]:
    if any(number < 0 for number in args.ids):
        raise WatchdogdError("an ID is a number as `watchdogd outbox list` shows it")
    return tuple(args.ids)


def _tell(args: argparse.Namespace, report: OutboxChange, what: str) -> int:
    if args.format == "json":
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        sys.stdout.write(f"{report.count} {'delivery' if report.count == 1 else 'deliveries'} {what}\n")
    return 0 if report.count else 2
