"""Recorded logs, judged by the engine and in SQL: the same rules match the same events."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from msgspec.structs import replace

from tests.match.differential.oracle import Recorded, flatten_record, flatten_view, open_database
from tests.size import LARGE
from watchdogd.decode.decoder import Decoder
from watchdogd.decode.journal import RECORD_TYPE
from watchdogd.enrich.baseline import Baseline
from watchdogd.enrich.enricher import Enricher
from watchdogd.enrich.identity import Identity
from watchdogd.enrich.own import OwnProcesses
from watchdogd.enrich.process import ProcessTree
from watchdogd.entities import Event, Record
from watchdogd.match.engine import Engine
from watchdogd.match.library import load_rules
from watchdogd.match.subject import find_hidden_text
from watchdogd.match.syntax import RECORDS, RuleSet
from watchdogd.ports import SystemClock
from watchdogd.samples import read_entries
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

pytestmark = pytest.mark.sampled

ROOT = Path(__file__).parents[3]
EVENTS_PER_LOG = None if LARGE else 2


def read_lines(lines: Iterable[bytes]) -> list[Event]:
    """Decoded and enriched, as the judge sees them: audit lines, or entries of the journal."""
    counters = Counters()
    lines = list(lines)
    if lines and lines[0].startswith(b"{"):
        return list(read_entries(lines, counters))
    decoder = Decoder(counters, live=False)
    tree = ProcessTree(counters=counters)
    enricher = Enricher(tree, Identity(SystemClock()), Baseline(), OwnProcesses(()), counters=counters)
    fed = decoder.feed([Record("audit", None, line) for line in lines], 0)
    return [enricher.enrich(event) for event in (*fed.events, *decoder.drain().events)]


def read_documents(folders: Iterable[Path]) -> dict[str, dict[str, Any]]:
    paths = [path for folder in folders for path in sorted(folder.rglob("*.yml")) if "tests" not in path.parts]
    documents = [document for path in paths for document in yaml.safe_load_all(path.read_text("utf-8"))]
    return {document["id"]: document for document in documents if "detection" in document}


def judge_here(ruleset: RuleSet, events: Sequence[Event]) -> dict[str, set[int]]:
    engine = Engine(ruleset)
    found: dict[str, set[int]] = {body.rule.id: set() for body in ruleset.bodies if body.view}
    for number, event in enumerate(events):
        for match in engine.judge(event):
            found[match.rule.id].add(number)
    return found


def judge_in_sql(
    ruleset: RuleSet, documents: dict[str, dict[str, Any]], events: Sequence[Event]
) -> dict[str, set[int]]:
    with open_database() as database:
        recorded = Recorded(database)
        for number, event in enumerate(events):
            lines = [record.line.decode("utf-8", "backslashreplace") for record in event.records]
            for record in event.records:
                if record.type == RECORD_TYPE:  # of the journal: no record of audit's
                    continue
                recorded.add(number, RECORDS, flatten_record(record, find_hidden_text))
            for view in event.views:
                recorded.add(number, view.category, flatten_view(view, lines))
        return {
            body.rule.id: recorded.ask_records(documents[body.rule.id])
            if body.view == RECORDS
            else recorded.ask_views(documents[body.rule.id], body.view)
            for body in ruleset.bodies
            if body.view
        }


def test_rules_match_recorded_events_alike(corpora: Path) -> None:
    folders = [ROOT / "rules", corpora / "third_party" / "sigmahq"]
    ruleset = load_rules(folders)
    ruleset = RuleSet(tuple(replace(body, silent=False) for body in ruleset.bodies))
    logs = [path for path in sorted((corpora / "recorded").rglob("*.log")) if "lossy" not in path.parts]
    logs = logs if LARGE else logs[::2]
    events: list[Event] = []
    for log in logs:
        found = read_lines(log.read_bytes().splitlines())
        events += found if EVENTS_PER_LOG is None else found[:: max(1, len(found) // EVENTS_PER_LOG)]
    here = judge_here(ruleset, events)
    there = judge_in_sql(ruleset, read_documents(folders), events)
    different = {
        rule: (sorted(here[rule] - there[rule])[:3], sorted(there[rule] - here[rule])[:3])
        for rule in here
        if here[rule] != there[rule]
    }
    matches = sum(len(numbers) for numbers in here.values())
    print(f"{len(here)} rules x {len(events)} events, {matches} matches")  # noqa: T201 - shown with -s
    assert different == {}
    assert matches > 100
