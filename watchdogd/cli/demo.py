"""`make demo`: a recorded attack, hidden in ordinary work, judged on this machine in a few seconds."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from watchdogd.cli.display import TextConsole, show_alert
from watchdogd.cli.main import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, EXIT_USAGE, silence_stdout
from watchdogd.cli.replay import ask_about, build_judge, judge_files, open_triage
from watchdogd.cli.replay_groups import group_alerts
from watchdogd.config import load_config
from watchdogd.errors import WatchdogdError
from watchdogd.grouping_settings import plan_grouping
from watchdogd.match.library import load_rules
from watchdogd.resources import find_resource
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from watchdogd.config import Config
    from watchdogd.entities import Alert

RECORDING = Path(__file__).resolve().parents[2] / "tests" / "data" / "demo.log"
TRIAGE_BUDGET_S = 14.0
"""The demo promises to end within 20 s, however slow the model is."""


def main(triage_budget_s: float = TRIAGE_BUDGET_S) -> int:
    """Show the demo. 2 where the recording or a rule cannot be read."""
    console = TextConsole()
    try:
        return show(console, triage_budget_s)
    except WatchdogdError as error:
        print(error, file=sys.stderr)  # noqa: T201 -- a command speaks to its user
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        silence_stdout()
        return EXIT_BROKEN_PIPE


def show(console: Console, triage_budget_s: float) -> int:
    """Judge the recording and print what a person wants to know of it."""
    config = load_config(None, environ=os.environ, overrides={})
    rules = load_rules([find_resource("rules")])
    counters = Counters()
    began_s = time.monotonic()
    console.print("watchdogd demo", style="bold")
    console.print(
        "A real attack, recorded by auditd: a web shell becomes root. Around it people administer, build and\n"
        f"deploy, as on any day. {len(rules.rules)} Sigma rules read along. Nothing leaves this machine.\n"
    )
    judge = build_judge(rules, counters)
    plan = plan_grouping(config.grouping, config.inhibit_rules)
    alerts = list(group_alerts(judge_files(judge, [str(RECORDING)], counters), plan))
    judged_s = time.monotonic() - began_s
    for alert in asyncio.run(triage(alerts, config, counters, console, triage_budget_s)):
        show_alert(alert, console)
    lines, events = counters.get("collect_lines_total"), counters.get("judge_events_total")
    console.print(
        f"{lines:,} lines, {events:,} events, {len(alerts)} alerts in {judged_s:.1f} s"
        f" (with triage {time.monotonic() - began_s:.1f} s).",
        style="bold",
    )
    console.print(
        "Your own log:    .venv/bin/watchdogd replay /var/log/audit/audit.log\nAs a service:    see README.md, Install"
    )
    return 0


async def triage(
    alerts: list[Alert], config: Config, counters: Counters, console: Console, budget_s: float
) -> list[Alert]:
    """Ask the model where one answers, within the demo's time; say so where none does."""
    async with open_triage(config, counters) as (triager, policy, note):
        if triager is None:
            console.print(
                f"{note}, so the alerts below are untriaged:\nrule level, lineage and rarity alone give the evidence"
                f" score. With Ollama (`ollama pull {config.triage.model}`) each\ngets a verdict.\n",
                style="yellow",
            )
            return alerts
        console.print(f"{note}.\n")
        deadline_s = time.monotonic() + budget_s
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        judged: dict[str, Alert] = {}
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("triage", total=len(alerts))
            for alert in sorted(alerts, key=lambda alert: -alert.evidence_score):  # a slow model sees the worst first
                judged[alert.id] = await ask_about(alert, triager, policy, deadline_s - time.monotonic())
                progress.advance(task)
        return [judged[alert.id] for alert in alerts]


if __name__ == "__main__":
    sys.exit(main())
