"""`watchdogd test-alert` against a real receiver."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.host.receiver import RESET, Fault, Receiver

if TYPE_CHECKING:
    from pathlib import Path


def send(folder: Path, *options: str, webhooks: str, journald: bool = False) -> subprocess.CompletedProcess[str]:
    config = folder / "config.yaml"
    config.write_text(f"journald:\n  enabled: {str(journald).lower()}\n{webhooks}")
    command = [sys.executable, "-m", "watchdogd", "test-alert", "--config", str(config), *options]
    environ = {"PATH": os.environ["PATH"]}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environ)


def name_webhook(name: str, url: str, least: str = "informational") -> str:
    return f"  - name: {name}\n    url: {url}\n    min_level: {least}\n"


def test_it_arrives_and_its_id_is_the_result(tmp_path: Path, receiver: Receiver) -> None:
    done = send(tmp_path, webhooks="webhooks:\n" + name_webhook("pager", receiver.url))
    assert (done.returncode, done.stderr) == (0, "pager: taken\n")
    (request,) = receiver.requests
    own = request.document["watchdogd"]
    assert done.stdout == f"{own['alert_id']}\n"
    assert own["level"] == "low"
    assert "nothing happened" in request.document["rule"]["name"]
    assert request.headers["webhook-id"] == f"alert_{own['alert_id']}"


@pytest.mark.parametrize("fault", [Fault(status=500), Fault(status=404), RESET])
def test_sink_that_refuses_is_named_and_the_others_are_told(tmp_path: Path, receiver: Receiver, fault: Fault) -> None:
    with Receiver(fault, fault, fault) as broken:
        hooks = name_webhook("broken", broken.url) + name_webhook("sound", receiver.url)
        done = send(tmp_path, webhooks=f"webhooks:\n{hooks}")
    assert done.returncode == 1
    assert done.stderr.startswith("broken: FAILED: ")
    assert done.stderr.endswith("sound: taken\n")
    assert "token-abc123" not in done.stderr
    assert len(receiver.requests) == 1


def test_sink_that_is_down(tmp_path: Path) -> None:
    with Receiver() as gone:
        url = gone.url
    done = send(tmp_path, webhooks="webhooks:\n" + name_webhook("pager", url))
    assert done.returncode == 1
    assert done.stderr.startswith("pager: FAILED: ")
    assert "Traceback" not in done.stderr


def test_level_and_choice_of_sink(tmp_path: Path, receiver: Receiver) -> None:
    hooks = "webhooks:\n" + name_webhook("pager", receiver.url, "critical") + name_webhook("chat", receiver.url)
    low = send(tmp_path, webhooks=hooks)
    assert low.returncode == 0
    assert low.stderr.splitlines() == ["pager: left out, it takes no low alerts (min_level)", "chat: taken"]
    assert send(tmp_path, "--level", "critical", webhooks=hooks).stderr.count("taken") == 2
    chosen = send(tmp_path, "--sink", "pager", webhooks=hooks)
    assert chosen.stderr == "pager: taken\n"
    assert len(receiver.requests) == 4


@pytest.mark.parametrize(
    ("webhooks", "options", "said"),
    [
        ("", (), "no sink is configured"),
        ("", ("--sink", "pager"), "no sink is named pager"),
        ("webhooks:\n  - name: pager\n    url: http://127.0.0.1:9\n", ("--sink", "chat"), "no sink is named chat"),
    ],
)
def test_nowhere_to_send_is_a_usage_error(tmp_path: Path, webhooks: str, options: tuple[str, ...], said: str) -> None:
    done = send(tmp_path, *options, webhooks=webhooks)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_every_sink_above_the_level_is_said(tmp_path: Path, receiver: Receiver) -> None:
    done = send(tmp_path, webhooks="webhooks:\n" + name_webhook("pager", receiver.url, "high"))
    assert receiver.requests == []
    assert "pager: left out, it takes no low alerts (min_level)" in done.stderr
    assert done.returncode == 2
