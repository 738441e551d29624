"""`watchdogd replay FILE...`: judge recorded audit logs. Reads and writes no state, delivers nothing."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec.structs import replace

from watchdogd.cli.options import add_config_option, add_rules_option
from watchdogd.errors import SourceError, TriageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

    from watchdogd.cli.progress import ReadProgress
    from watchdogd.config import Config
    from watchdogd.entities import Alert
    from watchdogd.judge import Judge
    from watchdogd.match.library import RuleSet
    from watchdogd.telemetry import Counters
    from watchdogd.triage.ollama import OllamaClient
    from watchdogd.triage.policy import Policy, Ruling
    from watchdogd.triage.triager import Triager

HELP = "judge recorded audit logs and print the alerts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_config_option(parser)
    add_rules_option(parser)
    parser.add_argument("files", nargs="+", metavar="FILE", help="audit log, also .gz .xz .zst; - is standard input")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="json: one alert a line")
    parser.add_argument(
        "--triage",
        choices=("off", "auto", "on"),
        default="off",
        help="ask the model: never, if it answers, or fail without it (default: off)",
    )
    parser.add_argument(
        "--compare",
        metavar="MODEL,MODEL",
        help="with --triage on: print only the alerts on which these models differ, and what each says",
    )
    parser.add_argument("--summary", action="store_true", help="say on stderr what was read, and what was lost")


def run(args: argparse.Namespace) -> int:
    """Print every alert once, after its verdict. 0 fine, 2 unreadable input, bad rules, or no model with `on`."""
    from watchdogd.cli.losses import report_losses  # noqa: PLC0415 -- start-up of other commands
    from watchdogd.cli.progress import ReadProgress  # noqa: PLC0415
    from watchdogd.cli.replay_groups import group_alerts  # noqa: PLC0415
    from watchdogd.config import load_config  # noqa: PLC0415
    from watchdogd.grouping_settings import plan_grouping  # noqa: PLC0415
    from watchdogd.match.sources import choose_sources, load_sources  # noqa: PLC0415
    from watchdogd.memory import freeze_memory  # noqa: PLC0415
    from watchdogd.telemetry import Counters  # noqa: PLC0415

    models = choose_models(args.compare, args.triage)
    config = load_config(args.config, environ=os.environ, overrides={})
    rules = load_sources(choose_sources(config, args.rules, Path.cwd()))
    counters = Counters()
    judge = build_judge(rules, counters)
    freeze_memory()
    show = print_json if args.format == "json" else print_text
    try:
        with ReadProgress(args.files) as progress:
            alerts = judge_files(judge, args.files, counters, progress)
            grouped = group_alerts(alerts, plan_grouping(config.grouping, config.inhibit_rules))

            def print_alert(alert: Alert) -> None:
                progress.hide()
                show(alert)

            if models:
                from watchdogd.cli.replay_compare import compare  # noqa: PLC0415

                asyncio.run(compare(alerts, config, models, as_json=args.format == "json"))
            elif args.triage == "off":
                for alert in grouped:
                    print_alert(alert)
            else:
                asyncio.run(triage_and_print(grouped, config, counters, print_alert, must=args.triage == "on"))
    finally:
        report_losses(counters)
    if args.summary:
        print_summary(counters)
    return 0


def choose_models(compare: str | None, triage: str) -> tuple[str, ...]:
    """The models to compare; empty where none are to be. Raises TriageError."""
    if compare is None:
        return ()
    if triage != "on":
        raise TriageError("--compare asks models: it needs --triage on")
    from watchdogd.cli.replay_compare import read_models  # noqa: PLC0415

    return read_models(compare)


def build_judge(rules: RuleSet, counters: Counters) -> Judge:
    """A judge that knows nothing but the files: no /proc, no user database, an empty baseline."""
    from watchdogd.decode.decoder import Decoder  # noqa: PLC0415
    from watchdogd.enrich.baseline import Baseline  # noqa: PLC0415
    from watchdogd.enrich.enricher import Enricher  # noqa: PLC0415
    from watchdogd.enrich.identity import Identity  # noqa: PLC0415
    from watchdogd.enrich.own import OwnProcesses  # noqa: PLC0415
    from watchdogd.enrich.process import ProcessTree  # noqa: PLC0415
    from watchdogd.judge import Judge  # noqa: PLC0415
    from watchdogd.match.engine import Engine  # noqa: PLC0415
    from watchdogd.ports import SystemClock  # noqa: PLC0415
    from watchdogd.triage.scorer import Scorer  # noqa: PLC0415

    tree = ProcessTree(counters=counters)
    enricher = Enricher(tree, Identity(SystemClock()), Baseline(), OwnProcesses(()), counters=counters)
    return Judge(Decoder(counters, live=False), enricher, Engine(rules), Scorer().score, counters)


def judge_files(
    judge: Judge, files: Sequence[str], counters: Counters, progress: ReadProgress | None = None
) -> Iterator[Alert]:
    """Alerts of several files read as one stream, each with the verdict `untriaged`."""
    from watchdogd.collect.files import read_files  # noqa: PLC0415

    batches = read_files(files, counters)
    try:
        for records in batches if progress is None else progress.follow(batches):
            counters.add("collect_lines_total", len(records))
            yield from map(mark_untriaged, judge.feed(records, 0).alerts)
    except SourceError:
        yield from map(mark_untriaged, judge.drain(0).alerts)
        raise
    yield from map(mark_untriaged, judge.drain(0).alerts)


def mark_untriaged(alert: Alert, error: str | None = None) -> Alert:
    """The alert with the verdict of nobody."""
    from watchdogd.entities import Label, Verdict  # noqa: PLC0415

    return replace(alert, verdict=Verdict(label=Label.UNTRIAGED, by="none", error=error))


class Triage(NamedTuple):
    """What there is to ask. `note` says it to a person: which Ollama answers, or why nobody can be asked."""

    triager: Triager | None
    policy: Policy
    note: str


@asynccontextmanager
async def open_triage(config: Config, counters: Counters) -> AsyncIterator[Triage]:
    """The model, if it is wanted, its server answers, and has it."""
    from watchdogd.ports import SystemClock  # noqa: PLC0415
    from watchdogd.triage.ollama import OllamaClient  # noqa: PLC0415
    from watchdogd.triage.policy import Policy  # noqa: PLC0415
    from watchdogd.triage.scorer import Scorer  # noqa: PLC0415
    from watchdogd.triage.standings import KnownStandings  # noqa: PLC0415
    from watchdogd.triage.triager import Triager  # noqa: PLC0415

    settings = config.triage
    policy = Policy(settings)
    if not settings.enabled:
        yield Triage(None, policy, "Triage is turned off (AI_ENABLED, triage.enabled)")
        return
    client = OllamaClient(settings.ollama_url, timeout_s=settings.timeout_s)
    triager = Triager(settings, client, counters, SystemClock(), Scorer(), KnownStandings())
    try:
        is_ready, note = await _look_for_model(triager, client, settings.model)
        yield Triage(triager if is_ready else None, policy, note)
    finally:
        await client.close()


async def _look_for_model(triager: Triager, client: OllamaClient, model: str) -> tuple[bool, str]:
    """Whether the model can be asked, and that in words."""
    version = await triager.available()
    if version is None:
        return False, f"No model answers at {client.place}"
    try:
        digest = await client.digest(model)
    except TriageError as error:
        return False, str(error)
    server = f"Ollama {version} at {client.place}"
    if digest is None:
        return False, f"{server} lacks the model {model} (`ollama pull {model}`)"
    return True, f"{server} answers: asking {model}"


async def triage_and_print(
    alerts: Iterable[Alert], config: Config, counters: Counters, print_alert: Callable[[Alert], None], *, must: bool
) -> None:
    """Ask about each alert in turn, then print it. Raises TriageError where a model must answer and none does."""
    async with open_triage(config, counters) as (triager, policy, note):
        if triager is None and must:
            raise TriageError(f"{note}; --triage on needs it (--triage auto goes on without)")
        say(f"{note}." if triager else f"{note}: alerts are untriaged, judged by evidence alone.")
        told: set[str] = set()
        for alert in alerts:
            if triager is None or alert.state != "active":
                print_alert(alert)
                continue
            ruling = await _rule_about(alert, triager, policy)
            print_alert(ruling.alert)
            for extra in ruling.extra:
                if extra.id not in told:
                    told.add(extra.id)
                    print_alert(mark_untriaged(extra))


async def _rule_about(alert: Alert, triager: Triager, policy: Policy) -> Ruling:
    """The alert's verdict, with the cases that ship as examples: replay knows no others."""
    from watchdogd.background import Background  # noqa: PLC0415
    from watchdogd.triage.cases import choose_cases  # noqa: PLC0415

    return policy.rule_on(alert, await triager.ask(alert, Background(cases=choose_cases(alert, ()))))


async def ask_about(alert: Alert, triager: Triager, policy: Policy, within_s: float | None = None) -> Alert:
    """The alert with its verdict; `untriaged` where the model needs longer than `within_s`."""
    try:
        async with asyncio.timeout(within_s):
            return (await _rule_about(alert, triager, policy)).alert
    except TimeoutError:
        return mark_untriaged(alert, "the time for triage is used up")


def print_json(alert: Alert) -> None:
    """One alert document (docs/schemas/alert.schema.json) on one line."""
    from watchdogd.write.formats.ecs import alert_document  # noqa: PLC0415

    sys.stdout.buffer.write(msgspec.json.encode(alert_document(alert)) + b"\n")
    sys.stdout.buffer.flush()


def print_text(alert: Alert) -> None:
    """The alert as a person reads it."""
    from watchdogd.cli.display import show_alert  # noqa: PLC0415

    show_alert(alert)


def print_summary(counters: Counters) -> None:
    """What was read and what was lost, on stderr."""
    for name, value in counters.snapshot().items():
        say(f"{name} {value}")


def say(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 -- a command speaks to its user
