"""`make eval-rules`: what the rule pack finds in recorded attacks, and how often it speaks up about ordinary work.

Writes `docs/detection.md` and an ATT&CK Navigator layer beside it. The recordings are a development set: rules were
written with them at hand, so the figures are an upper bound for other hosts.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from evaluation.corpus import Outcome, judge_mixed_log, judge_single_logs
from watchdogd.entities import Level
from watchdogd.match.engine import Engine
from watchdogd.match.library import RuleSet, load_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from watchdogd.entities import Rule

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "docs" / "detection.md"
LAYER = ROOT / "docs" / "attack-layer.json"
MEDIUM, HIGH = Level.MEDIUM.rank, Level.HIGH.rank
_Z95 = 1.959964


class Share(msgspec.Struct, frozen=True):
    """How many of how many."""

    hits: int
    total: int

    def __str__(self) -> str:
        """`63/66, 95.5 % [87.5, 98.4]`, with the interval."""
        if not self.total:
            return "-"
        low, high = wilson(self.hits, self.total)
        return f"{self.hits}/{self.total}, {100 * self.hits / self.total:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (Wilson 1927, JASA 22:209-212)."""
    share, square = hits / total, _Z95 * _Z95
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = _Z95 * math.sqrt(share * (1 - share) / total + square / (4 * total * total)) / (1 + square / total)
    return max(0.0, middle - half), min(1.0, middle + half)


def count(outcomes: Iterable[Outcome], rank: int) -> Share:
    """Share of the outcomes with an alert of at least this rank."""
    ranks = [outcome.rank for outcome in outcomes]
    return Share(sum(found >= rank for found in ranks), len(ranks))


def label(outcomes: Iterable[Outcome], name: str) -> list[Outcome]:
    """Those with one label."""
    return [outcome for outcome in outcomes if outcome.scenario.label == name]


def render_report(single: Sequence[Outcome], mixed: Sequence[Outcome], ruleset: RuleSet) -> str:
    """Return docs/detection.md."""
    found = (*_summary(single, mixed), *_groups(single), *_misses(single, mixed), *_noise(single, mixed))
    return "\n".join((*_head(ruleset), *found)) + "\n"


def _head(ruleset: RuleSet) -> Iterator[str]:
    yield "# What the rules find"
    yield ""
    yield (
        f"Written by `make eval-rules`: {len(ruleset.rules)} active rules on the recorded development set, each "
        "scenario replayed by itself, and thirty of them interleaved in one log (`mixed.log`). Shares come with "
        "Wilson's 95 % interval. The rules were written with these recordings at hand, so other hosts will see "
        "less; where a rule leans on what only one recording shows, that is a bug."
    )
    yield ""


def _summary(single: Sequence[Outcome], mixed: Sequence[Outcome]) -> Iterator[str]:
    yield "| | goal | one scenario a log | interleaved |"
    yield "|---|---|---|---|"
    rows: tuple[tuple[str, str, str, int], ...] = (
        ("malicious, an alert of medium or above", ">= 95 %", "malicious", MEDIUM),
        ("malicious, an alert of high or above", "", "malicious", HIGH),
        ("suspicious, any alert", "", "suspicious", 0),
        ("benign, an alert of high or above", "<= 5 %", "benign", HIGH),
        ("benign, an alert of medium or above", "", "benign", MEDIUM),
        ("benign, any alert", "<= 35 %", "benign", 0),
    )
    for title, goal, name, rank in rows:
        yield f"| {title} | {goal} | {count(label(single, name), rank)} | {count(label(mixed, name), rank)} |"
    for name, outcomes in (("one scenario a log", single), ("interleaved", mixed)):
        alerts = Counter(outcome.scenario.label for outcome in outcomes for _ in outcome.alerts)
        yield ""
        yield f"Alerts in all, {name}: " + ", ".join(f"{alerts[key]} {key}" for key in sorted(alerts)) + "."
    yield ""


def _groups(single: Sequence[Outcome]) -> Iterator[str]:
    yield "## Malicious, by tactic"
    yield ""
    yield from _table(label(single, "malicious"), lambda outcome: outcome.scenario.tactic, (MEDIUM, HIGH))
    yield "## By family"
    yield ""
    yield "Scenarios of one theme, with their look-alikes from ordinary work."
    yield ""
    families: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in single:
        families[outcome.scenario.family].append(outcome)
    yield "| family | malicious >= medium | benign >= high | benign, any |"
    yield "|---|---|---|---|"
    for family in sorted(families):
        bad, good = label(families[family], "malicious"), label(families[family], "benign")
        yield f"| {family} | {_short(bad, MEDIUM)} | {_short(good, HIGH)} | {_short(good, 0)} |"
    yield ""


def _short(outcomes: Sequence[Outcome], rank: int) -> str:
    share = count(outcomes, rank)
    return f"{share.hits}/{share.total}" if share.total else ""


def _table(outcomes: Sequence[Outcome], key: Callable[[Outcome], str], ranks: tuple[int, int]) -> Iterator[str]:
    yield "| | medium or above | high or above |"
    yield "|---|---|---|"
    for name in sorted({key(outcome) for outcome in outcomes}):
        chosen = [outcome for outcome in outcomes if key(outcome) == name]
        yield f"| {name} | {count(chosen, ranks[0])} | {count(chosen, ranks[1])} |"
    yield ""


def _misses(single: Sequence[Outcome], mixed: Sequence[Outcome]) -> Iterator[str]:
    yield "## Missed"
    yield ""
    yield "Malicious scenarios without an alert of medium or above."
    yield ""
    missed = [
        f"- `{outcome.scenario.id}` ({where}; {', '.join(outcome.scenario.techniques)}): {outcome.scenario.summary}"
        for where, outcomes in (("by itself", single), ("interleaved", mixed))
        for outcome in label(outcomes, "malicious")
        if outcome.rank < MEDIUM
    ]
    yield from missed or ["None."]
    yield ""


def _noise(single: Sequence[Outcome], mixed: Sequence[Outcome]) -> Iterator[str]:
    yield "## Alerts about ordinary work"
    yield ""
    noisy = [
        f"- `{outcome.scenario.id}` ({where}): {_name_rules(outcome)}"
        for where, outcomes in (("by itself", single), ("interleaved", mixed))
        for outcome in label(outcomes, "benign")
        if outcome.alerts
    ]
    yield from noisy or ["None."]


def _name_rules(outcome: Outcome) -> str:
    counts = Counter((alert.level.rank, str(alert.level.value), alert.rule.title) for alert in outcome.alerts)
    rows = sorted(counts.items(), key=lambda row: (-row[0][0], row[0][2]))
    return "; ".join(f"{level}: {title}" + (f" x{number}" if number > 1 else "") for (_, level, title), number in rows)


def render_layer(rules: Iterable[Rule]) -> dict[str, Any]:
    """Return an ATT&CK Navigator layer (format 4.5): each technique with its number of rules, and their titles."""
    by_technique: dict[str, list[str]] = defaultdict(list)
    for rule in rules:
        for technique in rule.techniques:
            by_technique[technique].append(rule.title)
    most = max((len(titles) for titles in by_technique.values()), default=1)
    return {
        "name": "watchdogd rule pack",
        "versions": {"layer": "4.5", "navigator": "5.1.0"},
        "domain": "enterprise-attack",
        "description": "Techniques that the shipped rules are about, by number of rules.",
        "filters": {"platforms": ["Linux", "Containers"]},
        "gradient": {"colors": ["#dbe9f6", "#08306b"], "minValue": 0, "maxValue": most},
        "techniques": [
            {"techniqueID": name, "score": len(titles), "comment": "; ".join(sorted(titles))}
            for name, titles in sorted(by_technique.items())
        ],
    }


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command."""
    parser = argparse.ArgumentParser(prog="make eval-rules", description=__doc__)
    parser.add_argument("--rules", type=Path, action="append", help="folder of rules (may repeat); default: rules/")
    parser.add_argument("--write", action="store_true", help="write docs/detection.md and docs/attack-layer.json")
    corpora = os.environ.get("WATCHDOGD_CORPORA", str(ROOT.parent / "shared" / "data"))
    parser.add_argument("--recorded", type=Path, default=Path(corpora) / "recorded", help="the labelled recordings")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate; print the report; 2 where the recordings are not there."""
    args = parse_arguments(arguments)
    if not (args.recorded / "labels.jsonl").is_file():
        sys.stderr.write(f"no labelled recordings in {args.recorded} (WATCHDOGD_CORPORA names their parent)\n")
        return 2
    ruleset = load_rules(args.rules or [ROOT / "rules"])
    single = list(judge_single_logs(Engine(ruleset), args.recorded))
    mixed = list(judge_mixed_log(Engine(ruleset), args.recorded))
    report = render_report(single, mixed, ruleset)
    if args.write:
        REPORT.write_text(report, encoding="utf-8")
        LAYER.write_text(json.dumps(render_layer(ruleset.rules), indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
