"""`watchdogd doctor`: looks at everything that watchdogd rests on, says what is wrong and which command mends it."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.cli.options import add_config_option

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from watchdogd.cli.doctor_findings import Finding
    from watchdogd.cli.doctor_rounds import Check
    from watchdogd.config import Config

HELP = "look for what is wrong, and name the command that mends it"

GROUPS: Final = ("audit", "journal", "rules", "service", "files", "ollama", "webhooks", "host")
TIMEOUT_S: Final = 30.0
_MARKS: Final = {"ok": "ok", "warning": "warning", "error": "ERROR", "unknown": "unknown"}
_STYLES: Final = {"ok": "green", "warning": "yellow", "error": "bold red", "unknown": "dim"}
_INDENT: Final = 11


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_config_option(parser)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"look at these only: {', '.join(GROUPS)}")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument("--strict", action="store_true", help="a warning fails, too")
    parser.add_argument("--send", action="store_true", help="send a test alert to each webhook (else nothing is sent)")
    parser.add_argument(
        "--timeout", type=float, default=TIMEOUT_S, metavar="S", help="for all checks together (default: %(default)g)"
    )


def run(args: argparse.Namespace) -> int:
    """Print what was found. 0 fine, 1 at least one error (with --strict also warnings), 2 no such group."""
    from watchdogd.cli.doctor_findings import count  # noqa: PLC0415 - start-up of other commands
    from watchdogd.cli.doctor_rounds import make_rounds  # noqa: PLC0415
    from watchdogd.cli.doctor_site import Site  # noqa: PLC0415

    unknown = [group for group in args.groups if group not in GROUPS]
    if unknown:
        sys.stderr.write(f"watchdogd doctor: no group is named {unknown[0]!a} (known: {', '.join(GROUPS)})\n")
        return 2
    config, trouble = read_settings(args.config, dict(os.environ))
    site = Site(config, now_ms=time.time_ns() // 1_000_000, send=args.send)
    findings = [*trouble, *make_rounds(list_checks(args.groups or GROUPS), site, args.timeout)]
    if args.json:
        sys.stdout.write(msgspec.json.encode(document(findings, site.is_root)).decode() + "\n")
    else:
        show_findings(findings, is_root=site.is_root)
    failures = count(findings, "error") + (count(findings, "warning") if args.strict else 0)
    return 1 if failures else 0


def list_checks(groups: Sequence[str]) -> list[Check]:
    """Every check of these groups, in the order in which findings are shown."""
    from watchdogd.cli import (  # noqa: PLC0415 - start-up of other commands
        doctor_audit,
        doctor_daemon,
        doctor_files,
        doctor_host,
        doctor_journal,
        doctor_ollama,
        doctor_unit,
        doctor_webhooks,
    )
    from watchdogd.cli.doctor_rounds import Check  # noqa: PLC0415

    every = (
        Check("audit", "auditd", doctor_audit.check_auditd),
        Check("audit", "kernel audit", doctor_audit.check_kernel),
        Check("audit", "audit rules", doctor_audit.check_rules),
        Check("audit", "audit log", doctor_audit.check_log),
        Check("journal", "journald", doctor_journal.check_journald),
        Check("journal", "journal storage", doctor_journal.check_storage),
        Check("journal", "journal rate limit", doctor_journal.check_rate),
        Check("journal", "reading alerts", doctor_journal.check_reader),
        Check("rules", "settings and rules", doctor_files.check_rules),
        Check("service", "service", doctor_unit.check_unit),
        Check("service", "sandbox", doctor_unit.check_sandbox),
        Check("service", "daemon", doctor_daemon.check_daemon),
        Check("files", "writers", doctor_files.check_writers),
        Check("files", "readers", doctor_files.check_readers),
        Check("files", "own files", doctor_files.check_untouched),
        Check("ollama", "Ollama", doctor_ollama.check_ollama),
        Check("ollama", "port", doctor_ollama.check_port),
        Check("webhooks", "webhooks", doctor_webhooks.check_webhooks),
        Check("host", "disk", doctor_host.check_disks),
        Check("host", "memory", doctor_host.check_memory),
        Check("host", "clock", doctor_host.check_clock),
    )
    return [check for check in every if check.group in groups]


def read_settings(path: Path | None, environ: dict[str, str]) -> tuple[Config, list[Finding]]:
    """The settings as far as they can be read, and why not all of them; with broken ones there is still much to see."""
    from watchdogd.cli.doctor_findings import error, needs_root  # noqa: PLC0415 - as above
    from watchdogd.config import read_config  # noqa: PLC0415
    from watchdogd.errors import WatchdogdError  # noqa: PLC0415

    try:
        config, _ = read_config(path, environ=environ)
    except WatchdogdError as problem:
        config, _ = read_config(None, environ={})
        if path is not None and path.exists() and not os.access(path, os.R_OK):
            found = needs_root("settings", f"{path}: what follows is about the defaults. It")
        else:
            found = error("settings", f"What follows is about the defaults: {problem}", "watchdogd check")
        return config, [msgspec.structs.replace(found, group="rules")]
    return config, []


def document(findings: Sequence[Finding], is_root: bool) -> dict[str, object]:  # noqa: FBT001 - one fact
    """The findings as plain data."""
    return {
        "root": is_root,
        "counts": {level: sum(finding.level == level for finding in findings) for level in _MARKS},
        "findings": findings,
    }


def show_findings(findings: Sequence[Finding], *, is_root: bool) -> None:
    """Print them for a person, in colour on a terminal; everything in them is escaped by now."""
    from rich.text import Text  # noqa: PLC0415 - start-up of other commands

    from watchdogd.cli.display import TextConsole  # noqa: PLC0415

    console = TextConsole()
    group = ""
    for finding in findings:
        if finding.group != group:
            console.print(Text(f"{'' if not group else chr(10)}{finding.group}", "bold"))
            group = finding.group
        line = Text("  ").append(f"{_MARKS[finding.level]:<9}", _STYLES[finding.level])
        console.print(
            line.append(f"{finding.check}: ", "bold" if finding.level == "error" else "").append(finding.text)
        )
        if finding.mend:
            console.print(Text(" " * _INDENT + "-> ", "dim").append(finding.mend, "cyan"))
    console.print(Text(f"\n{summarise(findings, is_root=is_root)}"))


def summarise(findings: Sequence[Finding], *, is_root: bool) -> str:
    """One line at the end."""
    number = {level: sum(finding.level == level for finding in findings) for level in _MARKS}
    parts = [f"{number['ok']} fine"]
    parts += [
        f"{number[level]} {name}{'' if number[level] == 1 else 's'}"
        for level, name in (("warning", "warning"), ("error", "error"))
        if number[level]
    ]
    parts += [f"{number['unknown']} not known"] * bool(number["unknown"])
    hint = "" if is_root else " (root sees more: sudo watchdogd doctor)"
    return f"{', '.join(parts)}{hint}"
