"""`watchdogd models exam`: put the exam to a model, and keep whether its opinion may count."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from watchdogd.background import Standing
from watchdogd.cli.options import add_config_option
from watchdogd.cli.progress import Bar
from watchdogd.errors import StoreError, WatchdogdError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from rich.progress import ProgressColumn, TaskID

    from watchdogd.config import Config
    from watchdogd.entities import Alert
    from watchdogd.triage.exam import ExamReport
    from watchdogd.triage.fusion import Sample

HELP = "put the exam to a model: may its opinion count?"
DESCRIPTION = (
    "Puts labelled alerts to an installed model, as triage would put them, some with orders to the model in them. "
    "A model that does not rank them better than the embedded scorer alone, or obeys, keeps writing explanations, but "
    "its label carries no weight. The result is kept in the database, at once in force where the daemon runs."
)

QUESTION_S = 300.0
"""For one answer: the first one waits for the model to be loaded."""
SOCKET_S = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the action's options."""
    add_config_option(parser)
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="json: one object, every answer in it"
    )
    parser.add_argument("--dry-run", action="store_true", help="keep nothing")
    parser.add_argument("model", nargs="?", metavar="MODEL", help="an installed model (default: the configuration's)")


def run(args: argparse.Namespace) -> int:
    """Examine and keep the result. 0 where the model passed, 1 where it failed, 2 where it could not be examined."""
    from watchdogd.config import load_config  # noqa: PLC0415 - `--help` needs no settings

    config = load_config(args.config, environ=os.environ, overrides={"triage.model": args.model})
    report = asyncio.run(examine(config))
    if args.format == "json":
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in list_lines(report))
    sys.stdout.flush()
    if not args.dry_run:
        keep(report.standing, config)
    return 0 if report.standing.passed else 1


async def examine(config: Config) -> ExamReport:
    """Put the exam to the configured model. Raises TriageError."""
    from watchdogd.ports import SystemClock  # noqa: PLC0415 - start-up of other commands
    from watchdogd.triage.exam import Examiner  # noqa: PLC0415
    from watchdogd.triage.exam_paper import load_paper  # noqa: PLC0415
    from watchdogd.triage.ollama import OllamaClient  # noqa: PLC0415
    from watchdogd.triage.scorer import Scorer  # noqa: PLC0415

    client = OllamaClient(config.triage.ollama_url, timeout_s=QUESTION_S)
    examiner = Examiner(config.triage, client, Scorer(), SystemClock())
    try:
        digest = await client.digest(config.triage.model)
        opinions = read_opinions(Path(config.store.path), digest or "")
        with ExamProgress() as progress:
            return await examiner.examine(load_paper(), opinions, progress.show)
    finally:
        await client.close()


def read_opinions(path: Path, digest: str) -> list[Sample]:
    """What the operator said of alerts that this model, with this prompt, had an opinion of; none where unreadable."""
    from watchdogd.store.standings import look_up_opinions  # noqa: PLC0415 - start-up of other commands

    try:
        opinions = look_up_opinions(path)
    except StoreError as error:
        sys.stderr.write(f"watchdogd: your own verdicts are not weighed in: {error}\n")
        return []
    return [sample for label, alert in opinions if (sample := make_sample(label, alert, digest)) is not None]


def make_sample(label: str, alert: Alert, digest: str) -> Sample | None:
    """An operator's verdict as the weights are fitted to it; None where the model or the scorer gave no opinion."""
    from watchdogd.triage.fusion import Sample, find_log_odds  # noqa: PLC0415 - as above
    from watchdogd.triage.prompt import TEMPLATE_VERSION  # noqa: PLC0415

    verdict = alert.verdict
    if verdict is None or label not in ("malicious", "benign"):
        return None
    if not digest or (verdict.model_digest, verdict.prompt_version) != (digest, TEMPLATE_VERSION):
        return None
    if verdict.scorer is None or verdict.model_share is None:
        return None
    return Sample(label == "malicious", find_log_odds(verdict.scorer), find_log_odds(verdict.model_share))


def keep(standing: Standing, config: Config) -> None:
    """Hand the result to the running daemon; where none runs, write it to the database. Raises WatchdogdError."""
    from watchdogd.cli.daemon import ask  # noqa: PLC0415 - start-up of other commands

    try:
        ask(Path(config.control.path), "standing", Standing, SOCKET_S, standing)
    except WatchdogdError as refused:
        try:
            asyncio.run(write(standing, Path(config.store.path)))
        except StoreError as error:
            raise WatchdogdError(f"the result is not kept: {error}; by the daemon: {refused}") from None


async def write(standing: Standing, path: Path) -> None:
    """Put the result into the database, which no daemon has. Raises StoreError."""
    from watchdogd.ports import SystemClock  # noqa: PLC0415 - start-up of other commands
    from watchdogd.store.database import Store  # noqa: PLC0415
    from watchdogd.store.standings import save_standing  # noqa: PLC0415
    from watchdogd.telemetry import Counters  # noqa: PLC0415

    store = await Store.open(path, Counters(), SystemClock())
    try:
        await save_standing(store, standing)
    finally:
        await store.close()


def list_lines(report: ExamReport) -> Iterator[str]:
    """The result for a person."""
    standing = report.standing
    attacks = sum(case.malicious for case in report.cases)
    interval = f"{standing.auroc_low:.2f}-{standing.auroc_high:.2f}"
    yield f"{standing.model} ({standing.digest[:12]}): {'passed' if standing.passed else 'FAILED'}"
    yield f"  cases       {standing.cases}, {attacks} of them attacks; prompt {standing.prompt_version}"
    yield f"  AUROC       {standing.auroc:.2f} (95 %: {interval}); the scorer alone {standing.scorer_auroc:.2f}"
    yield f"  together    {report.fused_auroc:.2f}, by weights fitted without the case that is judged"
    yield f"  injections  {standing.obeyed} of {standing.injections} obeyed"
    yield f"  latency     {standing.latency_s:.1f} s a question, {report.latency_most_s:.1f} s at most"
    if report.unanswered:
        yield f"  unanswered  {report.unanswered}"
    fusion = standing.fusion
    weights = f"{fusion.bias:+.2f} {fusion.scorer:+.2f} scorer {fusion.model:+.2f} model"
    opinions = f", {report.opinions} of your own verdicts weighed in" if report.opinions else ""
    yield f"  weights     {weights}{opinions}"
    for reason in report.reasons:
        yield f"  failed:     {reason}"
    if not standing.passed:
        yield "Its label carries no weight: the scorer's is used. It keeps writing explanations."


class ExamProgress(Bar):
    """How many questions are done, on stderr where that is a terminal; elsewhere nothing."""

    def __init__(self) -> None:
        super().__init__(_list_columns, transient=True)
        self._task: TaskID | None = None

    def show(self, done: int, total: int) -> None:
        """Move the bar."""
        if self.bar is None:
            return
        if self._task is None:
            self._task = self.bar.add_task("questions", total=total)
        self.bar.update(self._task, completed=done)


def _list_columns() -> Sequence[ProgressColumn]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415 - as above

    return (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
