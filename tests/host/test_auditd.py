"""The auditd fixture: real kernel events of one process tree, and everything restored."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.decode.conftest import decode_lines
from tests.host.auditing import Auditd, auditctl, read_status
from watchdogd.resources import find_resource

if TYPE_CHECKING:
    from pathlib import Path

    from tests.host.conftest import StartAuditd

pytestmark = pytest.mark.host

EXEC_RULE = "-a always,exit -F arch=b64 -S execve,execveat -k exec"


@pytest.mark.parametrize("log_format", ["RAW", "ENRICHED"])
def test_an_exec_in_the_audited_tree_is_logged(start_auditd: StartAuditd, log_format: str) -> None:
    auditd = start_auditd(log_format=log_format)
    auditd.add_rule(EXEC_RULE)
    assert auditd.run_audited(["cat", "/dev/null"]).returncode == 0
    line = auditd.wait_for_line(r"type=SYSCALL .*comm=\"cat\"")
    assert f" auid={auditd.login_uid} " in line
    assert ("\x1d" in line) == (log_format == "ENRICHED")


def test_processes_outside_the_tree_are_not_audited(auditd: Auditd) -> None:
    auditd.add_rule(EXEC_RULE)
    subprocess.run(["cat", "/dev/null"], check=True)
    auditd.run_audited(["true"])
    auditd.wait_for_line(r"comm=\"true\"")
    assert not [line for line in auditd.lines() if 'comm="cat"' in line]


def test_rotation_keeps_the_old_log(auditd: Auditd) -> None:
    auditd.add_rule(EXEC_RULE)
    auditd.run_audited(["true"])
    auditd.wait_for_line(r"comm=\"true\"")
    auditd.rotate()
    assert 'comm="true"' in (auditd.folder / "audit.log.1").read_text(errors="replace")
    auditd.run_audited(["cat", "/dev/null"])
    auditd.wait_for_line(r"comm=\"cat\"")


def test_the_kernels_audit_is_as_before_even_after_a_failure(safe_host: None, tmp_path: Path) -> None:  # noqa: ARG001
    auditctl("-a", "always,exit", "-F", "arch=b64", "-S", "reboot", "-F", "auid=1073741823", "-k", "there-before")
    status, rules = read_status(), auditctl("-l")
    with pytest.raises(RuntimeError, match="auditctl"), Auditd(tmp_path) as auditd:
        auditd.add_rule("-a nonsense")
    assert read_status() == status
    assert auditctl("-l") == rules
    auditctl("-D", "-k", "there-before")


def test_the_kernel_takes_every_rule_that_we_ship(auditd: Auditd) -> None:
    text = (find_resource("systemd") / "audit.rules").read_text()
    refused = []
    for rule in [line for line in text.splitlines() if line.startswith("-a ")]:
        try:
            auditd.add_rule(rule)
        except RuntimeError as error:
            refused.append(str(error))
    # A watched folder that this machine lacks is the only thing that may be refused.
    assert [error for error in refused if "No such file or directory" not in error] == []
    auditd.run_audited(["cat", "/etc/shadow"])
    auditd.wait_for_line(r'key="shadow_access"')


VECTORS = (
    ("x" * 20_000,),
    ("a b" * 5_000, "", "tail"),
    ("", "x", ""),
    ("\u00e9" * 6_000, 'q"' * 4_000),
    ("a" * 7_490, "b" * 7_490, "c d" * 3_000),
    ("s",) * 3_000,
    ("line\nline\x01\x7f" * 900,),
)


def test_argument_vectors_come_back_as_they_were_given(auditd: Auditd) -> None:
    """Long, many, empty, in hex: the kernel spreads them over several records."""
    auditd.add_rule(EXEC_RULE)
    for vector in VECTORS:
        assert auditd.run_audited(["/bin/true", *vector]).returncode == 0
    auditd.run_audited(["cat", "/dev/null"])
    auditd.wait_for_line(r"comm=\"cat\"")
    events = decode_lines(auditd.log.read_bytes().split(b"\n"))
    given = [event.process.argv for event in events if event.process is not None and event.process.comm == "true"]
    assert given == [("/bin/true", *vector) for vector in VECTORS]
    assert not [event.warnings for event in events if event.warnings]
