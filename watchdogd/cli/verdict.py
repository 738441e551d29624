"""`watchdogd verdict`: what the operator says of an alert. Triage learns from it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

from watchdogd.cli.daemon import add_socket_option, ask, choose_socket
from watchdogd.cli.options import add_config_option
from watchdogd.entities import Label
from watchdogd.reports import OpinionReport, OpinionRequest

if TYPE_CHECKING:
    import argparse

HELP = "say what an alert really was: triage takes it as an example from then on"

LABELS = ("malicious", "suspicious", "benign")
TIMEOUT_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("alert_id", metavar="ALERT_ID", help="the alert's id, or its first characters")
    parser.add_argument("label", choices=LABELS, help="what it was")
    parser.add_argument("--note", default="", metavar="TEXT", help="why: kept with the verdict, shown to the model")
    add_config_option(parser)
    add_socket_option(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="json: one object")


def run(args: argparse.Namespace) -> int:
    """Print what became of it. 0 where it is kept, 2 where the daemon does not answer or knows no such alert."""
    request = OpinionRequest(args.alert_id, Label(args.label), args.note)
    report = ask(choose_socket(args), "verdict", OpinionReport, TIMEOUT_S, request)
    if args.format == "json":
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        sys.stdout.write(f"{render(report)}\n")
    return 0


def render(report: OpinionReport) -> str:
    """The answer for a person."""
    from watchdogd.write.formats.text import escape_controls  # noqa: PLC0415 - start-up of other commands

    said = "not triaged" if report.said is Label.UNTRIAGED else f"triage said {report.said}"
    before = f", your verdict before: {report.before}" if report.before is not None else ""
    given = ", ".join(f"{count} {label}" for label, count in report.opinions.items())
    return (
        f"{report.alert_id[:16]} {escape_controls(report.title)}: {report.label} ({said}{before})\n"
        f"your verdicts: {given}"
    )
