"""What the documents list is what the code has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from watchdogd.cli.losses import PASSING
from watchdogd.cli.main import COMMANDS
from watchdogd.telemetry import LABELS

ROOT = Path(__file__).parents[1]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
SOURCES = sorted((ROOT / "watchdogd").rglob("*.py"))


def find_counters() -> set[str]:
    """Names of counters in the source: literals, and those that a module builds from a list of short names."""
    names: set[str] = set()
    for path in SOURCES:
        source = path.read_text()
        code = re.sub(r'""".*?"""', "", source, flags=re.DOTALL)
        names.update(re.findall(r'"([a-z]+_[a-z_]+_total)"', code))
        if 'f"collect_{name}_total"' in code:
            listed = re.search(r"^_COUNTERS.* = \((.*?)\)", code, re.MULTILINE | re.DOTALL)
            assert listed is not None, f"{path}: which counters does collect_{{name}}_total stand for?"
            names.update(f"collect_{name}_total" for name in re.findall(r'"([a-z_]+)"', listed[1]))
        assert not re.search(r'f"[^"]*_total"', code.replace('f"collect_{name}_total"', "")), path
    return names - set(LABELS)  # docs/api.md has those


def list_documented() -> list[str]:
    return re.findall(r"^\| `([a-z_]+_total)` \|", ARCHITECTURE, re.MULTILINE)


def test_counters_are_found() -> None:
    assert len(find_counters()) > 30


def test_every_counter_is_documented_once_and_none_that_is_not_there() -> None:
    assert sorted(list_documented()) == sorted(find_counters())


def test_every_counter_of_loss_says_what_it_counts_and_what_to_do() -> None:
    losses = ARCHITECTURE[ARCHITECTURE.index("## What can be lost") :].partition("What passes:")[0]
    for row in re.findall(r"^\| `[a-z_]+_total` \|.*$", losses, re.MULTILINE):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 3, row
        assert all(cells), row


def test_every_gauge_is_documented_and_none_that_is_not_there() -> None:
    code = "".join(path.read_text() for path in SOURCES)
    section = ARCHITECTURE.partition("How it stands now")[2].partition("\n## ")[0]
    gauges = re.findall(r"^\| `([a-z_]+)` \|", section, re.MULTILINE)
    assert sorted(gauges) == sorted(set(re.findall(r'set_gauge\("([a-z_]+)"', code)))


def test_status_calls_lost_whatever_the_document_does() -> None:
    """A new counter of what passes belongs in `PASSING` of watchdogd/cli/losses.py, too."""
    passes = ARCHITECTURE.partition("What passes:")[2].partition("How it stands now")[0]
    assert sorted(re.findall(r"^\| `([a-z_]+_total)` \|", passes, re.MULTILINE)) == sorted(PASSING)


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "schemas").glob("*.json")), ids=lambda path: path.name)
def test_schema_is_a_schema(path: Path) -> None:
    schema = json.loads(path.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_named(command: str) -> None:
    assert re.search(rf"\bwatchdogd {command}\b", (ROOT / "README.md").read_text() + ARCHITECTURE)


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name
)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target
