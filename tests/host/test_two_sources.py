"""The real kernel, a real auditd and the daemon on both: log and socket."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.daemon import IMPLANT, RULE_ID, Daemon, wait_until
from tests.host.auditing import auditctl, read_status
from watchdogd.collect.audit_netlink import NETLINK_AUDIT, AuditNetlink
from watchdogd.decode.tables import name_type
from watchdogd.ports import SystemClock
from watchdogd.resources import find_resource
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.host.auditing import Auditd
    from tests.host.receiver import Receiver
    from watchdogd.entities import Record

pytestmark = [pytest.mark.host, pytest.mark.slow]

EXEC_RULE = "-a always,exit -F arch=b64 -S execve,execveat -k exec"


@pytest.fixture
def implant(tmp_path: Path) -> Path:
    """A program of that name, which the rule of the tests is about."""
    path = tmp_path / "implant"
    path.write_bytes(Path("/bin/true").read_bytes())
    path.chmod(0o755)
    return path


@pytest.fixture
def daemon(tmp_path: Path, receiver: Receiver, auditd: Auditd, implant: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path, webhook_url=receiver.url, netlink=True) as daemon:
        daemon.config.write_text(daemon.config.read_text().replace(str(daemon.log), str(auditd.log)))
        rule = tmp_path / "rules" / "implant.yml"
        rule.write_text(rule.read_text().replace(IMPLANT, str(implant)))
        yield daemon


def read_counters(daemon: Daemon) -> Counter[str]:
    """What the daemon logged when it stopped."""
    last = daemon.said.rpartition("stopped: ")[2]
    return Counter({name: int(value) for name, value in re.findall(r"([a-z_]+_total)=(\d+)", last)})


def write_status(path: Path) -> None:
    """What the unit runs, with the folder of the test."""
    unit = (find_resource("systemd") / "watchdogd-audit-status.service").read_text()
    found = re.search(r"^ExecStart=/bin/sh -c '(.*)'$", unit, re.MULTILINE)
    assert found is not None
    # systemd takes $$ for $.
    command = found[1].replace("cd /run/watchdogd-audit", f"cd {path.parent}").replace("$$", "$")
    command = re.sub(r"(?<!\.)\bstatus; }$", f"{path.name}; }}", command)
    assert f" {path.name}; }}" in command
    subprocess.run(["/bin/sh", "-c", command], check=True, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})


def count_requests(receiver: Receiver) -> dict[str, int]:
    """Deliveries by alert id."""
    counts: dict[str, int] = {}
    for request in receiver.requests:
        alert_id = request.document["watchdogd"]["alert_id"]
        counts[alert_id] = counts.get(alert_id, 0) + 1
    return counts


def test_each_exec_gives_one_alert(daemon: Daemon, auditd: Auditd, receiver: Receiver, implant: Path) -> None:
    auditd.add_rule(EXEC_RULE)
    daemon.start()
    for number in range(20):
        assert auditd.run_audited([str(implant), str(number)]).returncode == 0
    receiver.wait_for(lambda requests: len(requests) >= 20, 30)
    auditd.wait_for_line(r'a0="\S+implant" a1="19"')
    time.sleep(1.5)  # whatever the log would add to what the socket said has come by now
    assert daemon.stop() == 0
    assert set(count_requests(receiver).values()) == {1}
    assert len(count_requests(receiver)) == 20
    lines = {line for request in receiver.requests for line in request.document["watchdogd"]["lines"]}
    assert lines <= set(auditd.lines())
    counters = read_counters(daemon)
    assert counters["store_alerts_total"] == counters["judge_alerts_total"] == 20
    assert counters["decode_repeated_events_total"] >= 20
    assert counters["collect_netlink_overruns_total"] == 0
    assert receiver.requests[0].document["rule"]["id"] == RULE_ID


def test_where_auditd_was_killed_alerts_still_come(
    daemon: Daemon, auditd: Auditd, receiver: Receiver, implant: Path
) -> None:
    auditd.add_rule(EXEC_RULE)
    daemon.start()
    os.kill(read_status()["pid"], signal.SIGKILL)
    assert read_status()["enabled"] == 1
    before = len(auditd.lines())
    auditd.run_audited([str(implant), "after"])
    (request,) = receiver.wait_for(bool, 30)
    assert request.document["process"]["args"] == [str(implant), "after"]
    assert len(auditd.lines()) == before
    wait_until(lambda: read_status()["pid"] == 0, daemon)  # the kernel tries a few times before it gives auditd up
    assert daemon.stop() == 0
    assert read_counters(daemon)["judge_alerts_total"] == 1


def test_a_crash_between_socket_and_log_gives_the_same_alert(
    daemon: Daemon, auditd: Auditd, receiver: Receiver, implant: Path
) -> None:
    """The socket's event is committed and the log's is not: read again after the crash, it is the same alert."""
    auditd.add_rule(EXEC_RULE)
    daemon.start()
    writer = read_status()["pid"]
    os.kill(writer, signal.SIGSTOP)  # the log stands still while the socket goes on
    try:
        auditd.run_audited([str(implant), "once"])
        receiver.wait_for(bool, 30)
        daemon.kill()
    finally:
        os.kill(writer, signal.SIGCONT)
    auditd.wait_for_line(r'a0="\S+implant" a1="once"')
    daemon.start()
    time.sleep(1.5)
    assert daemon.stop() == 0
    counters = read_counters(daemon)
    assert (counters["store_alerts_total"], counters["store_repeated_alerts_total"]) == (0, 1)
    assert len(count_requests(receiver)) == 1


STORM = """
import os, sys
for _ in range(int(sys.argv[1])):
    os.close(os.open("/dev/null", os.O_RDONLY))
"""


def test_what_the_kernel_lost_is_in_the_ledger(daemon: Daemon, auditd: Auditd) -> None:
    write_status(daemon.status)
    before = read_status()["lost"]
    daemon.start()
    auditd.add_rule("-a always,exit -F arch=b64 -S openat -k opens")
    auditctl("--backlog_wait_time", "0")
    auditctl("-b", "64")
    deadline_s = time.monotonic() + 60
    while read_status()["lost"] - before < 1000 and time.monotonic() < deadline_s:
        auditd.run_audited([sys.executable, "-c", STORM, "20000"])
    auditctl("-D")
    write_status(daemon.status)
    lost = read_status()["lost"] - before
    assert lost >= 1000
    assert daemon.stop(60) == 0
    assert read_counters(daemon)["collect_kernel_lost_total"] == lost


@pytest.fixture
def listening(auditd: Auditd) -> Iterator[list[bytes]]:  # noqa: ARG001 (the kernel talks while auditd is there)
    """What the source emits, while the test runs."""
    counters = Counters()
    source = AuditNetlink(name_type, counters, SystemClock())
    source.open()
    lines: list[bytes] = []

    def take(records: list[Record]) -> None:
        lines.extend(record.data for record in records)

    thread = threading.Thread(target=source.run, args=(take,))
    thread.start()
    try:
        yield lines
    finally:
        source.stop()
        thread.join(30)
        assert not thread.is_alive()


def send_user_message(text: bytes) -> None:
    """As a program with CAP_AUDIT_WRITE does (AUDIT_USER_LOGIN)."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_AUDIT) as sender:
        sender.bind((0, 0))
        sender.send(struct.pack("=IHHII", 16 + len(text), 1112, 1, 1, 0) + text)


def test_every_line_is_what_auditd_writes(auditd: Auditd, listening: list[bytes]) -> None:
    auditd.add_rule("-a always,exit -F arch=b64 -S execve,openat,connect -k all")
    auditd.run_audited(["sh", "-c", "cat /etc/shadow >/dev/null; /nonexistent; printf '%s' \"a b\" 'x\xff' >/dev/null"])
    send_user_message(b'op=test acct="a\nb" trailing \n')
    send_user_message(b"op=last res=success\0")
    auditd.wait_for_line("op=last")
    deadline_s = time.monotonic() + 20
    while not any(b"op=last" in line for line in listening) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    written = [line.encode("utf-8", "surrogateescape") for line in auditd.lines() if "type=DAEMON_" not in line]
    heard = [line for line in listening if line and not line.startswith(b"type=EOE")]
    written = written[written.index(next(line for line in heard if line in written)) :]
    assert len(written) > 20
    assert heard[heard.index(written[0]) : heard.index(written[-1]) + 1] == written


def test_an_overrun_is_noticed(auditd: Auditd) -> None:
    counters = Counters()
    source = AuditNetlink(name_type, counters, SystemClock(), receive_bytes=4096)
    source.open()
    found: list[Record] = []

    def take(records: list[Record]) -> None:
        found.extend(records)

    with contextlib.closing(source):
        auditd.add_rule("-a always,exit -F arch=b64 -S openat -k opens")
        auditd.run_audited([sys.executable, "-c", STORM, "2000"])
        auditctl("-D")
        for _ in range(20):
            source.step(take)
    assert counters.get("collect_netlink_overruns_total") >= 1
    assert [record for record in found if record.lost_ms and not record.data]


def test_without_the_capability_it_says_so_once_and_the_log_is_enough(
    daemon: Daemon, auditd: Auditd, receiver: Receiver, implant: Path
) -> None:
    auditd.add_rule(EXEC_RULE)
    daemon.start(prefix=["setpriv", "--bounding-set", "-audit_read", "--inh-caps", "-audit_read"])
    auditd.run_audited([str(implant), "1"])
    receiver.wait_for(bool, 30)
    time.sleep(2)
    assert daemon.stop() == 0
    assert daemon.said.count("CAP_AUDIT_READ") == 1
    counters = read_counters(daemon)
    assert counters["collect_source_errors_total"] >= 2
    assert len(count_requests(receiver)) == 1
