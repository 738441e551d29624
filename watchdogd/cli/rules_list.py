"""`watchdogd rules list`: every rule that is read, whether it is in force, and where it comes from."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from watchdogd.cli.options import add_config_option, add_rules_option
from watchdogd.entities import Level
from watchdogd.errors import WatchdogdError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    from watchdogd.entities import Rule
    from watchdogd.match.library import RuleSet

HELP = "every rule: level, log source, techniques, in force or not"
DESCRIPTION = "Lists every rule that is read, correlations included, and says of each whether it is in force."

_HEAD = ("LEVEL", "TITLE", "ID", "LOG SOURCE", "TECHNIQUES", "FILE", "STATE")
_TITLE_CHARS = 60


class Row(msgspec.Struct, frozen=True):
    """One rule as it is listed."""

    rule: Rule
    kind: str
    """`rule` or `correlation`."""
    folder: str
    """The rule folder that it comes from."""
    reason: str
    """Why it is inactive; empty where it is not."""
    silent: bool
    """Only correlations hear of it."""

    @property
    def state(self) -> str:
        """In a word or two."""
        if self.reason:
            return f"inactive: {self.reason}"
        return "active, for correlations only" if self.silent else "active"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config_option(parser)
    add_rules_option(parser)
    parser.add_argument("--level", choices=[str(level) for level in Level], help="only rules of this level or above")
    parser.add_argument("--tactic", metavar="NAME", help="only rules of this ATT&CK tactic: `execution` or `TA0002`")
    parser.add_argument("--inactive", action="store_true", help="only rules that can never match here")
    parser.add_argument("--blind", action="store_true", help="only rules that the loaded audit rules cannot feed")
    parser.add_argument(
        "--audit-rules", metavar="FILE", type=Path, help="with --blind: rules of this file instead of the loaded ones"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="json: one array")


def run(args: argparse.Namespace) -> int:
    """Print the list. 0 fine, 2 where the rules cannot be loaded or no such tactic is known."""
    from watchdogd.config import load_config  # noqa: PLC0415 - start-up of other commands
    from watchdogd.match.sources import choose_sources, load_sources  # noqa: PLC0415

    tactic = None if args.tactic is None else find_tactic(args.tactic)
    config = load_config(args.config, environ=os.environ, overrides={})
    sources = choose_sources(config, args.rules, Path.cwd())
    folders = sources.folders
    if args.audit_rules is not None and not args.blind:
        raise WatchdogdError("--audit-rules goes with --blind")
    ruleset = load_sources(sources)
    rows = [
        row
        for row in list_rows(ruleset, folders)
        if (args.level is None or row.rule.level.rank >= Level(args.level).rank)
        and (tactic is None or f"attack.{tactic}" in row.rule.tags)
        and (row.reason or not args.inactive)
    ]
    if args.blind:
        from watchdogd.cli.rules_blind import find_blind, print_blind  # noqa: PLC0415 - as above

        blind = find_blind(ruleset, rows, args.audit_rules)
        print_blind(blind, as_json=args.format == "json")
        return 0
    if args.format == "json":
        sys.stdout.write(msgspec.json.format(msgspec.json.encode([document(row) for row in rows])).decode() + "\n")
    else:
        print_rows(rows)
    return 0


def find_tactic(text: str) -> str:
    """Return a tactic's name as tags write it. Raises WatchdogdError where ATT&CK has none of that name or number."""
    import difflib  # noqa: PLC0415 - as above

    from watchdogd.match.attack import load_attack  # noqa: PLC0415

    attack = load_attack()
    name = text.strip().lower().removeprefix("attack.").replace("_", "-").replace(" ", "-")
    by_number = {number.lower(): known for known, number in attack.tactics.items()}
    name = by_number.get(name, name)
    if name in attack.tactic_names:
        return name
    near = difflib.get_close_matches(name, attack.tactic_names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(attack.tactic_names)}"
    raise WatchdogdError(f"--tactic {text}: ATT&CK has no such tactic ({hint})")


def list_rows(ruleset: RuleSet, folders: Sequence[Path]) -> list[Row]:
    """All rules of a set: those over events first, then correlations, each in the order of the set."""
    rows = [
        Row(body.rule, "rule", _find_folder(body.rule, folders), "" if body.view else body.reason, body.silent)
        for body in ruleset.bodies
    ]
    rows += [
        Row(found.rule, "correlation", _find_folder(found.rule, folders), found.reason, found.silent)
        for found in ruleset.correlations
        if not found.copy_of
    ]
    return rows


def _find_folder(rule: Rule, folders: Iterable[Path]) -> str:
    path = Path(rule.path)
    return next((str(folder) for folder in folders if path.is_relative_to(folder)), "")


def show_source(row: Row) -> str:
    """Log source in short: what its author wrote."""
    rule = row.rule
    if row.kind == "correlation":
        return "correlation"
    return "/".join(part for part in (rule.product, rule.category, rule.service) if part) or "any"


def document(row: Row) -> dict[str, object]:
    """One rule as plain data."""
    rule = row.rule
    return {
        "id": rule.id,
        "title": rule.title,
        "level": str(rule.level),
        "kind": row.kind,
        "logsource": {"product": rule.product, "category": rule.category, "service": rule.service},
        "tags": rule.tags,
        "techniques": rule.techniques,
        "active": not row.reason,
        "reason": row.reason or None,
        "silent": row.silent,
        "folder": row.folder,
        "path": rule.path,
    }


def print_rows(rows: Sequence[Row]) -> None:
    """One line a rule, in columns; nothing is cut but titles, so that ids and paths can be copied."""
    from rich.text import Text  # noqa: PLC0415 - as above

    from watchdogd.cli.display import LEVEL_STYLES, TextConsole  # noqa: PLC0415
    from watchdogd.write.formats.text import escape_controls  # noqa: PLC0415

    cells = [_HEAD, *(tuple(map(escape_controls, _list_cells(row))) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD) - 1)]
    console = TextConsole()
    for line, row in zip(cells, [None, *rows], strict=True):
        text = Text()
        for column, (cell, width) in enumerate(zip(line, [*widths, 0], strict=True)):
            style = "bold" if row is None else "dim" if row.reason else ""
            if row is not None and column == 0 and not row.reason:
                style = LEVEL_STYLES[row.rule.level]
            text.append(f"{cell:<{width}}", style).append("  " if width else "")
        text.rstrip()
        console.print(text)
    inactive = sum(bool(row.reason) for row in rows)
    console.print(f"{len(rows) - inactive} active, {inactive} inactive")


def _list_cells(row: Row) -> tuple[str, ...]:
    rule = row.rule
    title = rule.title if len(rule.title) <= _TITLE_CHARS else f"{rule.title[: _TITLE_CHARS - 3]}..."
    techniques = ",".join(rule.techniques) or "-"
    return str(rule.level), title, rule.id, show_source(row), techniques, rule.path, row.state
