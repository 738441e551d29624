"""The doctor on the service: what systemd and /proc say of it, and what the daemon says of itself."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.cli.hosts import Host, levels, look
from tests.cli.test_status import REPORT
from tests.store.test_standings import make_standing
from watchdogd.cli.doctor_daemon import check_daemon, judge_report
from watchdogd.cli.doctor_unit import check_sandbox, check_unit, read_promises
from watchdogd.config import Config, ControlSettings
from watchdogd.ledger import balance_ledger
from watchdogd.reports import SourceReport, TriageReport
from watchdogd.resources import find_resource

if TYPE_CHECKING:
    from pathlib import Path

    from watchdogd.cli.doctor_findings import Severity
    from watchdogd.reports import StatusReport

FINE = {
    "LoadState": "loaded",
    "UnitFileState": "enabled",
    "ActiveState": "active",
    "SubState": "running",
    "Result": "success",
    "MainPID": "42",
    "DropInPaths": "",
    "NeedDaemonReload": "no",
    "NRestarts": "0",
}
SHIPPED = (find_resource("systemd") / "watchdogd.service").read_text()
PROMISED = read_promises(SHIPPED)
STATUS = (
    "Name:\twatchdogd\nUid:\t990\t990\t990\t990\nVmRSS:\t   61000 kB\nCapEff:\t{:016x}\nNoNewPrivs:\t1\nSeccomp:\t2\n"
)
GRANTED = 1 << 2 | 1 << 19 | 1 << 37


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """The service as its unit has it."""
    host = Host(tmp_path)
    host.systemd(**FINE, **PROMISED)
    host.process(42, "watchdogd", status=STATUS.format(GRANTED))
    return host


def test_a_service_as_it_should_be(host: Host) -> None:
    site = host.site()
    assert levels(look(check_unit, site)) == {"service": "ok", "start at boot": "ok", "drop-ins": "ok"}
    assert levels(look(check_sandbox, site)) == {"sandbox": "ok", "unit settings": "ok", "daemon memory": "ok"}


@pytest.mark.parametrize(
    ("changes", "check", "level", "mend"),
    [
        ({"LoadState": "not-found"}, "service", "error", "watchdogd install && systemctl enable --now watchdogd"),
        ({"LoadState": "masked"}, "service", "error", "systemctl unmask watchdogd && systemctl enable --now watchdogd"),
        ({"ActiveState": "inactive"}, "service", "error", "systemctl start watchdogd"),
        ({"ActiveState": "failed"}, "service", "error", "journalctl -u watchdogd -n 50 --no-pager"),
        ({"NRestarts": "3"}, "service", "warning", "journalctl -u watchdogd -p warning -n 50 --no-pager"),
        ({"UnitFileState": "disabled"}, "start at boot", "warning", "systemctl enable watchdogd"),
        ({"NeedDaemonReload": "yes"}, "unit file", "warning", "systemctl daemon-reload && systemctl restart watchdogd"),
    ],
)
def test_a_service_that_is_not(host: Host, changes: dict[str, str], check: str, level: Severity, mend: str) -> None:
    host.systemd(**(FINE | changes))
    found = look(check_unit, host.site())[check]
    assert (found.level, found.mend) == (level, mend)


def test_a_drop_in_that_changes_what_runs_or_the_sandbox(host: Host) -> None:
    path = "/etc/systemd/system/watchdogd.service.d/x.conf"
    host.systemd(**(FINE | {"DropInPaths": path}))
    host.file(path, "[Service]\nNice=5\n")
    assert levels(look(check_unit, host.site()))["drop-ins"] == "ok"
    host.file(path, "[Service]\nExecStart=\nExecStart=/bin/true\nNoNewPrivileges=no\n")
    found = look(check_unit, host.site())["drop-ins"]
    assert found.level == "warning"
    assert f"{path} (ExecStart, NoNewPrivileges)" in found.text


@pytest.mark.parametrize(
    ("status", "gap"),
    [
        (STATUS.format((1 << 41) - 1), "capabilities too many"),
        (STATUS.format(GRANTED).replace("Seccomp:\t2", "Seccomp:\t0"), "no system call is filtered"),
        (STATUS.format(GRANTED).replace("NoNewPrivs:\t1", "NoNewPrivs:\t0"), "it may gain privileges"),
        (STATUS.format(GRANTED).replace("Uid:\t990", "Uid:\t0"), "it runs as root"),
    ],
)
def test_a_sandbox_that_is_not_in_force(host: Host, status: str, gap: str) -> None:
    host.process(42, "watchdogd", status=status)
    found = look(check_sandbox, host.site())["sandbox"]
    assert found.level == "error"
    assert gap in found.text


def test_fewer_capabilities_than_granted_are_fine(host: Host) -> None:
    host.process(42, "watchdogd", status=STATUS.format(1 << 2))
    assert levels(look(check_sandbox, host.site()))["sandbox"] == "ok"


def test_systemd_promises_less_than_the_shipped_unit(host: Host) -> None:
    host.systemd(**FINE, **(PROMISED | {"ProtectSystem": "full", "LockPersonality": "no"}))
    found = look(check_sandbox, host.site())["unit settings"]
    assert found.level == "warning"
    assert "ProtectSystem=full instead of strict" in found.text
    assert "LockPersonality=no" in found.text


def test_the_shipped_unit_promises_something() -> None:
    assert PROMISED["ProtectSystem"] == "strict"
    assert PROMISED["NoNewPrivileges"] == "yes"
    assert len(PROMISED) > 12


def test_a_daemon_that_has_grown(host: Host) -> None:
    host.process(42, "watchdogd", status=STATUS.format(GRANTED).replace("61000", "400000"))
    assert levels(look(check_sandbox, host.site()))["daemon memory"] == "warning"


def test_no_systemd_and_no_daemon(tmp_path: Path) -> None:
    site = Host(tmp_path).site()
    assert levels(look(check_unit, site)) == {"service": "unknown"}
    assert levels(look(check_sandbox, site)) == {"sandbox": "unknown"}
    assert levels(look(check_daemon, site)) == {"daemon": "unknown"}


def ask_daemon(tmp_path: Path, answer: bytes, *, euid: int = 0) -> dict[str, Severity]:
    """What the check makes of a daemon that answers so."""
    host = Host(tmp_path)
    config = Config(control=ControlSettings(path="/run/c"))
    host.folder("/run")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(host.root / "run/c"))
        server.listen()

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(1000)
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        if euid == 0:
            thread.start()
        found = levels(look(check_daemon, host.site(config, euid=euid)))
        if euid == 0:
            thread.join()
    return found


def test_a_daemon_that_answers(tmp_path: Path) -> None:
    report = msgspec.structs.replace(REPORT, ledger=balance_ledger({}))
    found = ask_daemon(tmp_path, msgspec.json.encode(report) + b"\n")
    assert found == dict.fromkeys(("daemon", "sources", "blindness", "ledger"), "ok") | {"exam": "unknown"}


def test_a_daemon_that_refuses_or_may_not_be_asked(tmp_path: Path) -> None:
    assert ask_daemon(tmp_path, b'{"error": "no"}\n') == {"daemon": "error"}
    other = tmp_path / "other"
    other.mkdir()
    assert ask_daemon(other, b"", euid=1000) == {"daemon": "unknown"}


def judge(**changes: object) -> dict[str, Severity]:
    report: StatusReport = msgspec.structs.replace(REPORT, **changes)
    return levels({finding.check: finding for finding in judge_report(report)})


def test_what_the_daemon_may_say_of_itself() -> None:
    assert judge(blind=("No audit events for long",))["blindness"] == "error"
    assert judge(sources=(SourceReport("audit_log", "x", running=False),))["sources"] == "error"
    assert judge(sources=(SourceReport("audit_netlink", "x", running=False),))["sources"] == "warning"
    deaf = msgspec.structs.replace(REPORT, sources=(SourceReport("audit_netlink", "x", running=False),))
    assert "sources" in {found.check for found in judge_report(deaf, in_container=True) if found.level == "unknown"}
    assert judge(last_load=msgspec.structs.replace(REPORT.last_load, accepted=False))["rules in force"] == "error"
    assert judge()["ledger"] == "unknown"
    broken = balance_ledger({"decode_lines_total": 3})
    assert judge(ledger=broken)["ledger"] == "error"


def test_the_models_exam() -> None:
    def triage(standing: object, server: str = "closed") -> TriageReport:
        return TriageReport("m:1b", server, 0, 0, 1, 1, 0, 0, 0, standing=standing)  # type: ignore[arg-type]

    assert judge(triage=triage(make_standing()))["exam"] == "ok"
    assert judge(triage=triage(None))["exam"] == "warning"
    assert judge(triage=triage(make_standing(passed=False)))["exam"] == "warning"
    assert judge(triage=triage(make_standing(), "open"))["triage"] == "warning"
