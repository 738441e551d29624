"""What the configuration asks for, by way of a real file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from watchdogd.config import load_config
from watchdogd.entities import Level
from watchdogd.errors import Place, RuleError
from watchdogd.match.sources import choose_sources, load_sources

if TYPE_CHECKING:
    from pathlib import Path

IDS = tuple(f"{number:08d}-1111-4111-8111-aaaaaaaaaaaa" for number in range(4))
RULE = """\
title: {title}
id: {id}
level: high
logsource: {{product: linux, category: process_creation}}
detection:
  selection:
    {field}: {value}
  condition: selection
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for layer in ("base", "mine"):
        (tmp_path / layer).mkdir()
    for number in range(3):
        (tmp_path / "base" / f"{number}.yml").write_text(
            RULE.format(title=f"base {number}", id=IDS[number], field="Image", value="/x")
        )
    return tmp_path


def write(folder: Path, rules: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(f"rules:\n  folders: [base, mine]\n{rules}")
    return path


def load(folder: Path, rules: str, *given: Path) -> dict[str, Level]:
    config = load_config(write(folder, rules), environ={})
    return {rule.title: rule.level for rule in load_sources(choose_sources(config, given, folder)).rules}


def test_a_later_layers_rule_takes_the_place_of_an_earlier_ones(folder: Path) -> None:
    (folder / "mine" / "other_name.yaml").write_text(
        RULE.format(title="mine", id=IDS[1].upper(), field="Image", value="/y")
    )
    assert load(folder, "") == dict.fromkeys(("base 0", "mine", "base 2"), Level.HIGH)


def test_rules_are_switched_off_and_re_levelled_by_id(folder: Path) -> None:
    changed = f"  disabled: [{IDS[0].upper()}]\n  levels:\n    {IDS[2]}: low\n"
    assert load(folder, changed) == {"base 1": Level.HIGH, "base 2": Level.LOW}


def test_rules_that_are_named_on_the_command_line_are_taken_as_they_are(folder: Path) -> None:
    changed = f"  disabled: [{IDS[0]}]\n  levels:\n    {IDS[2]}: low\n"
    assert load(folder, changed, folder / "base") == dict.fromkeys(("base 0", "base 1", "base 2"), Level.HIGH)


def test_an_id_that_no_rule_has_is_told_with_its_place(folder: Path) -> None:
    path = write(folder, f"  disabled:\n    - {IDS[3]}\n  levels:\n    {IDS[3]}: low\n")
    rules = load_sources(choose_sources(load_config(path, environ={}), (), folder))
    assert [problem.place for problem in rules.warnings] == [Place(str(path), 4, 7), Place(str(path), 6, 5)]


def test_placeholders_come_from_the_file_that_is_named(folder: Path) -> None:
    (folder / "mine" / "tools.yml").write_text(
        RULE.format(title="tools", id=IDS[3], field="Image|expand", value="'%tools%'")
    )
    (folder / "lists.yaml").write_text("tools: [/usr/bin/nmap]\n")
    assert "tools" in load(folder, "  placeholders: lists.yaml\n")
    with pytest.raises(RuleError, match="tools"):
        load(folder, "")
    with pytest.raises(RuleError, match=r"gone\.yaml"):
        load(folder, "  placeholders: gone.yaml\n")
