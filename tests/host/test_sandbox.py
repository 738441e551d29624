"""Sources other than audit, inside the unit's sandbox on a booted systemd: the journal, files, metrics, the API."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.host.machine import PROGRAM

if TYPE_CHECKING:
    from tests.host.conftest import BootMachine
    from tests.host.machine import Machine

pytestmark = [pytest.mark.host, pytest.mark.slow]

FORGED = "7f0e3b55-2f0a-4c55-8a50-3d0d2c1d5e04"  # Log Entry in the Name of Another Program
MODULE = "d3ab8b91-619c-4cf2-9dc1-1e27e858213d"  # Kernel Module Added or Changed on Disk
SSH = "7f5b60f8-288b-425b-815f-dec7cb45cb4c"  # SSH files changed
API = ("curl", "-s", "--unix-socket", "/run/watchdogd/api.sock")


def read(machine: Machine, rule_id: str) -> list[dict[str, Any]]:
    shown = machine.run("journalctl", "--quiet", "--no-pager", "-o", "json", "-t", "watchdogd", check=False).stdout
    entries = [json.loads(line) for line in shown.splitlines()]
    return [entry for entry in entries if entry.get("WATCHDOGD_RULE_ID") == rule_id]


def wait_for(machine: Machine, rule_id: str, timeout_s: float = 60) -> dict[str, Any]:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        found = read(machine, rule_id)
        if found:
            return found[0]
        time.sleep(0.5)
    log = machine.run("journalctl", "--no-pager", "-u", "watchdogd", check=False).stdout
    raise TimeoutError(f"no alert of {rule_id} within {timeout_s:g} s; the service says:\n{log[-6000:]}")


def wait_for_baseline(machine: Machine, timeout_s: float = 180) -> None:
    """Until the first scan of all watched files is done: only what changes after it is a change."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        status = json.loads(machine.run(PROGRAM, "status", "--format", "json").stdout)
        if status["counters"].get("collect_integrity_scans_total"):
            return
        time.sleep(1)
    raise TimeoutError("the first scan of files does not end")


def test_journal_files_and_api_work_inside_the_sandbox(boot_machine: BootMachine) -> None:
    machine = boot_machine({})
    machine.run(PROGRAM, "install")
    machine.run("mkdir", "-p", "/usr/lib/modules/6.1.0", "/home/ann/.ssh")
    machine.run("useradd", "--home", "/home/ann", "--shell", "/bin/sh", "ann")
    machine.run("chown", "-R", "ann:", "/home/ann")
    machine.run("chmod", "-R", "go=", "/home/ann")
    machine.run("systemctl", "enable", "--now", "watchdogd")

    machine.run(
        "systemd-cat", "-t", "sshd", "sh", "-c", "echo Accepted password for root from 203.0.113.9 port 1; sleep 2"
    )
    assert wait_for(machine, FORGED)["WATCHDOGD_LEVEL"] == "high"

    wait_for_baseline(machine)
    machine.write("/usr/lib/modules/6.1.0/own.ko", "module")
    machine.write("/home/ann/.ssh/authorized_keys", "ssh-ed25519 AAAA")
    assert "own.ko" in wait_for(machine, MODULE)["MESSAGE"]
    assert "authorized_keys" in wait_for(machine, SSH)["MESSAGE"]

    if machine.run("sh", "-c", "command -v curl", check=False).returncode == 0:
        assert machine.run(*API, "http://localhost/readyz").stdout == "ready\n"
    status = json.loads(machine.run(PROGRAM, "status", "--format", "json").stdout)
    assert {source["name"] for source in status["sources"] if source["running"]} >= {
        "journal", "host_metrics", "file_integrity",
    }  # fmt: skip
    machine.run("systemctl", "stop", "watchdogd")
    assert machine.show("watchdogd", "Result") == "success"
    assert machine.show("watchdogd", "NRestarts") == "0"
    log = machine.run("journalctl", "--no-pager", "-u", "watchdogd").stdout
    assert "Traceback" not in log
