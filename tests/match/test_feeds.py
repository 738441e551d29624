"""Which audit rules a Sigma rule lives on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from watchdogd.decode import views
from watchdogd.decode.tables import load_tables
from watchdogd.match.audit_lines import read_lines
from watchdogd.match.feeds import BLIND, CALLS, FED, PARTLY, UNKNOWN, find_line, judge_rules
from watchdogd.match.library import load_rules
from watchdogd.resources import find_packaged_rules, find_resource

if TYPE_CHECKING:
    from pathlib import Path

    from watchdogd.match.feeds import Feeding

ID = "11111111-1111-4111-8111-111111111111"
SHIPPED = read_lines((find_resource("systemd") / "audit.rules").read_text(encoding="utf-8"))


def judge(folder: Path, source: str, selection: str, loaded: str) -> Feeding:
    (folder / "rule.yml").write_text(
        f"title: X\nid: {ID}\nlevel: low\nlogsource: {{product: linux, {source}}}\n"
        f"detection:\n  it: {selection}\n  condition: it\n"
    )
    return judge_rules(load_rules([folder]), read_lines(loaded))[ID]


NEWER = {"setxattrat", "removexattrat", "file_setattr"}
"""Calls that auditctl has no name for yet."""
EXEC = "-a always,exit -F arch=b64 -S execve,execveat -k exec"
CRON = "{TargetFilename|startswith: [/etc/cron.d/, /var/spool/cron/]}"


@pytest.mark.parametrize(
    ("source", "selection", "loaded", "state"),
    [
        ("category: process_creation", "{Image: /bin/x}", EXEC, FED),
        ("category: process_creation", "{Image: /bin/x}", "", BLIND),
        ("category: process_creation", "{Image: /bin/x}", f"-a never,task\n{EXEC}", BLIND),
        ("category: process_creation", "{Image: /bin/x}", "-a always,exit -S execve -F success=0", BLIND),
        ("category: file_event", CRON, "-w /etc -p wa\n-w /var/spool/cron -p wa", FED),
        ("category: file_event", CRON, "-w /etc -p wa", PARTLY),
        ("category: file_event", CRON, "-w /etc -p r\n-w /var/spool/cron -p x", BLIND),
        ("category: file_event", CRON, "-a always,exit -S openat -F exit=-EACCES", BLIND),
        ("category: file_event", CRON, "-a always,exit -S openat", FED),
        ("category: file_event", CRON, "-w /etcetera -p wa", BLIND),
        ("category: file_event", "{TargetFilename: /etc/passwd}", "-a always,exit -F path=/etc/passwd -F perm=wa", FED),
        ("category: file_event", "{TargetFilename|endswith: .php}", "-w /var/www -p wa", UNKNOWN),
        ("category: file_event", "{TargetFilename|endswith: .php}", EXEC, BLIND),
        ("category: file_event", "{TargetFilename|contains: /.ssh/}", "-w /root -p wa", PARTLY),
        ("category: file_event", "{TargetFilename|startswith: /lib/systemd/}", "-w /usr -p wa", FED),
        ("category: file_access", "{TargetFilename: /etc/shadow}", "-w /etc/shadow -p wa", BLIND),
        ("category: file_access", "{TargetFilename: /etc/shadow}", "-w /etc/shadow -p r", FED),
        ("category: file_delete", "{TargetFilename|startswith: /var/log/}",
         "-a always,exit -S unlinkat -F dir=/var/log -F auid!=unset", FED),
        ("category: network_connection", "{Initiated: 'true'}", "-a always,exit -S bind", BLIND),
        ("category: network_connection", "{Initiated: 'true'}", "-a always,exit -S connect -F a2=16 -F success=1", FED),
        ("category: network_connection", "{Initiated: 'true'}",
         "-a always,exit -S connect -F exit=-EINPROGRESS", FED),
        ("category: syscall", "{Syscall: [ptrace, process_vm_writev]}", "-a always,exit -S ptrace -F a0=4", PARTLY),
        ("category: syscall", "{Syscall|re: 'p.*e'}", "", UNKNOWN),
        ("category: host_metrics", "{metric: cpu}", "", FED),
        ("category: authentication", "{Outcome: failure}", "", FED),
        ("service: auditd", "{type: USER_CMD}", "", FED),
        ("service: auditd", "{type: EXECVE, a0: x}", "", BLIND),
        ("service: auditd", "{type: SYSCALL, SYSCALL: ptrace}", EXEC, BLIND),
        ("service: auditd", "{type: PATH, name: /etc/shadow}", "-w /etc/shadow -p r", FED),
        ("service: auditd", "{type: SYSCALL, exe: /bin/x}", EXEC, UNKNOWN),
    ],
)  # fmt: skip
def test_states(tmp_path: Path, source: str, selection: str, loaded: str, state: str) -> None:
    assert judge(tmp_path, source, selection, loaded).state == state


def test_a_chain_in_time_is_as_blind_as_its_blindest_link(tmp_path: Path) -> None:
    judge(tmp_path, "category: process_creation", "{Image: /bin/x}", "")
    (tmp_path / "more.yml").write_text(
        "title: Y\nname: y\nid: 22222222-2222-4222-8222-222222222222\nlevel: low\n"
        "logsource: {product: linux, category: file_delete}\n"
        "detection: {it: {TargetFilename|startswith: /var/log/}, condition: it}\n---\n"
        "title: Z\nid: 33333333-3333-4333-8333-333333333333\nlevel: low\n"
        f"correlation: {{type: temporal, rules: [y, {ID}], group-by: [User], timespan: 1m}}\n"
    )
    found = judge_rules(load_rules([tmp_path]), read_lines(EXEC))
    assert [found[key].state for key in sorted(found)] == [FED, BLIND, BLIND]


def test_the_missing_line_is_one_that_we_ship_where_there_is_one(tmp_path: Path) -> None:
    feeding = judge(tmp_path, "category: file_delete", "{TargetFilename|startswith: /var/log/}", "")
    (need,) = feeding.missing
    line = find_line(need, SHIPPED)
    assert line in {shipped.text for shipped in SHIPPED}
    assert "/var/log" in line
    assert find_line(need, ()) == "-a always,exit -F arch=b64 -F dir=/var/log -F perm=w"


def test_calls_are_those_that_the_views_are_made_of() -> None:
    made: dict[str, set[str]] = {}
    native = set(load_tables().syscalls["x86_64"].values())
    for call, categories in views._CATEGORIES.items():
        for category in categories - {"syscall"}:
            made.setdefault(category, set()).add(call)
    for category, (calls, _) in CALLS.items():
        assert calls <= made[category], category
        assert (made[category] & native) - NEWER <= calls, category


def test_the_audit_rules_that_we_ship_feed_every_rule_that_we_ship() -> None:
    found = judge_rules(load_rules([find_packaged_rules()]), SHIPPED)
    assert {rule_id: feeding for rule_id, feeding in found.items() if feeding.state == BLIND} == {}
