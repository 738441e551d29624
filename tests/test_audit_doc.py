"""docs/audit-rules.md: every key has its row, and what a row says is so. Newer rules may be missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tools.generate_audit_doc import BEGIN, END, TARGET, find_lines, find_losses, write_table
from watchdogd.match.library import load_rules
from watchdogd.resources import find_packaged_rules

if TYPE_CHECKING:
    from tools.generate_audit_doc import Losses
    from watchdogd.match.syntax import RuleSet


@pytest.fixture(scope="module")
def rules() -> RuleSet:
    return load_rules([find_packaged_rules()])


@pytest.fixture(scope="module")
def losses(rules: RuleSet) -> Losses:
    return find_losses(rules, find_lines())


def read_rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in text.strip().splitlines()[2:]]


def test_the_table_is_that_of_the_audit_rules(rules: RuleSet, losses: Losses) -> None:
    """When this fails: tools/generate_audit_doc.py."""
    written = TARGET.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    made = write_table(rules, find_lines(), losses)
    assert [row[:3] for row in read_rows(written)] == [row[:3] for row in read_rows(made)]


def test_rules_that_the_table_names_live_on_those_lines(rules: RuleSet, losses: Losses) -> None:
    """When this fails: tools/generate_audit_doc.py."""
    stems = {rule.id: Path(rule.path).stem for rule in rules.rules}
    named = 0
    for key, _, _, *cells in read_rows(TARGET.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]):
        for cell, found in zip(cells, losses[key.strip("`")], strict=True):
            names = set() if cell == "-" or cell.endswith(" rules") else set(cell.split(", "))
            named += len(names)
            assert names & set(stems.values()) <= {stems[one] for one in found}, key
    assert named > 5
