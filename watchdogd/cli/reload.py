"""`watchdogd reload`: have the running daemon load configuration and rules, wait for it, and say what came of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from watchdogd.cli.daemon import add_socket_option, ask, choose_socket
from watchdogd.cli.options import add_config_option
from watchdogd.reports import LoadReport

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from watchdogd.errors import Problem
    from watchdogd.reports import RuleName

HELP = "load configuration and rules into the running daemon, and wait for it"

TIMEOUT_S = 180.0
EXIT_REFUSED = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_config_option(parser)
    add_socket_option(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="json: one object")


def run(args: argparse.Namespace) -> int:
    """Print what has changed, or every mistake. 0 in force now, 2 refused (the old stays in force) or no daemon."""
    report = ask(choose_socket(args), "reload", LoadReport, TIMEOUT_S)
    if args.format == "json":
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    elif report.accepted:
        sys.stdout.writelines(f"{line}\n" for line in render_change(report))
    else:
        sys.stderr.writelines(f"{line}\n" for line in render_problems(report.problems))
        sys.stderr.write(f"\nrefused: the {report.active} active rules from before stay in force, and all settings\n")
    return 0 if report.accepted else EXIT_REFUSED


def render_change(report: LoadReport) -> Iterator[str]:
    """Lines for a person: warnings, what became of each rule that is not as before, and how many there are."""
    yield from render_problems(report.problems)
    for verb, rules in (("added", report.added), ("removed", report.removed), ("changed", report.changed)):
        yield from (f"{verb:<8} {_name(rule)}" for rule in rules)
    counts = f"{len(report.added)} added, {len(report.removed)} removed, {len(report.changed)} changed"
    yield f"{report.active} rules active, {report.inactive} inactive; {counts}"


def render_problems(problems: Iterable[Problem]) -> Iterator[str]:
    """Each mistake with its source line and a caret; what may be secret in a line of settings is blotted."""
    from watchdogd.errors import ProblemsError  # noqa: PLC0415 - start-up of other commands
    from watchdogd.marks import caret_lines, read_text  # noqa: PLC0415
    from watchdogd.secret_files import blot_secrets  # noqa: PLC0415
    from watchdogd.write.formats.text import escape_controls  # noqa: PLC0415

    for problem in problems:
        yield escape_controls(str(problem))
        path = Path(problem.place.path)
        if problem.place.line is None or not path.is_file():
            continue
        try:
            lines = caret_lines(problem, read_text(path)).splitlines()
        except ProblemsError:
            continue
        yield from (blot_secrets(line) for line in lines)


def _name(rule: RuleName) -> str:
    from watchdogd.write.formats.text import escape_controls  # noqa: PLC0415 - as above

    return escape_controls(f"{rule.title} ({rule.id})")
