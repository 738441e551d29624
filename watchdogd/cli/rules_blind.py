"""`watchdogd rules list --blind`: rules that see nothing, or too little, with the audit rules that are loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.errors import WatchdogdError
from watchdogd.match.audit_lines import read_lines
from watchdogd.match.feeds import BLIND, FED, PARTLY, UNKNOWN, find_line, judge_rules
from watchdogd.resources import find_resource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watchdogd.cli.rules_list import Row
    from watchdogd.entities import Rule
    from watchdogd.match.syntax import RuleSet

LOADED_PATH: Final = Path("/etc/audit/audit.rules")
AUDITCTL: Final = ("/usr/sbin/auditctl", "/sbin/auditctl")
_TIMEOUT_S: Final = 20.0


class BlindRule(msgspec.Struct, frozen=True):
    """A rule that does not get all it needs, and the lines of audit rules that would give it the rest."""

    rule: Rule
    state: str
    """BLIND or PARTLY."""
    lines: tuple[str, ...]


class BlindReport(msgspec.Struct, frozen=True):
    """What was found, and where the audit rules came from."""

    source: str
    audit_rules: int
    rules: tuple[BlindRule, ...]
    fed: int
    unknown: int
    """Rules of which it cannot be told."""


def find_blind(ruleset: RuleSet, rows: Sequence[Row], path: Path | None) -> BlindReport:
    """Hold the active ones of the rows against the audit rules of a file, or against those that are loaded.

    Raises WatchdogdError where neither can be read.
    """
    source, text = read_audit_rules(path)
    lines = read_lines(text)
    shipped = read_lines((find_resource("systemd") / "audit.rules").read_text(encoding="utf-8"))
    found = judge_rules(ruleset, lines)
    active = [row.rule for row in rows if not row.reason]
    blind = tuple(
        BlindRule(
            rule,
            found[rule.id].state,
            tuple(dict.fromkeys(find_line(need, shipped) for need in found[rule.id].missing)),
        )
        for rule in active
        if found[rule.id].state in {BLIND, PARTLY}
    )
    states = [found[rule.id].state for rule in active]
    return BlindReport(source, len(lines), blind, states.count(FED), states.count(UNKNOWN))


def read_audit_rules(path: Path | None, loaded: Path = LOADED_PATH) -> tuple[str, str]:
    """Where the audit rules come from, and what they say: the file, else the kernel's own (for root), else `loaded`."""
    program = next((name for name in AUDITCTL if os.access(name, os.X_OK)), None)
    if path is None and os.geteuid() == 0 and program is not None:
        done = subprocess.run(  # noqa: S603 - a fixed program, no shell
            [program, "-l"], capture_output=True, text=True, check=False, timeout=_TIMEOUT_S, errors="replace"
        )
        if done.returncode == 0:
            return "the kernel (auditctl -l)", done.stdout
    chosen = path or loaded
    try:
        return str(chosen), chosen.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        hint = "" if path else ": run it as root, or name a file by --audit-rules"
        raise WatchdogdError(f"cannot read the audit rules in {chosen}: {error.strerror}{hint}") from error


def print_blind(report: BlindReport, *, as_json: bool) -> None:
    """Each rule with what it lacks, the blind ones first."""
    if as_json:
        rules = [
            {"id": one.rule.id, "title": one.rule.title, "level": str(one.rule.level), "state": one.state}
            | {"missing": one.lines}
            for one in report.rules
        ]
        document = {"source": report.source, "audit_rules": report.audit_rules, "rules": rules}
        document |= {"fed": report.fed, "unknown": report.unknown}
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document)).decode() + "\n")
        return
    from rich.text import Text  # noqa: PLC0415 - start-up of other commands

    from watchdogd.cli.display import LEVEL_STYLES, TextConsole  # noqa: PLC0415
    from watchdogd.write.formats.text import escape_controls  # noqa: PLC0415

    console = TextConsole()
    for one in sorted(report.rules, key=lambda one: (one.state != BLIND, -one.rule.level.rank)):
        text = Text(f"{one.state:<6}  ", "bold" if one.state == BLIND else "")
        text.append(str(one.rule.level), LEVEL_STYLES[one.rule.level])
        text.append(f"  {escape_controls(one.rule.title)}  {escape_controls(one.rule.path)}")
        console.print(text)
        for line in one.lines:
            console.print(Text(f"        {escape_controls(line)}", "dim"))
    blind = sum(one.state == BLIND for one in report.rules)
    console.print(
        f"{blind} blind, {len(report.rules) - blind} partly, {report.fed} fed, {report.unknown} cannot be told; "
        f"{report.audit_rules} audit rules from {escape_controls(report.source)}"
    )
