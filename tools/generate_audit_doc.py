#!/usr/bin/env python3
"""Write the table in docs/audit-rules.md: what each line of systemd/audit.rules is for, and which rules live on it.

tools/generate_audit_doc.py            # writes the file
tools/generate_audit_doc.py --check    # exit 1 where the table differs from what would be written
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from watchdogd.match.audit_lines import AuditLine, read_lines
from watchdogd.match.feeds import BLIND, PARTLY, judge_rules
from watchdogd.match.library import load_rules

if TYPE_CHECKING:
    from watchdogd.match.syntax import RuleSet

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "audit-rules.md"
BEGIN = "<!-- made by tools/generate_audit_doc.py: begin -->"
END = "<!-- end -->"
SHOWN = 12


def find_lines() -> tuple[AuditLine, ...]:
    """Return what systemd/audit.rules says."""
    return read_lines((ROOT / "systemd" / "audit.rules").read_text(encoding="utf-8"))


Losses = dict[str, tuple[set[str], set[str]]]


def find_losses(rules: RuleSet, lines: tuple[AuditLine, ...]) -> Losses:
    """Return for each key the ids of rules that are blind without its lines, and of those that see less."""
    full = judge_rules(rules, lines)
    losses: Losses = {}
    for key in dict.fromkeys(line.key for line in lines if not line.never):
        left = judge_rules(rules, [line for line in lines if line.key != key])
        blind = {one for one, feeding in left.items() if feeding.state == BLIND != full[one].state}
        partly = {one for one, feeding in left.items() if feeding.state == PARTLY and feeding != full[one]}
        losses[key] = blind, partly
    return losses


def write_table(rules: RuleSet, lines: tuple[AuditLine, ...], losses: Losses) -> str:
    """Return the table, a row for each key."""
    stems = {rule.id: Path(rule.path).stem for rule in rules.rules}
    rows = ["| key | lines | what for | blind without it | see less |", "|---|---|---|---|---|"]
    for key, found in losses.items():
        of_key = [line for line in lines if line.key == key and not line.never]
        why = " ".join(dict.fromkeys(line.comment for line in of_key))
        lost = [name_all(ids, stems) for ids in found]
        rows.append(f"| `{key}` | {len(of_key)} | {why.replace('|', '/')} | {lost[0]} | {lost[1]} |")
    return "\n".join(rows)


def name_all(found: set[str], stems: dict[str, str]) -> str:
    """Return the files of some rules, without their ending; of many, how many there are."""
    names = sorted({stems[one] for one in found})
    return f"{len(found)} rules" if len(names) > SHOWN else ", ".join(names) or "-"


def build() -> str:
    """Return the document with its table made anew."""
    text = TARGET.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    rules, lines = load_rules([ROOT / "rules"]), find_lines()
    table = write_table(rules, lines, find_losses(rules, lines))
    return f"{head}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}"


def main() -> int:
    """Write or check the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    wanted = build()
    if parser.parse_args().check:
        return int(wanted != TARGET.read_text(encoding="utf-8"))
    TARGET.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
