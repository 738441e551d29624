"""`make demo`: quick, complete, and of use without a model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.ollama.fixtures import Ollama

ROOT = Path(__file__).parents[2]
ATTACK = range(265608, 265791)
"""Serials between which the recorded attack happens; ordinary work goes on in them, too."""


PROGRAM = """\
import itertools, sys
from watchdogd.cli import demo
judge_files = demo.judge_files
demo.judge_files = lambda *arguments: itertools.islice(judge_files(*arguments), {alerts})
sys.exit(demo.main({budget_s}))
"""


def run_demo(
    cwd: Path, *, budget_s: float | None = None, alerts: int | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environ}
    command = [sys.executable, "-m", "watchdogd.cli.demo"]
    if budget_s is not None:
        command = [sys.executable, "-c", PROGRAM.format(budget_s=budget_s, alerts=alerts)]
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False, timeout=120)


def test_it_shows_the_attack_and_hardly_anything_of_the_ordinary_work(tmp_path: Path) -> None:
    done = run_demo(tmp_path, OLLAMA_URL="http://127.0.0.1:9")
    assert (done.returncode, done.stderr) == (0, "")
    assert "No model answers at http://127.0.0.1:9" in done.stdout
    serials = [int(number) for number in re.findall(r"^  alert .*event (\d+)", done.stdout, re.MULTILINE)]
    assert sum(serial in ATTACK for serial in serials) >= 10
    outside = [serial for serial in serials if serial not in ATTACK]
    assert len(outside) <= 2, "an administrator who writes units by hand is asked about, and nothing else"
    assert len(re.findall(r"^\S+ \S+ +(?:HIGH|CRITICAL) ", done.stdout, re.MULTILINE)) <= len(serials) - len(outside)
    assert re.search(rf"^1,686 lines, 353 events, {len(serials)} alerts in ", done.stdout, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


def test_ai_that_is_turned_off_is_said(tmp_path: Path) -> None:
    assert "Triage is turned off (AI_ENABLED" in run_demo(tmp_path, AI_ENABLED="false").stdout


def test_wrong_environment_is_a_message(tmp_path: Path) -> None:
    done = run_demo(tmp_path, AI_ENABLED="perhaps")
    assert (done.returncode, done.stdout) == (2, "")
    assert "AI_ENABLED" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_model_that_is_too_slow_does_not_keep_it(tmp_path: Path, ollama: Ollama) -> None:
    """Without its limit it would ask of each alert in turn, for minutes."""
    done = run_demo(tmp_path, budget_s=0.5, OLLAMA_URL=ollama.url, OLLAMA_MODEL=ollama.model)
    assert done.returncode == 0
    assert f"asking {ollama.model}." in done.stdout
    alerts = re.findall(r"^  alert ", done.stdout, re.MULTILINE)
    assert len(alerts) > done.stdout.count(f" by {ollama.model} in ")


@pytest.mark.slow
def test_a_verdict_is_shown(tmp_path: Path, ollama: Ollama) -> None:
    """Of the first alert, with as much time as a loaded machine needs."""
    done = run_demo(tmp_path, budget_s=100.0, alerts=1, OLLAMA_URL=ollama.url, OLLAMA_MODEL=ollama.model)
    assert done.returncode == 0
    assert f"asking {ollama.model}." in done.stdout
    assert re.search(rf"^  verdict  \w+.* by {re.escape(ollama.model)} in ", done.stdout, re.MULTILINE)
