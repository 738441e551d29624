"""Real load by stress-ng, a real port and a real service: the daemon's alerts name who does it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.daemon import Daemon
from tests.host import guard
from tests.host.machine import VENV

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.host.conftest import BootMachine
    from tests.host.receiver import Receiver

pytestmark = pytest.mark.host

ROOT = Path(__file__).resolve().parents[2]
STRESSED_S = 15
WAIT_S = 45
LISTENER = "0d0b2c0e-96a5-4f0f-8a3b-0a1f4b7a6121"  # Interpreter or Raw Tool Begins to Listen
AHEAD = ("setsid", "sh", "-c", 'echo -10 >/proc/self/autogroup; exec nice -n -10 "$@"', "ahead")
"""Before other work on this machine, which would be named else: sessions share the CPUs (sched(7), autogroup)."""
RULE = """\
title: {title} now
id: {id:08d}-7777-4777-8777-000000000001
name: {title}
status: test
level: informational
logsource: {{product: linux, category: host_metrics}}
detection:
  selection:
    metric: {metric}
    value|gte: {least}
  condition: selection
---
title: {title}
id: {id:08d}-7777-4777-8777-000000000002
status: test
level: high
correlation:
  type: event_count
  rules: [{title}]
  group-by: [metric]
  timespan: 5s
  condition: {{gte: 2}}
watchdogd: {{cooldown: 0s}}
"""
"""A threshold by `|gte`, and twice within five seconds; told again while it lasts."""


def used_percent() -> float:
    memory = psutil.virtual_memory()
    return 100 * (memory.total - memory.available) / memory.total


@pytest.fixture
def stressed(tmp_path: Path, receiver: Receiver) -> Iterator[tuple[Daemon, Receiver]]:
    """A daemon that samples each second, with a rule for each kind of load."""
    guard.require_programs("stress-ng")
    rules = [
        ("cpu_high", "cpu.percent", 60),
        ("memory_high", "memory.used_percent", used_percent() + 6),
        ("writes_high", "disk.write_bytes_per_s", 15_000_000),
        ("forks_high", "processes.forks_per_s", 400),
        ("zombies_high", "processes.zombies", 50),
        ("count_high", "processes.count", len(psutil.pids()) + 120),
    ]
    with Daemon(tmp_path, webhook_url=receiver.url) as daemon:
        text = daemon.config.read_text()
        daemon.config.write_text(text.replace("enabled: false\nrules", "enabled: true\n    interval_s: 1\nrules"))
        for number, (title, metric, least) in enumerate(rules, 1):
            rule = RULE.format(id=number, title=title, metric=metric, least=least)
            if title == "zombies_high":  # which are counted with the walk alone
                rule = rule.replace("gte: 2", "gte: 1")
            (tmp_path / "rules" / f"{title}.yml").write_text(rule)
        shutil.copy(ROOT / "rules/command-and-control/listener_by_interpreter.yml", tmp_path / "rules")
        daemon.log.touch()
        daemon.start()
        yield daemon, receiver
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.said


@contextlib.contextmanager
def running(*command: str, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def wait_for(receiver: Receiver, title: str, word: str, timeout_s: float = WAIT_S) -> dict[str, Any]:
    """The first alert of the rule that names `word`. One that came in the first second may name somebody else."""

    def find() -> list[dict[str, Any]]:
        documents = [request.document for request in receiver.requests]
        return [one for one in documents if one["rule"]["name"] == title and word in one["event"]["reason"]]

    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if found := find():
            return found[0]
        time.sleep(0.2)
    told = [(one.document["rule"]["name"], one.document["event"]["reason"]) for one in receiver.requests]
    raise AssertionError(f"no alert {title} that names {word}; told: {told}")


def test_the_alert_names_who_stresses_the_host(stressed: tuple[Daemon, Receiver], tmp_path: Path) -> None:
    """Each kind of load by itself, all within three minutes; a port that opens meanwhile is told, too."""
    _, receiver = stressed
    time.sleep(3)  # the baseline of ports, and the first rates
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    seconds = ("--timeout", f"{STRESSED_S + WAIT_S}s", "--quiet", "--temp-path", str(tmp_path))
    folder = tmp_path / "served"
    folder.mkdir()
    server = (sys.executable, "-m", "http.server", str(port))
    zombies = ("stress-ng", "--zombie", "1", "--zombie-max", "150", *seconds)
    with running(*server, cwd=folder):
        with running(*AHEAD, "stress-ng", "--cpu", str(psutil.cpu_count()), *seconds, cwd=tmp_path):
            wait_for(receiver, "cpu_high", "stress-ng-cpu")
        with running(*zombies, cwd=tmp_path):
            vm = ("stress-ng", "--vm", "1", "--vm-bytes", "10%", "--vm-keep", "--vm-method", "zero-one")
            with running(*vm, *seconds, cwd=tmp_path):
                wait_for(receiver, "memory_high", "stress-ng-vm")
            hdd = ("stress-ng", "--hdd", "1", "--hdd-bytes", "256m", "--hdd-opts", "fsync")
            with running(*AHEAD, *hdd, *seconds, cwd=tmp_path):
                wait_for(receiver, "writes_high", "stress-ng-hdd")
            wait_for(receiver, "zombies_high", "stress-ng-zombie", 75)
        with running(*AHEAD, "stress-ng", "--fork", "2", *seconds, cwd=tmp_path):
            wait_for(receiver, "forks_high", "stress-ng-fork")
        sleepers = "for i in $(seq 200); do sleep 60 & done; wait"
        with running("setsid", "sh", "-c", sleepers, cwd=tmp_path):
            wait_for(receiver, "count_high", "seq 200")
        alert = wait_for(receiver, "Interpreter or Raw Tool Begins to Listen", "http.server", 75)
    assert alert["rule"]["id"] == LISTENER
    assert alert["destination"] == {"ip": "0.0.0.0", "port": port}
    assert alert["process"]["args"] == list(server)
    assert alert["process"]["parent"]["pid"] > 0
    assert alert["user"]["name"] == "root"


def test_failed_units_are_counted_and_named_by_a_real_systemd(boot_machine: BootMachine) -> None:
    machine = boot_machine()
    for name in ("first", "second"):
        machine.write(f"/run/systemd/system/{name}.service", "[Service]\nType=oneshot\nExecStart=/bin/false\n")
    script = (
        "from watchdogd.collect.host_upkeep import SystemUpkeep as U; u = U();"
        "print(u.count_failed_units(), *u.list_failed_units()); print(u.read_sessions().users)"
    )
    python = VENV / "bin/python3"
    before = int(machine.run(python, "-c", script).stdout.split()[0])
    machine.run("systemctl", "daemon-reload")
    for name in ("first", "second"):
        machine.run("systemctl", "start", f"{name}.service", check=False)
    units, users = machine.run(python, "-c", script).stdout.splitlines()
    count, *names = units.split()
    assert int(count) == before + 2
    assert {"first.service", "second.service"} <= set(names)
    assert users == "0"
