"""`watchdogd doctor` as a whole: it never fails, never hangs, and its exit code is that of its worst finding."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from tests.cli.hosts import Host
from watchdogd.cli import doctor
from watchdogd.cli.doctor import GROUPS, list_checks, read_settings, show_findings, summarise
from watchdogd.cli.doctor_findings import Finding, error, ok, unknown, warning
from watchdogd.cli.doctor_rounds import Check, make_rounds
from watchdogd.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from watchdogd.cli.doctor_site import Site

EVIL = "\x1b[2J\u202eroot\n# ok"


def run_on(monkeypatch: pytest.MonkeyPatch, *findings: Finding, options: tuple[str, ...] = ()) -> int:
    """The exit code where these are found."""
    monkeypatch.setattr(doctor, "list_checks", lambda _: [Check("host", "x", lambda _: findings)])
    return main(["doctor", *options])


@pytest.mark.parametrize(
    ("findings", "options", "code"),
    [
        ((ok("a", "Fine."), unknown("b", "Hidden.")), ("--strict",), 0),
        ((warning("a", "Odd.", "mend"),), (), 0),
        ((warning("a", "Odd.", "mend"),), ("--strict",), 1),
        ((ok("a", "Fine."), error("b", "Bad.", "mend")), (), 1),
    ],
)
def test_the_exit_code_is_that_of_the_worst_finding(
    monkeypatch: pytest.MonkeyPatch, findings: tuple[Finding, ...], options: tuple[str, ...], code: int
) -> None:
    assert run_on(monkeypatch, *findings, options=options) == code


def test_a_group_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "olama"]) == 2
    assert "no group is named 'olama'" in capsys.readouterr().err


def test_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_on(monkeypatch, error("a", f"Bad: {EVIL}.", f"mend {EVIL}"), options=("--json",)) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["counts"] == {"ok": 0, "warning": 0, "error": 1, "unknown": 0}
    (found,) = document["findings"]
    assert (found["group"], found["check"], found["level"]) == ("host", "a", "error")
    assert "\x1b" not in found["text"] + found["mend"]


def test_text_is_plain_in_a_file_and_coloured_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [error("a", f"Bad: {EVIL}.", "mend it"), ok("b", "Fine.")]
    plain = io.StringIO()
    monkeypatch.setattr(sys, "stdout", plain)
    show_findings(findings, is_root=False)
    assert "  ERROR    a: Bad: \\x1b[2J\\u202eroot\\n# ok.\n           -> mend it\n" in plain.getvalue()
    assert plain.getvalue().endswith("\n1 fine, 1 error (root sees more: sudo watchdogd doctor)\n")
    assert "\x1b" not in plain.getvalue()

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    coloured = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", coloured)
    show_findings(findings, is_root=True)
    assert "\x1b[1;31m" in coloured.getvalue()
    assert "\x1b[2J" not in coloured.getvalue()


def test_the_last_line_counts() -> None:
    findings = [warning("a", "x", "y"), warning("b", "x", "y"), unknown("c", "x")]
    assert summarise(findings, is_root=True) == "0 fine, 2 warnings, 1 not known"


def test_a_check_that_fails_or_hangs_ends_no_other(tmp_path: Path) -> None:
    hold = threading.Event()

    def hang(_: Site) -> Iterator[Finding]:
        hold.wait(30)
        yield ok("late", "Too late.")

    def refuse(_: Site) -> Iterator[Finding]:
        yield ok("first", "Seen.")
        raise PermissionError(13, "Permission denied", "/secret")

    def break_down(_: Site) -> Iterator[Finding]:
        raise KeyError("MemAvailable")

    def ask_for_ever(_: Site) -> Iterator[Finding]:
        raise subprocess.TimeoutExpired(["/usr/sbin/auditctl", "-l"], 8)

    checks = [
        Check("g", name, look) for name, look in (("h", hang), ("r", refuse), ("b", break_down), ("t", ask_for_ever))
    ]
    found = make_rounds([*checks, Check("g", "ok", lambda _: [ok("ok", "Fine.")])], Host(tmp_path).site(), 0.5)
    hold.set()
    assert [finding.text for finding in found] == [
        "Nothing was found out within 0.5 s.",
        "Seen.",
        "/secret can only be seen by root.",
        "The check itself failed (KeyError): please report this.",
        "/usr/sbin/auditctl did not answer within 8 s.",
        "Fine.",
    ]


def test_a_host_where_nothing_is_at_all(tmp_path: Path) -> None:
    """Neither auditd nor systemd nor tools: everything is said in words, nothing fails."""
    for euid in (0, 1000):
        folder = tmp_path / str(euid)
        folder.mkdir()
        found = make_rounds(list_checks(GROUPS), Host(folder).site(euid=euid), 60)
        assert {finding.group for finding in found} == set(GROUPS)
        assert [finding for finding in found if "check itself failed" in finding.text] == []


def test_every_check_belongs_to_a_group_that_can_be_named() -> None:
    assert [check.group for check in list_checks(GROUPS)] == sorted(
        (check.group for check in list_checks(GROUPS)), key=GROUPS.index
    )
    assert {check.group for check in list_checks(["audit"])} == {"audit"}


def test_settings_that_cannot_be_read_are_a_finding(tmp_path: Path) -> None:
    config, found = read_settings(tmp_path / "missing.yaml", {})
    assert config.path is None
    assert [finding.level for finding in found] == ["error"]
    assert read_settings(None, {"OLLAMA_URL": "http://127.0.0.1:1"})[0].triage.ollama_url == "http://127.0.0.1:1"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_ordinary_user_is_told_what_is_hidden() -> None:
    """The real command on the real host, as nobody."""
    script = (  # what is imported later may be where nobody can read it
        "import os, sys; from watchdogd.cli.doctor import GROUPS, list_checks; from watchdogd.cli.main import main; "
        "from watchdogd.collect import host_metrics; list_checks(GROUPS); os.setgroups([]); os.setgid(65534); "
        "os.setuid(65534); sys.exit(main(['doctor', '--json', 'audit', 'host', 'journal']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}, done.stderr
    document = json.loads(done.stdout)
    assert document["root"] is False
    assert [found for found in document["findings"] if "failed" in found["text"]] == []
