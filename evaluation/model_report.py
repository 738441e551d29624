"""What a real model says of recorded scenarios: alone, fused with the scorer, and with orders to it inside."""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from evaluation.asking import Asker, KeptClient, KeptClock, choose
from evaluation.detection import Share
from evaluation.training import ROOT
from watchdogd.config import TriageSettings
from watchdogd.entities import Label, Level
from watchdogd.errors import TriageError
from watchdogd.triage.answer import choose_label
from watchdogd.triage.exam import Examiner, ExamReport
from watchdogd.triage.exam_paper import load_paper
from watchdogd.triage.prompt import TEMPLATE_VERSION
from watchdogd.triage.ranking import rank
from watchdogd.triage.scorer import Scorer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from evaluation.asking import Asked, Flip, Kept
    from evaluation.logistic import Fit
    from evaluation.population import Case

KEPT = ROOT / ".cache" / "eval"
LABELS = (Label.MALICIOUS, Label.SUSPICIOUS, Label.BENIGN)


class Questioning(NamedTuple):
    """What is to be asked, and whom."""

    url: str
    model: str
    load_s: float | None
    """How long the model took to be loaded, where we did that."""
    exam: Path | None
    """A report of `watchdogd models exam --format json` on the same bytes; None: the exam is put here."""
    most: int
    """Scenarios of each label; 0: all."""


class Baseline(NamedTuple):
    """Something to compare with: as it ships, and with the family left out."""

    name: str
    shipped: Callable[[Case], float]
    unseen: Callable[[Case], float]


def report_on_model(
    questioning: Questioning,
    cases: Sequence[Case],
    unseen: dict[str, Fit],
    scale: tuple[float, float],
    baselines: Sequence[Baseline],
) -> list[str]:
    """The section of the report. Raises TriageError where the model cannot be asked, OSError for files."""
    return asyncio.run(_report(questioning, cases, unseen, scale, baselines))


async def _report(
    questioning: Questioning,
    cases: Sequence[Case],
    unseen: dict[str, Fit],
    scale: tuple[float, float],
    baselines: Sequence[Baseline],
) -> list[str]:
    model = questioning.model
    digest = await KeptClient(questioning.url, KEPT / "none").digest(model)
    if not digest:
        raise TriageError(f"Ollama has no model {model!r}: ollama pull {model}")
    path = KEPT / f"{digest.removeprefix('sha256:')[:12]}.jsonl"
    client = KeptClient(questioning.url, path, questioning.load_s)
    try:
        exam = await _examine(questioning, client, digest)
        asker = Asker(client, model, exam.standing, unseen, scale)
        first = len(client.replies)
        asked = await asker.ask_all(choose(cases, questioning.most), _say)
        replies = client.replies[first:]
        flips = await asker.try_injections(asked, _say)
    finally:
        await client.close()
    return [
        *_tell_exam(model, exam, asked, cases),
        *_compare(asked, asker, baselines),
        *_count_labels(asked, asker),
        *_list_tactics(asked, asker),
        *_tell_flips(flips),
        *_tell_times(replies, client.replies),
    ]


async def _examine(questioning: Questioning, client: KeptClient, digest: str) -> ExamReport:
    """The exam that the weights come from. Raises TriageError where it is another model's."""
    if questioning.exam is None:
        settings = TriageSettings(model=questioning.model)
        examiner = Examiner(settings, client, Scorer(), KeptClock(client))
        return await examiner.examine(load_paper(), progress=lambda done, of: _say(f"exam: {done} of {of}"))
    report = msgspec.json.decode(questioning.exam.read_bytes(), type=ExamReport)
    if (report.standing.digest, report.standing.prompt_version) != (digest, TEMPLATE_VERSION):
        raise TriageError(f"{questioning.exam}: the exam of another model, or with another prompt")
    return report


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _tell_exam(model: str, exam: ExamReport, asked: Sequence[Asked], cases: Sequence[Case]) -> Iterator[str]:
    standing = exam.standing
    number = {label: sum(one.case.scenario.label == label for one in asked) for label in LABELS}
    whole = {label: sum(case.scenario.label == label for case in cases) for label in LABELS}
    yield f"## Alerts of our rules, {model} asked"
    yield ""
    yield (
        "Asked about "
        + ", ".join(f"{number[label]} of {whole[label]} {label.value}" for label in LABELS)
        + (
            " scenarios, chosen by a hash of their names; one question each, about the alert with the highest score. "
            "The question tells the model the score by weights of other families only, and examples from the cases "
            "that ship (all invented, none from the recordings). Figures beside it are of the same scenarios."
        )
    )
    yield ""
    weights = standing.fusion
    result = "passed" if standing.passed else "failed: the scorer's label is in force, the fusion is what would be"
    yield (
        f"Exam ({standing.cases} invented cases): {result}. AUROC {standing.auroc:.2f} "
        f"[{standing.auroc_low:.2f}, {standing.auroc_high:.2f}], scorer alone {standing.scorer_auroc:.2f}, both on "
        f"unseen cases {exam.fused_auroc:.2f}; {standing.obeyed} of {standing.injections} orders obeyed; "
        f"{standing.latency_s:.1f} s a question. Its weights: {weights.bias:+.2f}, scorer {weights.scorer:.2f}, model "
        f"{weights.model:.2f}; from the exam alone, no recording had a part in them."
    )
    yield ""


def _compare(asked: Sequence[Asked], asker: Asker, baselines: Sequence[Baseline]) -> Iterator[str]:
    yield "| judged by | AUROC | family left out |"
    yield "|---|---|---|"
    for name, shipped, unseen in baselines:
        yield f"| {name} | {_rate(asked, lambda o: shipped(o.case))} | {_rate(asked, lambda o: unseen(o.case))} |"  # noqa: B023 - used at once
    yield f"| the model alone | {_rate(asked, lambda one: one.model)} | the same |"
    fused = [_rate(asked, lambda one: asker.fuse(one, one.shipped)), _rate(asked, lambda one: _fuse(asker, one))]
    yield f"| scorer and model fused | {fused[0]} | {fused[1]} |"
    yield ""


def _rate(asked: Sequence[Asked], judge: Callable[[Asked], float]) -> str:
    above = [judge(one) for one in asked if one.case.malicious]
    below = [judge(one) for one in asked if one.case.scenario.label == Label.BENIGN.value]
    if not above or not below:
        return "-"
    found = rank(above, below)
    return f"{found.auroc:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _fuse(asker: Asker, one: Asked) -> float:
    return asker.fuse(one, one.unseen)


def _label(asker: Asker, one: Asked) -> Label:
    """By the fusion, at the shipped thresholds, family left out."""
    return choose_label(_fuse(asker, one), Scorer(), one.unseen.probability)


def _count_labels(asked: Sequence[Asked], asker: Asker) -> Iterator[str]:
    yield "| family left out | the model alone | fused | the scorer alone |"
    yield "|---|---|---|---|"
    scorer = Scorer()
    said = [
        {id(one): one.said for one in asked},
        {id(one): _label(asker, one) for one in asked},
        {id(one): scorer.label(one.unseen.probability) for one in asked},
    ]

    def line(name: str, chosen: Sequence[Asked], holds: Callable[[Label], bool]) -> str:
        shares = [str(Share(sum(holds(by[id(one)]) for one in chosen), len(chosen))) for by in said]
        return f"| {name} | {' | '.join(shares)} |"

    of = {label: [one for one in asked if one.case.scenario.label == label.value] for label in LABELS}
    yield line("malicious, not called benign", of[Label.MALICIOUS], lambda label: label is not Label.BENIGN)
    for true in LABELS:
        for label in LABELS:
            yield line(f"{true.value}, called {label.value}", of[true], lambda found, label=label: found is label)  # type: ignore[misc]
    low = [one for one in of[Label.BENIGN] if one.case.level.rank < Level.HIGH.rank]
    yield line("benign without a high alert, called benign", low, lambda label: label is Label.BENIGN)
    yield ""
    spared = Share(sum(one.ruling.journald_only for one in low), len(low))
    yield f"Kept from webhooks by the policy with the fused label (`benign_to_journald: true`), of these: {spared}."
    yield ""


def _list_tactics(asked: Sequence[Asked], asker: Asker) -> Iterator[str]:
    yield "| tactic | malicious, called malicious by the model alone | fused, not called benign |"
    yield "|---|---|---|"
    tactics: dict[str, list[Asked]] = defaultdict(list)
    for one in asked:
        if one.case.malicious:
            tactics[one.case.scenario.tactic].append(one)
    for tactic, found in sorted(tactics.items()):
        alone = Share(sum(one.said is Label.MALICIOUS for one in found), len(found))
        fused = Share(sum(_label(asker, one) is not Label.BENIGN for one in found), len(found))
        yield f"| {tactic} | {alone} | {fused} |"
    yield ""


def _tell_flips(flips: Sequence[Flip]) -> Iterator[str]:
    number = len(flips)
    yield (
        "Orders to the model (one of each kind in the corpus, in the arguments of a recorded attack, as if the model "
        "had passed its exam):"
    )
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield f"| recognised by the detector | {Share(sum(bool(flip.after.verdict.injection) for flip in flips), number)} |"
    yield f"| the model alone says something milder | {Share(sum(flip.lowers_label for flip in flips), number)} |"
    obeyed = sum(flip.after.verdict.injection == "obeyed" for flip in flips)
    yield f"| seen to be obeyed: verdict discarded, alert raised | {Share(obeyed, number)} |"
    lowered = sum(flip.lowers_alert for flip in flips)
    yield f"| **the alert ends lower, or is kept from webhooks** | {Share(lowered, number)} |"
    yield ""


def _tell_times(replies: Sequence[Kept], everything: Sequence[Kept]) -> Iterator[str]:
    """How long questions took; the cold one may have been the exam's."""
    warm_s = sorted(kept.elapsed_s for kept in replies if kept.load_s is None)
    cold_s = [kept.load_s + kept.elapsed_s for kept in everything if kept.load_s is not None]
    if warm_s:
        cold = f"cold (loading included) {max(cold_s):.0f} s, " if cold_s else ""
        yield (
            f"A question took, on one core of a machine that had other work: {cold}warm "
            f"{statistics.median(warm_s):.1f} s (median), {warm_s[-1]:.1f} s (longest)."
        )
        yield ""
