"""`make eval`: how well triage tells attacks from ordinary work on the recorded development set, and what it spares.

The unit is a scenario that raised at least one alert, its score the highest over its alerts. Beside what ships stand
three baselines, and everything is told twice: as it ships, and with weights or cases from other families only. A real
model is asked, too: the one named by --model and --ollama, else a 1.5B one that is fetched and started for it.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.detection import Share
from evaluation.logistic import chance
from evaluation.model_report import Baseline, Questioning, report_on_model
from evaluation.population import Case, Told, gather_mixed, gather_single
from evaluation.training import ROOT, calibrate, find_corpora, find_sigma, fit_by_family, score_case
from tests.ollama.server import LARGE, ServingError, serve
from watchdogd.entities import Label, Level
from watchdogd.errors import TriageError
from watchdogd.triage.ranking import rank
from watchdogd.triage.scorer import Scorer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from evaluation.logistic import Fit

REPORT = ROOT / "docs" / "triage-measured.md"
NEIGHBOURS = 5
LABELS = ("malicious", "suspicious", "benign")
HIGH = Level.HIGH.rank


def judge_by_level(case: Case) -> float:
    """The rule's level alone."""
    return float(case.level.rank)


def judge_by_scorer(scorer: Scorer) -> Callable[[Case], float]:
    """The embedded scorer, by the weights that ship."""

    def judge(case: Case) -> float:
        return max(scorer.score(told.alert, told.background).probability for told in case.told)

    return judge


def judge_unseen(unseen: dict[str, Fit], slope: float, offset: float) -> Callable[[Case], float]:
    """The embedded scorer, by weights that were fitted without the scenario's family."""
    return lambda case: chance(slope * score_case(unseen[case.scenario.family], case) + offset)


def judge_by_neighbours(cases: Sequence[Case], *, by_family: bool) -> Callable[[Case], float]:
    """Share of attacks among the most similar alerts of other scenarios, or of other families."""
    known = [(told.tokens, case) for case in cases if case.scenario.label != "suspicious" for told in case.told]

    def judge(case: Case) -> float:
        others = [
            (tokens, other)
            for tokens, other in known
            if other.scenario.id != case.scenario.id
            and not (by_family and other.scenario.family == case.scenario.family)
        ]
        return max(_ask_neighbours(told, others) for told in case.told)

    return judge


def _ask_neighbours(told: Told, others: Sequence[tuple[frozenset[str], Case]]) -> float:
    near = sorted(
        ((len(told.tokens & tokens) / len(told.tokens | tokens), other.malicious) for tokens, other in others),
        key=lambda pair: -pair[0],
    )[:NEIGHBOURS]
    total = sum(likeness for likeness, _ in near)
    return sum(likeness for likeness, malicious in near if malicious) / total if total else 0.5


def rate(cases: Sequence[Case], judge: Callable[[Case], float]) -> str:
    """AUROC of malicious against benign scenarios, with DeLong's 95 % interval."""
    scores = {case.scenario.id: judge(case) for case in cases}
    above = [scores[case.scenario.id] for case in cases if case.malicious]
    below = [scores[case.scenario.id] for case in cases if case.scenario.label == "benign"]
    if not above or not below:
        return "-"
    found = rank(above, below)
    return f"{found.auroc:.3f} [{found.low:.3f}, {found.high:.3f}]"


def describe(cases: Sequence[Case], judge: Callable[[Case], float], scorer: Scorer) -> Iterator[tuple[str, str]]:
    """What the shipped thresholds make of it."""
    said = {case.scenario.id: scorer.label(judge(case)) for case in cases}
    attacks = [case for case in cases if case.malicious]
    spared = [case for case in cases if case.scenario.label == "benign" and case.level.rank < HIGH]
    benign = [case for case in cases if case.scenario.label == "benign"]
    yield "malicious, not called benign", _share(attacks, lambda case: said[case.scenario.id] != Label.BENIGN)
    yield "malicious, called malicious", _share(attacks, lambda case: said[case.scenario.id] == Label.MALICIOUS)
    yield "benign, called malicious", _share(benign, lambda case: said[case.scenario.id] == Label.MALICIOUS)
    yield "benign without a high alert, called benign", _share(spared, lambda c: said[c.scenario.id] == Label.BENIGN)


def _share(cases: Sequence[Case], holds: Callable[[Case], bool]) -> str:
    return str(Share(sum(map(holds, cases)), len(cases)))


def _count(cases: Sequence[Case], label: str) -> int:
    return sum(case.scenario.label == label for case in cases)


def render(
    populations: dict[str, Sequence[Case]], unseen: dict[str, Fit], slope: float, offset: float
) -> Iterator[str]:
    """The report of what needs no model. `unseen`: weights fitted without a family, scaled by `slope` and `offset`."""
    scorer = Scorer()
    left_out = judge_unseen(unseen, slope, offset)
    yield "# What triage tells apart, measured"
    yield ""
    yield (
        "Written by `make eval` on the recorded development set. The unit is a scenario that raised at least one "
        "alert, its score the highest over its alerts. AUROC is of malicious against benign scenarios, with DeLong's "
        "interval; shares have Wilson's. *Left out*: by weights, or cases, of other families only. That is what to "
        "expect elsewhere, and still too good where all recordings share habits."
    )
    yield ""
    yield f"Thresholds: malicious from {scorer.malicious_from}, benign below {scorer.benign_below}."
    yield ""
    for title, cases in populations.items():
        yield f"## {title}"
        yield ""
        yield from _compare(cases, scorer, left_out)


def _compare(cases: Sequence[Case], scorer: Scorer, left_out: Callable[[Case], float]) -> Iterator[str]:
    shipped = judge_by_scorer(scorer)
    number = {
        name: sum(case.scenario.label == name for case in cases) for name in ("malicious", "suspicious", "benign")
    }
    yield "Scenarios: " + ", ".join(f"{count} {name}" for name, count in number.items()) + "."
    yield ""
    yield "| judged by | AUROC | family left out |"
    yield "|---|---|---|"
    yield f"| rule level only | {rate(cases, judge_by_level)} | the same |"
    near = [rate(cases, judge_by_neighbours(cases, by_family=flag)) for flag in (False, True)]
    yield f"| nearest neighbours over the cases | {near[0]} | {near[1]} |"
    yield f"| embedded scorer | {rate(cases, shipped)} | {rate(cases, left_out)} |"
    yield ""
    yield "| at the shipped thresholds | embedded scorer | family left out |"
    yield "|---|---|---|"
    ours, others = describe(cases, shipped, scorer), describe(cases, left_out, scorer)
    for (name, value), (_, other) in zip(ours, others, strict=True):
        yield f"| {name} | {value} | {other} |"
    yield ""
    yield from _list_tactics(cases, scorer, left_out)


def _list_tactics(cases: Sequence[Case], scorer: Scorer, left_out: Callable[[Case], float]) -> Iterator[str]:
    yield "| tactic | malicious, not called benign, family left out |"
    yield "|---|---|"
    tactics: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        if case.malicious:
            tactics[case.scenario.tactic].append(case)
    for tactic in sorted(tactics):
        share = _share(tactics[tactic], lambda case: scorer.label(left_out(case)) != Label.BENIGN)
        yield f"| {tactic} | {share} |"
    yield ""


def ask_model(
    args: argparse.Namespace, cases: Sequence[Case], unseen: dict[str, Fit], slope: float, offset: float
) -> list[str]:
    """The section about a real model; where there is none, what is missing."""
    scorer = Scorer()
    near = [judge_by_neighbours(cases, by_family=flag) for flag in (False, True)]
    baselines = (
        Baseline("rule level only", judge_by_level, judge_by_level),
        Baseline("nearest neighbours over the cases", near[0], near[1]),
        Baseline("embedded scorer", judge_by_scorer(scorer), judge_unseen(unseen, slope, offset)),
    )

    def report(url: str, model: str, load_s: float | None = None) -> list[str]:
        questioning = Questioning(url, model, load_s, args.exam, args.most)
        return report_on_model(questioning, cases, unseen, (slope, offset), baselines)

    try:
        if args.ollama:
            return report(args.ollama, args.model)
        with serve(LARGE) as served:
            return report(served.url, served.model, served.load_s)
    except (ServingError, TriageError, OSError) as error:
        sys.stderr.write(f"make eval: no model was asked: {error}\n")
        return ["## A real model", "", "Not asked: there was none when this was written (see `make eval`).", ""]


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command."""
    parser = argparse.ArgumentParser(prog="make eval", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write docs/{REPORT.name}")
    parser.add_argument("--ollama", metavar="URL", help="ask the model of this Ollama (with --model)")
    parser.add_argument("--model", help="the model to ask there; without both, a 1.5B one is fetched (1.1 GB) and run")
    parser.add_argument(
        "--exam", type=Path, metavar="FILE", help="what `watchdogd models exam --format json` said of it"
    )
    parser.add_argument(
        "--most", type=int, default=30, help="scenarios of each label to ask about; 0: all (default 30)"
    )
    parser.add_argument("--no-model", action="store_true", help="ask no model")
    args = parser.parse_args(arguments)
    if bool(args.ollama) != bool(args.model):
        parser.error("--ollama and --model go together")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate; print the report; 2 where the recordings are not there."""
    args = parse_arguments(arguments)
    corpora = find_corpora()
    recorded: Path = corpora / "recorded"
    if not (recorded / "labels.jsonl").is_file() or not find_sigma(corpora).is_dir():
        sys.stderr.write(f"no labelled recordings in {corpora} (WATCHDOGD_CORPORA names their parent)\n")
        return 2
    ours, sigma = gather_single(ROOT / "rules", recorded), gather_single(find_sigma(corpora), recorded)
    populations: dict[str, Sequence[Case]] = {
        "Alerts of our rules, one scenario a log": ours,
        "Alerts of our rules, scenarios interleaved": gather_mixed(ROOT / "rules", recorded),
        "Alerts of SigmaHQ's rules, one scenario a log": sigma,
    }
    unseen = fit_by_family([ours, sigma])
    slope, offset = calibrate(ours, unseen)
    lines = list(render(populations, unseen, slope, offset))
    if not args.no_model:
        lines += ask_model(args, ours, unseen, slope, offset)
    report = "\n".join(lines)
    if args.write:
        REPORT.write_text(report, encoding="utf-8")
    sys.stdout.write(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
