"""`watchdogd status`: what the running daemon watches, by which rules, and what was lost."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

from watchdogd.cli.daemon import add_socket_option, ask, choose_socket
from watchdogd.cli.losses import PASSING, explain_loss
from watchdogd.cli.options import add_config_option
from watchdogd.reports import StatusReport, TriageReport

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from watchdogd.cli.display import Row
    from watchdogd.ledger import LedgerReport
    from watchdogd.listings import HistoryReport

HELP = "show what the running daemon watches, by which rules, and what was lost"

TIMEOUT_S = 20.0

_DATABASE = {
    "store_refusing": "takes no commits, what is new waits in memory, then in the log: the journal says why",
    "store_detached": "its file is gone and could not be written back: what is stored ends with this process",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_config_option(parser)
    add_socket_option(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="json: one object")


def run(args: argparse.Namespace) -> int:
    """Print the daemon's answer. 0 where it answers, 2 where it does not."""
    report = ask(choose_socket(args), "status", StatusReport, TIMEOUT_S)
    if args.format == "json":
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        show_status(report)
    return 0


def show_status(report: StatusReport) -> None:
    """Print it for a person, in colour on a terminal."""
    from rich.table import Table  # noqa: PLC0415 - start-up of other commands
    from rich.text import Text  # noqa: PLC0415

    from watchdogd.cli.display import TextConsole  # noqa: PLC0415

    console = TextConsole()
    rows = list(list_rows(report))
    if not console.is_terminal:
        width = max(len(name) for name, _, _ in rows)
        sys.stdout.writelines(f"{name:<{width}}  {text}\n" for name, text, _ in rows)
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text, style in rows:
        table.add_row(name, Text(text, style))
    console.print(table, soft_wrap=False)


def list_rows(report: StatusReport) -> Iterator[Row]:
    """Name, text (escaped) and style of each line."""
    from watchdogd.write.formats.ecs import format_time  # noqa: PLC0415 - start-up of other commands
    from watchdogd.write.formats.text import escape_controls  # noqa: PLC0415

    yield "watchdogd", f"{report.version}, pid {report.pid}, since {format_time(report.since_ms)}", ""
    yield "configuration", escape_controls(report.config or "built-in defaults"), ""
    yield from (("rules from", escape_controls(folder), "") for folder in report.folders)
    yield "rules", f"{report.active} active, {len(report.inactive)} inactive; {_describe_origin(report)}", ""
    load = report.last_load
    when = format_time(load.time_ms)
    if load.accepted:
        yield "last load", f"{when}, fine", "green"
    else:
        errors = sum(problem.severity == "error" for problem in load.problems)
        yield "last load", f"{when}, refused: {errors} mistake(s); the rules from before are in force", "bold red"
    for problem in load.problems:
        yield "", escape_controls(str(problem)), "red" if problem.severity == "error" else "yellow"
    for source in report.sources:
        text = f"{source.name}: {source.reads}"
        yield "source", escape_controls(text if source.running else f"{text}, not read now"), _style(source.running)
    yield from (
        ("database", f"{_DATABASE[name]} ({name})", "bold red") for name in _DATABASE if report.gauges.get(name)
    )
    if report.triage is not None:
        yield from _describe_triage(report.triage)
    if report.history is not None:
        yield from _describe_history(report.history)
    for silence in report.silences:
        what = f"{silence.id}: {' '.join(silence.matchers)}, until {format_time(silence.until_ms)[:16]}Z"
        why = f"muted {silence.muted}; {silence.reason} (by {silence.author})"
        yield "silence", escape_controls(f"{what}; {why}"), "magenta"
    lost = {name: count for name, count in report.counters.items() if count and name not in PASSING}
    for name, count in lost.items():
        yield "lost", f"{count}  {explain_loss(name)}", "yellow"
    if not lost:
        yield "lost", "nothing", "green"
    yield from (("blind", escape_controls(what), "bold red") for what in report.blind)
    if report.ledger is not None:
        yield from _describe_ledger(report.ledger)
    passed = (f"{name.removesuffix('_total')} {count}" for name, count in report.counters.items() if name in PASSING)
    yield "counted", ", ".join(passed), "dim"


def _describe_triage(triage: TriageReport) -> Iterator[Row]:
    from watchdogd.cli.models_list import describe_standing  # noqa: PLC0415 - as above
    from watchdogd.write.formats.text import escape_controls  # noqa: PLC0415

    if triage.model is None:
        yield "triage", "turned off", ""
        return
    server = {"open": "left alone, for it keeps failing", "half-open": "kept failing, is tried again"}
    yield (
        "triage",
        escape_controls(f"{triage.model}: {server.get(triage.server, 'is asked')}"),
        _style(triage.server == "closed"),
    )
    yield "exam", describe_standing(triage.standing), "" if triage.standing and triage.standing.passed else "yellow"
    asking = f"{triage.waiting} waiting, {triage.in_flight} being asked, {triage.budget_left} more at once"
    kept = f"{triage.sessions} groups open, {triage.cached} verdicts kept"
    yield "questions", f"{asking} ({triage.budget_per_minute} a minute); {kept}", ""
    if triage.opinions:
        given = ", ".join(f"{count} {label}" for label, count in triage.opinions.items())
        yield "your verdicts", given, ""


def _describe_history(history: HistoryReport) -> Iterator[Row]:
    from watchdogd.quantities import show_duration, show_size  # noqa: PLC0415 - as above
    from watchdogd.write.formats.ecs import format_time  # noqa: PLC0415

    states = ", ".join(f"{count} {state}" for state, count in sorted(history.states.items()) if count)
    since = f", since {format_time(history.oldest_ms)[:10]}" if history.oldest_ms is not None else ""
    yield "alerts", f"{sum(history.states.values())} stored{f': {states}' if states else ''}{since}", ""
    keep = "for ever" if history.keep_ms is None else show_duration(history.keep_ms)
    most = "" if history.max_bytes is None else f" of {show_size(history.max_bytes)}"
    pruned = f"; pruned: {history.pruned_age} for their age" if history.pruned_age or history.pruned_size else ""
    early = f", {history.pruned_size} before their time for lack of room" if history.pruned_size else ""
    text = f"{show_size(history.used_bytes)}{most}, kept {keep}{pruned}{early}"
    yield "database", text, "yellow" if history.pruned_size else ""


def _describe_ledger(ledger: LedgerReport) -> Iterator[Row]:
    yield "complete", ledger.describe(), _style(ledger.complete)
    for balance in ledger.balances:
        came = sum(balance.left.values())
        if not came and not balance.difference:
            continue
        went = " + ".join(f"{count} {_shorten(name)}" for name, count in balance.right.items() if count) or "nothing"
        text = f"{came} {balance.unit} ({', '.join(map(_shorten, balance.left))}) = {went}"
        yield "ledger", text, "bold red" if balance.difference else "dim"


def _shorten(name: str) -> str:
    return name.removesuffix("_total")


def _describe_origin(report: StatusReport) -> str:
    from watchdogd.write.formats.ecs import format_time  # noqa: PLC0415 - as above

    text = f"loaded {format_time(report.rules_from_ms)}"
    return f"{text}, by an earlier run" if report.rules_from_ms < report.since_ms else text


def _style(good: object) -> str:
    return "" if good else "bold red"
