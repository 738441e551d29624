"""The whole path on a booted systemd: installed, enabled, fed by the kernel's real audit events."""

from __future__ import annotations

import json
import re
import shlex
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests import readme
from tests.daemon import RULE
from tests.host.machine import PROGRAM

if TYPE_CHECKING:
    from tests.host.auditing import Auditd
    from tests.host.conftest import BootMachine
    from tests.host.machine import Machine
    from tests.host.receiver import Receiver

pytestmark = [pytest.mark.host, pytest.mark.slow]

EXEC_RULE = "-a always,exit -F arch=b64 -S execve,execveat -k exec"
SHADOW_RULE = "-a always,exit -F arch=b64 -F path=/etc/shadow -F perm=rwa -k shadow_access"


def read_journal(machine: Machine, *matches: str) -> list[dict[str, Any]]:
    machine.run("journalctl", "--sync")
    shown = machine.run("journalctl", "--quiet", "--no-pager", "-o", "json", *matches)
    return [json.loads(line) for line in shown.stdout.splitlines()]


def wait_for_alerts(machine: Machine, timeout_s: float) -> list[dict[str, Any]]:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        alerts = [entry for entry in read_journal(machine, "-t", "watchdogd") if "WATCHDOGD_ALERT_ID" in entry]
        if any("/etc/shadow" in entry.get("WATCHDOGD_CMDLINE", "") for entry in alerts):
            return alerts
        time.sleep(0.2)
    log = machine.run("journalctl", "--no-pager", "-u", "watchdogd", check=False).stdout
    raise TimeoutError(f"no alert within {timeout_s:g} s; the service says:\n{log[-6000:]}")


PROBE = """
import ctypes, json, os, subprocess, sys, urllib.request
import psutil
from pathlib import Path

def attempt(action):
    try:
        return action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def list_journal():
    from systemd.journal import Reader
    with Reader() as reader:
        return len([entry for entry, _ in zip(reader, range(3))])

def watch():
    from watchdog.observers.inotify import InotifyObserver
    observer = InotifyObserver()
    observer.start()
    observer.stop()
    return True

def call(number, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return "allowed"

def run_written():
    program = Path("/var/lib/watchdogd/program")
    program.write_text("#!/bin/sh\\necho ran\\n")
    program.chmod(0o755)
    return subprocess.run([program], capture_output=True, text=True, check=True).stdout

url = sys.argv[1]
found = {
    "exe of init": lambda: os.readlink("/proc/1/exe"),
    "cwd of init": lambda: os.readlink("/proc/1/cwd"),
    "processes": lambda: len([p for p in psutil.process_iter() if p.exe()]) >= 3,
    "cpu": lambda: psutil.cpu_times().user > 0,
    "load": lambda: len(psutil.getloadavg()) == 3,
    "memory": lambda: psutil.virtual_memory().total > 0,
    "disk": lambda: psutil.disk_usage("/").total > 0,
    "network": lambda: "lo" in psutil.net_io_counters(pernic=True),
    "foreign tmp": lambda: Path("/tmp/foreign").read_text(),
    "foreign home": lambda: Path("/root/foreign").read_text(),
    "audit log": lambda: Path("/var/log/audit/audit.log").stat().st_size >= 0,
    "shadow": lambda: Path("/etc/shadow").read_text() != "",
    "modules": lambda: Path("/usr/lib/modules/6.1.0/own.ko").read_text(),
    "foreign key": lambda: Path("/home/ann/.ssh/authorized_keys").read_text(),
    "owner": lambda: Path("/home/ann/.ssh/authorized_keys").stat().st_uid,
    "inotify": watch,
    "journal": list_journal,
    "child": lambda: subprocess.check_output([sys.executable, "-c", "print(1)"], text=True),
    "credential": lambda: (Path(os.environ["CREDENTIALS_DIRECTORY"]) / "credentials_hook.url").read_text(),
    "webhook": lambda: urllib.request.urlopen(url, b"{}", timeout=10).status,
    "state": lambda: Path("/var/lib/watchdogd/probe").write_text("x"),
    "write etc": lambda: Path("/etc/watchdogd/probe").write_text("x"),
    "write home": lambda: Path("/root/probe").write_text("x"),
    "become root": lambda: os.setuid(0),
    "write modules": lambda: Path("/usr/lib/modules/6.1.0/own.ko").write_text("x"),
    "write tmp": lambda: Path("/tmp/probe").write_text("x"),
    "run what it wrote": run_written,
    "read memory": lambda: call(310, 1, 0, 0, 0, 0, 0),
    "trace": lambda: call(101, 16, 1, 0, 0),
    "ring": lambda: call(425, 8, 0),
    "key": lambda: call(250, 0, 0, 0),
    "namespace": lambda: call(272, 0x10000000),
    "load module": lambda: call(175, 0, 0, 0),
}
Path("/var/lib/watchdogd/found.json").write_text(json.dumps({name: attempt(f) for name, f in found.items()}))
"""


def test_the_sandbox_blinds_no_feature(auditd: Auditd, boot_machine: BootMachine, receiver: Receiver) -> None:
    # Not here: the kernel's audit multicast group, which nspawn itself hides (EAFNOSUPPORT).
    machine = boot_machine({"/var/log/audit": auditd.folder})
    machine.run(PROGRAM, "install")
    machine.write("/opt/probe.py", PROBE)
    for folder in ("/tmp", "/root"):
        machine.write(f"{folder}/foreign", "seen")
        machine.run("chmod", "0600", f"{folder}/foreign")
    machine.write("/usr/lib/modules/6.1.0/own.ko", "module")
    machine.write("/home/ann/.ssh/authorized_keys", "ssh-ed25519 AAAA")
    machine.run("chown", "-R", "1234:1234", "/home/ann")
    machine.run("chmod", "-R", "go=", "/home/ann")
    machine.write("/etc/watchdogd/credentials/hook.url", receiver.url)
    machine.run("chmod", "0600", "/etc/watchdogd/credentials/hook.url")
    unit = machine.run("cat", "/etc/systemd/system/watchdogd.service").stdout
    command = f"ExecStart={PROGRAM.parent}/python3 /opt/probe.py {receiver.url}"
    unit = re.sub(r"^ExecStart=.*$", command, unit, flags=re.MULTILINE)
    unit = unit.replace("Type=notify\n", "Type=oneshot\n").replace("WatchdogSec=30\n", "")
    machine.write("/etc/systemd/system/probe.service", unit)
    machine.run("systemctl", "start", "probe")
    found = json.loads(machine.run("cat", "/var/lib/watchdogd/found.json").stdout)
    denied = {name: found.pop(name) for name in [*found][[*found].index("write etc") :]}
    assert found == {
        "exe of init": "/usr/lib/systemd/systemd",
        "cwd of init": "/",
        "processes": True,
        "cpu": True,
        "load": True,
        "memory": True,
        "disk": True,
        "network": True,
        "foreign tmp": "seen",
        "foreign home": "seen",
        "audit log": True,
        "shadow": True,
        "modules": "module",
        "foreign key": "ssh-ed25519 AAAA",
        "owner": 1234,
        "inotify": True,
        "journal": 3,
        "child": "1\n",
        "credential": receiver.url,
        "webhook": 200,
        "state": 1,
    }
    assert {name: said for name, said in denied.items() if not re.search("PermissionError|Read-only", str(said))} == {}


def run_readme(machine: Machine) -> None:
    """README's commands word for word: of the installation what follows the environment's making, and the reading."""
    install = readme.commands("Install")
    assert install[:2] == ["python3 -m venv /opt/watchdogd", "/opt/watchdogd/bin/pip install ."]
    for command in [*install[2:], *readme.commands("Read alerts")]:
        follows = " -f" in command
        done = machine.run("timeout", "3" if follows else "60", *shlex.split(command), check=False)
        assert done.returncode == (124 if follows else 0), f"{command}: {done.stderr}"
        if command.startswith("journalctl") and "=" not in command:
            assert "watchdogd" in done.stdout, command


FAKE_AUDITCTL = """#!/bin/sh
echo "enabled 1
failure 1
pid 42
rate_limit 0
backlog_limit 8192
lost $(cat /etc/lost)
backlog 0"
"""


def test_the_kernels_losses_are_written_by_root_and_read_by_the_daemon(boot_machine: BootMachine) -> None:
    """All but the kernel: a container has no audit, so the timer's conditions are lifted and auditctl is a script."""
    machine = boot_machine()
    machine.run(PROGRAM, "install")
    assert machine.show("watchdogd", "Wants").split().count("watchdogd-audit-status.timer") == 1
    machine.write("/usr/sbin/auditctl", FAKE_AUDITCTL)
    machine.run("chmod", "0755", "/usr/sbin/auditctl")
    machine.write("/etc/lost", "5")
    timer = "[Timer]\nOnUnitActiveSec=\nOnActiveSec=0\nOnUnitActiveSec=4\nAccuracySec=1ms\n"
    drop_in = f"[Unit]\nConditionVirtualization=\n{timer}"
    machine.write("/etc/systemd/system/watchdogd-audit-status.timer.d/test.conf", drop_in)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "watchdogd")
    said = "journalctl --no-pager -q -u watchdogd"
    machine.run("sh", "-c", "for i in $(seq 100); do test -e /run/watchdogd-audit/status && break; sleep 0.1; done")
    assert machine.run("stat", "-c", "%U:%G %a", "/run/watchdogd-audit", "/run/watchdogd-audit/status").stdout.split(
        "\n"
    )[:2] == ["root:watchdogd 750", "root:watchdogd 640"]
    time.sleep(11)  # the daemon looks every ten seconds
    machine.write("/etc/lost", "47")
    machine.run("sh", "-c", f"for i in $(seq 200); do {said} | grep -q 'kernel lost 42' && break; sleep 0.1; done")
    assert "the kernel lost 42 audit records" in machine.run(*said.split()).stdout
    assert machine.run("journalctl", "--no-pager", "-q", "-u", "watchdogd-audit-status.service").stdout == ""
    machine.run("systemctl", "stop", "watchdogd")
    assert machine.show("watchdogd-audit-status.timer", "ActiveState") == "inactive"


BURST = """
import time
from systemd.journal import send
for number in range(500):
    send(f"burst {number}", SYSLOG_IDENTIFIER="burst")
time.sleep(3)  # whose sender has ended by the time it is read belongs to no unit
"""


def test_journald_takes_a_burst_of_alerts_whole(boot_machine: BootMachine) -> None:
    """What the unit says of rate limits holds for entries that are sent as alerts are; without it they are dropped."""
    machine = boot_machine()
    machine.run(PROGRAM, "install")
    limits = "[Journal]\nRateLimitIntervalSec=10min\nRateLimitBurst=10\n"
    machine.write("/etc/systemd/journald.conf.d/test.conf", limits)
    machine.run("systemctl", "restart", "systemd-journald")
    machine.write("/opt/burst.py", BURST)
    unit = machine.run("cat", "/etc/systemd/system/watchdogd.service").stdout
    lifted = "".join(f"{line}\n" for line in unit.splitlines() if line.startswith("LogRateLimit"))
    assert lifted.count("\n") == 2
    taken = {}
    for name, lines in (("limited", ""), ("lifted", lifted)):
        command = f"ExecStart={PROGRAM.parent}/python3 /opt/burst.py"
        machine.write(f"/etc/systemd/system/{name}.service", f"[Service]\nType=oneshot\n{command}\n{lines}")
        machine.run("systemctl", "start", name)
        taken[name] = len(read_journal(machine, "-u", name, "-t", "burst"))
    assert taken["lifted"] == 500
    assert taken["limited"] < 500


def test_rules_are_edited_live_inside_the_sandbox(boot_machine: BootMachine) -> None:
    """inotify, the control socket, what is kept beside the database: all of it below the unit's restrictions."""
    machine = boot_machine()
    machine.run(PROGRAM, "install")
    machine.run("systemctl", "start", "watchdogd")
    pid = machine.show("watchdogd", "MainPID")
    packaged = json.loads(machine.run(PROGRAM, "status", "--format", "json").stdout)
    assert packaged["folders"] == ["/usr/share/watchdogd/rules", "/etc/watchdogd/rules"]
    assert packaged["active"] > 0
    assert packaged["counters"].get("match_watch_errors_total", 0) == 0
    assert read_memory_kib(machine) < 64 * 1024
    rule = RULE.format(level="high")
    machine.write("/etc/watchdogd/rules/own.yml", rule)
    wait_for_said(machine, "reloaded: ", "1 added")
    machine.write("/etc/watchdogd/rules/own.yml", rule + "nonsense: [\n")
    wait_for_said(machine, "reload refused", "own.yml:")
    assert "1 mistake in the files" in machine.show("watchdogd", "StatusText")
    refused = machine.run(PROGRAM, "reload", check=False)
    assert refused.returncode == 2
    assert "own.yml:" in refused.stderr
    reload = machine.run("systemctl", "reload", "watchdogd", check=False)
    assert reload.returncode != 0
    assert machine.show("watchdogd", "ActiveState") == "active"
    told = read_journal(machine, "-u", "watchdogd", "_COMM=watchdogd")
    assert any(re.search(r"own\.yml:\d+:\d+: ", str(one["MESSAGE"])) for one in told if one["_PID"] != pid), told
    machine.run("systemctl", "restart", "watchdogd")
    now = json.loads(machine.run(PROGRAM, "status", "--format", "json").stdout)
    assert (now["active"], now["last_load"]["accepted"]) == (packaged["active"] + 1, False)
    machine.run("rm", "/etc/watchdogd/rules/own.yml")
    machine.run(PROGRAM, "reload")
    machine.run("systemctl", "reload", "watchdogd")
    own = machine.run("setpriv", "--reuid=watchdogd", "--regid=watchdogd", "--clear-groups", PROGRAM, "status")
    assert "rules" in own.stdout
    stranger = machine.run("setpriv", "--reuid=nobody", "--clear-groups", PROGRAM, "status", check=False)
    assert stranger.returncode == 2
    assert "root" in stranger.stderr
    assert read_memory_kib(machine) < 64 * 1024
    machine.run("systemctl", "stop", "watchdogd")
    assert machine.run("ls", "-A", "/var/lib/watchdogd").stdout.count(".rules-") == 2


def read_memory_kib(machine: Machine) -> int:
    """VmRSS of the daemon."""
    status = machine.run("sh", "-c", "grep VmRSS /proc/$(systemctl show -P MainPID watchdogd)/status").stdout
    return int(status.split()[1])


def wait_for_said(machine: Machine, *texts: str) -> None:
    """Until a message of the daemon holds the texts."""
    said = "journalctl --no-pager -q -u watchdogd"
    filters = "".join(f" | grep -F -e {shlex.quote(text)}" for text in texts[:1])
    machine.run("sh", "-c", f"for i in $(seq 200); do {said}{filters} >/dev/null && break; sleep 0.1; done")
    journal = machine.run(*said.split()).stdout
    assert all(text in journal for text in texts), journal


def test_installed_enabled_and_alerting(auditd: Auditd, boot_machine: BootMachine, receiver: Receiver) -> None:
    auditd.add_rule(EXEC_RULE)
    auditd.add_rule(SHADOW_RULE)
    machine = boot_machine({"/var/log/audit": auditd.folder})

    installed = machine.run(PROGRAM, "install").stdout
    assert "write   /etc/systemd/system/watchdogd.service" in installed
    config = machine.run("cat", "/etc/watchdogd/config.yaml").stdout
    hook = f"\nwebhooks:\n  - name: test\n    url: {receiver.url}\n"
    assert "\nwebhooks:\n" in config
    machine.write("/etc/watchdogd/config.yaml", config.replace("\nwebhooks:\n", hook, 1))
    machine.run(PROGRAM, "check")
    machine.run("systemctl", "enable", "--now", "watchdogd")
    assert machine.show("watchdogd", "ActiveState") == "active"

    auditd.run_audited(["cat", "/etc/shadow"])
    alerts = wait_for_alerts(machine, 30)
    alert = next(entry for entry in alerts if "/etc/shadow" in entry.get("WATCHDOGD_CMDLINE", ""))
    assert alert["WATCHDOGD_EXE"] == "/usr/bin/cat"
    assert alert["WATCHDOGD_VERDICT"] == "untriaged"
    assert alert["WATCHDOGD_LATE"] == "false"
    assert alert["_SYSTEMD_UNIT"] == "watchdogd.service"
    assert alert["_UID"] != "0"
    arrived = receiver.wait_for(
        lambda requests: any(r.document["watchdogd"]["alert_id"] == alert["WATCHDOGD_ALERT_ID"] for r in requests), 30
    )
    assert arrived[0].headers["webhook-id"].startswith("alert_")

    run_readme(machine)
    explained = machine.run(
        "journalctl", "--no-pager", "-x", f"WATCHDOGD_ALERT_ID={alert['WATCHDOGD_ALERT_ID']}"
    ).stdout
    assert "What to do:" in explained

    machine.run("systemctl", "restart", "watchdogd")
    machine.run("systemctl", "stop", "watchdogd")
    assert machine.show("watchdogd", "Result") == "success"
    assert machine.show("watchdogd", "ExecMainStatus") == "0"
    assert machine.show("watchdogd", "NRestarts") == "0"
    again = read_journal(machine, f"WATCHDOGD_ALERT_ID={alert['WATCHDOGD_ALERT_ID']}")
    assert len(again) == 1  # the restart resumed behind it

    machine.run(PROGRAM, "install", "--uninstall")
    assert machine.run("systemctl", "is-enabled", "watchdogd", check=False).returncode != 0
    assert machine.run("ls", "-A", "/etc/watchdogd").stdout.split() == ["config.yaml"]  # edited above


def test_a_webhook_secret_needs_no_capability_and_no_folder(boot_machine: BootMachine, receiver: Receiver) -> None:
    machine = boot_machine()
    machine.run(PROGRAM, "install")
    assert machine.run("stat", "-c", "%U %a", "/etc/watchdogd/credentials").stdout.split() == ["root", "700"]
    machine.run("rmdir", "/etc/watchdogd/credentials")
    machine.run("systemctl", "start", "watchdogd")
    machine.write("/etc/watchdogd/credentials/hook.url", receiver.url)
    machine.run("chmod", "-R", "go=", "/etc/watchdogd/credentials")
    config = machine.run("cat", "/etc/watchdogd/config.yaml").stdout
    hook = "\nwebhooks:\n  - name: test\n    url_file: credentials/hook.url\n"
    machine.write("/etc/watchdogd/config.yaml", config.replace("\nwebhooks:\n", hook, 1))
    drop_in = "[Service]\nCapabilityBoundingSet=\nAmbientCapabilities=\nWatchdogSec=2\nRestartSec=0\n"
    machine.write("/etc/systemd/system/watchdogd.service.d/test.conf", drop_in)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "watchdogd")
    said = machine.run("journalctl", "--no-pager", "-q", "-u", "watchdogd").stdout
    assert "hook.url" not in said
    machine.run(PROGRAM, "test-alert", "--sink", "test")
    receiver.wait_for(bool, 30)
    # Stopped, it feeds no watchdog: systemd kills it and starts it anew.
    pid = machine.show("watchdogd", "MainPID")
    machine.run("kill", "-STOP", pid)
    machine.run(
        "sh",
        "-c",
        "for i in $(seq 200); do test $(systemctl show -P NRestarts watchdogd) = 0 || break; sleep 0.1; done",
    )
    machine.run("sh", "-c", "for i in $(seq 200); do systemctl is-active -q watchdogd && break; sleep 0.1; done")
    assert (machine.show("watchdogd", "NRestarts"), machine.show("watchdogd", "ActiveState")) == ("1", "active")
    assert machine.show("watchdogd", "MainPID") != pid
