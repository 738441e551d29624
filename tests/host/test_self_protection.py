"""What is done to the service on a booted systemd: who stopped it is named, and the doctor finds what was changed."""

from __future__ import annotations

import json
import re
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon import Daemon
from tests.host.machine import PROGRAM
from tests.host.test_audit_rules import LINES, is_there
from tests.host.test_machine import EXEC_RULE, read_journal
from watchdogd.cli.doctor_audit import check_auditd, check_kernel, check_rules
from watchdogd.cli.doctor_site import Site
from watchdogd.config import Config
from watchdogd.last_words import RESTARTED, SIGNALLED, STOPPED

if TYPE_CHECKING:
    from pathlib import Path

    from tests.host.auditing import Auditd
    from tests.host.conftest import BootMachine
    from tests.host.machine import Machine
    from tests.host.receiver import Receiver

pytestmark = [pytest.mark.host, pytest.mark.slow]


def test_the_doctor_reads_what_the_kernel_says(auditd: Auditd) -> None:
    site = Site(Config())
    assert [finding.level for finding in check_auditd(site)] == ["ok"]
    assert {finding.check: finding.level for finding in check_kernel(site)}["kernel audit"] == "ok"
    for line in (line for line in LINES if is_there(line)):
        auditd.add_rule(line)
    (finding,) = check_rules(site)
    assert finding.level == "warning", finding  # each is limited to a login uid of the tests: none is as wanted
    assert "lacks" in finding.text


def test_a_sender_that_is_gone_is_named_by_the_kernels_record(
    auditd: Auditd, tmp_path: Path, receiver: Receiver
) -> None:
    auditd.add_rule(EXEC_RULE)
    with Daemon(tmp_path, webhook_url=receiver.url) as daemon:
        daemon.config.write_text(daemon.config.read_text().replace(str(daemon.log), str(auditd.log)))
        daemon.start()
        daemon.send_signal(signal.SIGSTOP)  # it hears of the other signal when the sender has long ended
        assert auditd.run_audited(["/bin/kill", "-TERM", str(daemon.pid)]).returncode == 0
        daemon.send_signal(signal.SIGCONT)
        assert daemon.wait() == 0
        sender = rf"`/bin/kill -TERM {daemon.pid}` \(pid \d+, run by root, logged in as uid {auditd.login_uid}\)"
        assert re.search(f"told to stop: SIGTERM from {sender}", daemon.said), daemon.said
    (request,) = receiver.requests
    assert request.document["rule"]["name"] == SIGNALLED.title
    assert request.document["process"]["command_line"] == f"/bin/kill -TERM {daemon.pid}"


def look(machine: Machine, *groups: str) -> dict[str, dict[str, Any]]:
    """The worst finding of each name, as the doctor inside says it."""
    done = machine.run(PROGRAM, "doctor", "--json", *groups, check=False)
    assert done.returncode in {0, 1}, done.stderr
    order = ("ok", "unknown", "warning", "error")
    findings = sorted(json.loads(done.stdout)["findings"], key=lambda finding: order.index(finding["level"]))
    return {finding["check"]: finding for finding in findings}


def run_audited(auditd: Auditd, machine: Machine, *command: str) -> None:
    """As a person who logged in, so that the kernel records it."""
    enter = ["nsenter", "--all", "--target", str(machine._init), "--", "env", "-i", "-C", "/", "PATH=/usr/bin:/bin"]
    done = auditd.run_audited([*enter, *command])
    assert done.returncode == 0, done.stderr


def find_words(machine: Machine, title: str) -> list[str]:
    return [entry["WATCHDOGD_REASONS"] for entry in read_journal(machine, f"WATCHDOGD_RULE_TITLE={title}")]


def test_who_stops_the_service_is_named(auditd: Auditd, boot_machine: BootMachine) -> None:
    auditd.add_rule(EXEC_RULE)
    machine = boot_machine({"/var/log/audit": auditd.folder})
    machine.run(PROGRAM, "install")
    machine.run("systemctl", "enable", "--now", "watchdogd")

    run_audited(auditd, machine, "systemctl", "restart", "watchdogd")
    (words,) = find_words(machine, RESTARTED.title)
    assert words.startswith("SIGTERM from systemd, which was asked by `systemctl restart watchdogd` (pid ")
    run_audited(auditd, machine, "systemctl", "stop", "watchdogd.service")
    (words,) = find_words(machine, STOPPED.title)
    assert words.startswith("SIGTERM from systemd, which was asked by `systemctl stop watchdogd.service` (pid ")
    machine.run("systemctl", "start", "watchdogd")
    pid = machine.show("watchdogd", "MainPID")
    machine.run("sh", "-c", f"kill -TERM {pid}; sleep 1")
    (words,) = find_words(machine, SIGNALLED.title)
    assert f"SIGTERM from `sh -c kill -TERM {pid}; sleep 1` (pid " in words
    deadline_s = time.monotonic() + 20
    while machine.show("watchdogd", "MainPID") in {"0", pid} and time.monotonic() < deadline_s:
        time.sleep(0.2)
    assert machine.show("watchdogd", "NRestarts") == "1"  # what went past systemd is undone by it
    assert machine.show("watchdogd", "MainPID") not in {"0", pid}


def test_the_doctor_finds_what_was_done_to_the_service(boot_machine: BootMachine) -> None:
    machine = boot_machine()
    machine.run(PROGRAM, "install")
    assert look(machine, "service")["service"]["mend"] == "systemctl start watchdogd"
    assert look(machine, "service")["start at boot"]["mend"] == "systemctl enable watchdogd"
    machine.run("systemctl", "enable", "--now", "watchdogd")
    found = look(machine, "service", "files", "journal", "rules")
    fine = ("service", "start at boot", "drop-ins", "sandbox", "unit settings", "daemon memory", "daemon", "blindness")
    assert {name: found[name] for name in fine if found[name]["level"] != "ok"} == {}
    assert {name: found[name] for name in ("writers", "readers", "own files") if found[name]["level"] != "ok"} == {}
    assert found["ledger"]["text"].startswith("complete: yes")
    assert found["journal rate limit"]["level"] == "ok"
    assert found["settings and rules"]["level"] == "ok"

    drop_in = "/etc/systemd/system/watchdogd.service.d/x.conf"
    machine.write(drop_in, "[Service]\nNoNewPrivileges=no\nSystemCallFilter=\nCapabilityBoundingSet=~\nUser=root\n")
    machine.run("sh", "-c", "sleep 1; echo >>/etc/systemd/system/watchdogd.service")
    assert look(machine, "service")["unit file"]["level"] == "warning"
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "watchdogd")
    found = look(machine, "service")
    assert "it runs as root" in found["sandbox"]["text"]
    assert drop_in in found["drop-ins"]["text"]
    machine.run("rm", drop_in)
    machine.run("chmod", "0666", "/etc/watchdogd/config.yaml")
    machine.run("sh", "-c", "echo >>/usr/share/watchdogd/rules/discovery/network_scanner.yml")
    found = look(machine, "files")
    assert "config.yaml may be written by others" in found["writers"]["text"]
    assert "network_scanner.yml changed" in found["own files"]["text"]
    machine.run("rm", "/etc/systemd/system/watchdogd.service")
    machine.run("systemctl", "mask", "--now", "watchdogd")
    assert "is masked" in look(machine, "service")["service"]["text"]
