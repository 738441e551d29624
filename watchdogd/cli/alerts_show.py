"""`watchdogd alerts show`: one alert with its original lines, its verdict, and what became of telling it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

from watchdogd.cli.alerts_list import TIMEOUT_S, mask_listed, restore
from watchdogd.cli.daemon import add_socket_option, ask, choose_socket
from watchdogd.cli.options import add_config_option
from watchdogd.listings import AlertReport, AlertRequest

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from watchdogd.cli.display import Row
    from watchdogd.listings import DeliveryReport

HELP = "one alert: original lines, verdict, deliveries, what was folded into it"
DESCRIPTION = "Shows everything that the running daemon has in its database about one alert."

_NAME_WIDTH = 8
_LINE_CHARS = 2_000
_STATE_STYLES = {"dead": "bold red", "pending": "yellow"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("alert_id", metavar="ALERT_ID", help="the alert's id, or its first characters")
    add_config_option(parser)
    add_socket_option(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="json: one object")
    parser.add_argument("--unmask", action="store_true", help="passwords, tokens and keys as they were written")


def run(args: argparse.Namespace) -> int:
    """Print it. 0 fine; 2 where the daemon does not answer, or knows none or several alerts by this id."""
    report = ask(choose_socket(args), "alert", AlertReport, TIMEOUT_S, AlertRequest(args.alert_id))
    if not args.unmask:
        report = mask_report(report)
    if args.format == "json":
        sys.stdout.write(msgspec.json.encode(document(report)).decode() + "\n")
    else:
        show_report(report)
    return 0


def mask_report(report: AlertReport) -> AlertReport:
    """The report without the secrets that are recognised in its alerts (write/masked.py)."""
    repeats = tuple(mask_listed(repeat) for repeat in report.repeats)
    return msgspec.structs.replace(report, alert=mask_listed(report.alert), repeats=repeats)


def document(report: AlertReport) -> dict[str, object]:
    """The report as plain data: the alert's own document, and what became of it beside."""
    from watchdogd.write.formats.ecs import alert_document, format_time  # noqa: PLC0415 - start-up of other commands

    def describe(delivery: DeliveryReport) -> dict[str, object]:
        ended = None if delivery.ended_ms is None else format_time(delivery.ended_ms)
        return {
            "sink": delivery.sink,
            "kind": delivery.kind,
            "state": delivery.state,
            "attempts": delivery.attempts,
            "created": format_time(delivery.created_ms),
            "next_try": format_time(delivery.due_ms) if delivery.state == "pending" else None,
            "ended": ended,
            "last_error": delivery.last_error,
        }

    return {
        "alert": alert_document(restore(report.alert)),
        "leader": report.alert.leader,
        "silence": report.silence or report.alert.silence,
        "deliveries": [describe(delivery) for delivery in report.deliveries],
        "repeats": [alert_document(restore(repeat)) for repeat in report.repeats],
        "more_repeats": report.more_repeats,
        "opinion": report.opinion,
    }


def show_report(report: AlertReport) -> None:
    """Print it for a person, in colour on a terminal; there, long text is folded below its own beginning."""
    from rich.table import Table  # noqa: PLC0415 - start-up of other commands
    from rich.text import Text  # noqa: PLC0415

    from watchdogd.cli.display import TextConsole, show_alert  # noqa: PLC0415

    console = TextConsole()
    show_alert(restore(report.alert), console)
    rows = list(list_rows(report))
    if not console.is_terminal:
        sys.stdout.writelines(f"  {name:<{_NAME_WIDTH}} {text}\n" for name, text, _ in rows)
        return
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=_NAME_WIDTH + 2, style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text, style in rows:
        table.add_row(f"  {name}", Text(text, style))
    console.print(table, soft_wrap=False)


def list_rows(report: AlertReport) -> Iterator[Row]:
    """Name, text (escaped, cut) and style of what stands below the alert itself."""
    from watchdogd.write.formats.ecs import format_time  # noqa: PLC0415 - as above
    from watchdogd.write.formats.text import escape_controls, escape_part  # noqa: PLC0415

    alert = restore(report.alert)
    yield "id", escape_controls(alert.id), ""
    yield "rule", escape_controls(f"{alert.rule.id}  {alert.rule.path}".rstrip()), ""
    if report.alert.leader:
        yield "part of", escape_controls(f"{report.alert.leader[:16]} ({alert.state})"), "magenta"
    if report.alert.silence:
        yield "silenced", escape_controls(report.silence or f"by {report.alert.silence}"), "magenta"
    if report.opinion is not None:
        note = f": {report.opinion.note}" if report.opinion.note else ""
        when = format_time(report.opinion.given_ms)
        yield "yours", escape_controls(f"{report.opinion.label}, {when}{note}"), "bold"
    for delivery in report.deliveries:
        yield "told", escape_controls(describe_delivery(delivery)), _STATE_STYLES.get(delivery.state, "")
    if not report.deliveries:
        yield "told", "nobody", "dim"
    for repeat in report.repeats:
        other = restore(repeat)
        when = f"{format_time(other.time_ms)[:19].replace('T', ' ')}Z"
        yield "repeat", escape_controls(f"{when}  {other.id[:16]}  {other.state}  {other.rule.title}"), "dim"
    if report.more_repeats:
        yield "", "... and more", "dim"
    for line in alert.lines:
        yield "line", escape_part(line, _LINE_CHARS), ""


def describe_delivery(delivery: DeliveryReport) -> str:
    """To whom, what became of it, and when."""
    from watchdogd.write.formats.ecs import format_time  # noqa: PLC0415 - as above

    what = "" if delivery.kind == "alert" else f" ({delivery.kind})"
    tries = "" if delivery.attempts < 2 else f" after {delivery.attempts} tries"  # noqa: PLR2004 - one is the rule
    said = f": {delivery.last_error}" if delivery.last_error else ""
    if delivery.state == "pending":
        return f"{delivery.sink}{what}: waits until {format_time(delivery.due_ms)}{tries}{said}"
    words = {"dead": "given up", "routed": "left out: its verdict keeps it in the journal"}
    when = f", {format_time(delivery.ended_ms)}" if delivery.ended_ms is not None else ""
    return f"{delivery.sink}{what}: {words.get(delivery.state, delivery.state)}{tries}{when}{said}"
