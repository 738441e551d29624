"""What README.md shows is what happens: each of its commands is run by a test, and its alert is the demo's."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import readme
from watchdogd.cli.demo import RECORDING
from watchdogd.cli.display import render_alert
from watchdogd.cli.replay import build_judge, judge_files
from watchdogd.match.library import load_rules
from watchdogd.telemetry import Counters

ROOT = Path(__file__).parents[1]
PROGRAM = ".venv/bin/watchdogd"
NO_MODEL = {"PATH": os.environ["PATH"], "OLLAMA_URL": "http://127.0.0.1:9"}

RUN_HERE = ("Try rules, read logs",)
ON_MACHINE = ("Install", "Read alerts")
"""Run by tests/host/test_machine.py on a booted system."""
SELF = (readme.INTRODUCTION,)
"""`make demo` and `make test`: below."""


def test_every_section_with_commands_is_run_by_one_test() -> None:
    with_commands = [section for section in readme.sections() if readme.commands(section)]
    assert sorted(with_commands) == sorted((*RUN_HERE, *ON_MACHINE, *SELF))


@pytest.mark.parametrize("command", [command for section in RUN_HERE for command in readme.commands(section)])
def test_command_does_what_it_shows(command: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == PROGRAM
    done = subprocess.run(
        [sys.executable, "-m", "watchdogd", *arguments], cwd=ROOT, env=NO_MODEL, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout
    assert b"Traceback" not in done.stderr


def test_make_demo_and_make_test_are_all_there_is_to_know() -> None:
    assert readme.commands(readme.INTRODUCTION) == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text()
    assert "-m watchdogd.cli.demo\n" in makefile
    assert "\nmake test\n" in (ROOT / ".ci" / "run").read_text()


def test_sample_alert_is_what_the_demo_prints(*, update_golden: bool) -> None:
    """The most telling one: of the highest level, with lineage, and the most evidence."""
    counters = Counters()
    alerts = judge_files(build_judge(load_rules([ROOT / "rules"]), counters), [str(RECORDING)], counters)
    best = max(alerts, key=lambda alert: (alert.level.rank, bool(alert.lineage), alert.evidence_score))
    shown = render_alert(best).plain
    if update_golden:
        readme.write_sample_alert(shown)
    assert readme.sample_alert() == shown
    demo = subprocess.run(
        [sys.executable, "-m", "watchdogd.cli.demo"], cwd=ROOT, env=NO_MODEL, capture_output=True, check=True
    )
    assert f"\n{shown}\n" in demo.stdout.decode()
