"""Lines of audit rules: as in a file, and as `auditctl -l` lists them."""

from __future__ import annotations

import pytest

from watchdogd.match.audit_lines import drop_suppressed, read_lines


def test_a_file_and_a_listing_say_the_same() -> None:
    (written,) = read_lines(
        "## Why.\n-a always,exit -F arch=b64 -S unlink,unlinkat -F dir=/var/log/ -F auid!=unset -k l"
    )
    (listed,) = read_lines("-a always,exit -F arch=b64 -S unlink -S unlinkat -F dir=/var/log -F auid!=-1 -F key=l")
    assert (written.syscalls, written.path, written.whole_tree, written.key) == (
        frozenset({"unlink", "unlinkat"}), "/var/log", True, "l",
    )  # fmt: skip
    assert (listed.syscalls, listed.path, listed.whole_tree, listed.key) == (
        written.syscalls, written.path, written.whole_tree, written.key,
    )  # fmt: skip
    assert (written.comment, written.filters, listed.filters) == ("Why.", ("auid!=unset",), ("auid!=-1",))


def test_watches() -> None:
    (line,) = read_lines("-w /etc/passwd -p wa -k identity")
    assert (line.syscalls, line.path, line.access, line.key) == (None, "/etc/passwd", frozenset("wa"), "identity")


@pytest.mark.parametrize(
    "text",
    ["", "No rules", "-b 8192", "-e 2", "-a always,exclude -F msgtype=CWD", "-a always,user -F uid=0", '-w "/etc'],
)
def test_what_is_no_rule_about_calls_is_passed_over(text: str) -> None:
    assert read_lines(text) == ()


def test_rules_before_a_delete_are_gone() -> None:
    assert [line.key for line in read_lines("-w /a -k one\n-D\n-w /b -k two")] == ["two"]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("-a always,exit -S execve -k a", ["a"]),
        ("-a never,task\n-a always,exit -S execve -k a", []),
        ("-a always,exit -S execve -k a\n-a never,task", []),
        ("-a never,exit -S execve\n-a always,exit -S execve -k a\n-a always,exit -S connect -k b", ["b"]),
        ("-a always,exit -S execve -k a\n-a never,exit -S execve", ["a"]),
        ("-a never,exit -F dir=/usr -F exe=/usr/bin/dpkg\n-a always,exit -F dir=/usr -k a", ["a"]),
    ],
)
def test_what_a_never_takes_away(text: str, left: list[str]) -> None:
    assert [line.key for line in drop_suppressed(read_lines(text))] == left
