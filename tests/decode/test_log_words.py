"""What sshd, sudo, su, cron and PAM say, as fields."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.decode.log_words import LONGEST_CHARS, read_words

SSHD = [
    (
        "Failed password for root from 203.0.113.9 port 40112 ssh2",
        ("failed", "failure", {"Method": "password", "User": "root", "SourceIp": "203.0.113.9", "SourcePort": "40112"}),
    ),
    (
        "Failed none for invalid user admin from 2001:db8::1%eth0 port 22 ssh2",
        (
            "failed",
            "failure",
            {
                "Method": "none",
                "User": "admin",
                "SourceIp": "2001:db8::1%eth0",
                "SourcePort": "22",
                "InvalidUser": "true",
            },
        ),
    ),
    (
        "Accepted publickey for ann from 10.0.0.5 port 5022 ssh2: ED25519 SHA256:abc",
        ("accepted", "success", {"Method": "publickey", "User": "ann", "SourceIp": "10.0.0.5", "SourcePort": "5022"}),
    ),
    (
        "Invalid user  from 10.0.0.5 port 5022",
        ("invalid_user", "failure", {"SourceIp": "10.0.0.5", "SourcePort": "5022", "InvalidUser": "true"}),
    ),
    (
        "Connection closed by authenticating user root 10.0.0.5 port 5022 [preauth]",
        ("closed", "failure", {"User": "root", "SourceIp": "10.0.0.5", "SourcePort": "5022"}),
    ),
    (
        "error: maximum authentication attempts exceeded for invalid user x y from 10.0.0.5 port 1 ssh2 [preauth]",
        (
            "too_many_failures",
            "failure",
            {"User": "x y", "SourceIp": "10.0.0.5", "SourcePort": "1", "InvalidUser": "true"},
        ),
    ),
    (
        "User bob from 10.0.0.5 not allowed because not listed in AllowUsers",
        ("not_allowed", "failure", {"User": "bob", "SourceIp": "10.0.0.5", "Reason": "not listed in AllowUsers"}),
    ),
    (
        "pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=10.0.0.5  user=root",
        ("pam_failure", "failure", {"PamService": "sshd", "TTY": "ssh", "SourceIp": "10.0.0.5", "User": "root"}),
    ),
    (
        "pam_unix(sshd:session): session opened for user ann(uid=1000) by (uid=0)",
        ("session_opened", "success", {"PamService": "sshd", "User": "ann"}),
    ),
    ("Server listening on 0.0.0.0 port 22.", ("log", "unknown", {})),
]
SUDO = [
    (
        "     ann : TTY=pts/0 ; PWD=/home/ann ; USER=root ; COMMAND=/usr/bin/id -u",
        (
            "command",
            "success",
            {"User": "ann", "TTY": "pts/0", "PWD": "/home/ann", "USER": "root", "COMMAND": "/usr/bin/id -u"},
        ),
    ),
    (
        "bob : user NOT in sudoers ; TTY=pts/1 ; PWD=/ ; USER=root ; COMMAND=/bin/sh",
        (
            "refused",
            "failure",
            {
                "User": "bob", "Reason": "user NOT in sudoers", "TTY": "pts/1", "PWD": "/", "USER": "root",
                "COMMAND": "/bin/sh",
            },
        ),
    ),
    (
        "bob : 3 incorrect password attempts ; TTY=pts/1 ; PWD=/ ; USER=#-1 ; COMMAND=/bin/sh",
        (
            "refused",
            "failure",
            {
                "User": "bob", "Reason": "3 incorrect password attempts", "TTY": "pts/1", "PWD": "/", "USER": "#-1",
                "COMMAND": "/bin/sh",
            },
        ),
    ),
]  # fmt: skip
OTHERS = [
    (
        "su",
        "FAILED SU (to root) ann on pts/0",
        ("refused", "failure", {"TargetUser": "root", "User": "ann", "TTY": "pts/0"}),
    ),
    ("su", "(to root) ann on pts/0", ("become", "success", {"TargetUser": "root", "User": "ann", "TTY": "pts/0"})),
    (
        "cron",
        "(root) CMD (   cd / && run-parts /etc/cron.hourly)",
        ("cmd", "success", {"User": "root", "Operation": "CMD", "Command": "   cd / && run-parts /etc/cron.hourly"}),
    ),
    ("cron", "(ann) REPLACE (ann)", ("replace", "success", {"User": "ann", "Operation": "REPLACE", "Command": "ann"})),
]  # fmt: skip
CASES = [("sshd", *case) for case in SSHD] + [("sudo", *case) for case in SUDO] + OTHERS


@pytest.mark.parametrize(("program", "message", "expected"), CASES, ids=[case[1][:40] for case in CASES])
def test_words_are_read(program: str, message: str, expected: tuple[str, str, dict[str, str]]) -> None:
    assert read_words(program, message) == expected


def test_a_user_called_like_the_end_of_the_line_changes_no_address() -> None:
    said = read_words(
        "sshd", "Failed password for invalid user root from 1.1.1.1 port 9 ssh2 from 10.0.0.5 port 5022 ssh2"
    )
    assert said.fields["SourceIp"] == "10.0.0.5"
    assert said.fields["User"] == "root from 1.1.1.1 port 9 ssh2"


def test_a_folder_called_like_the_end_of_sudos_line_hides_nothing() -> None:
    said = read_words(
        "sudo", "eve : TTY=pts/0 ; PWD=/tmp/x ; USER=bob ; COMMAND=/bin/true ; USER=root ; COMMAND=/bin/sh -i"
    )
    assert said.fields["USER"] == ("bob", "root")
    commands = said.fields["COMMAND"]
    assert isinstance(commands, tuple)
    assert "/bin/sh -i" in commands


@given(st.sampled_from(["sshd", "sudo", "su", "cron", "auth"]), st.text())
def test_any_text_is_read_without_an_error(program: str, message: str) -> None:
    said = read_words(program, message)
    assert all(isinstance(value, str | tuple) for value in said.fields.values())


@pytest.mark.parametrize("piece", ["from ", " ; USER=", "ruser=", "user x ", "Failed password for ", "(", " : "])
def test_long_repetitions_end(piece: str) -> None:
    for program in ("sshd", "sudo", "su", "cron"):
        for head in ("", "Failed password for a", "pam_unix(a:auth): authentication failure; logname=", "a : X="):
            said = read_words(program, head + piece * LONGEST_CHARS)
            assert said.outcome in {"success", "failure", "unknown"}
