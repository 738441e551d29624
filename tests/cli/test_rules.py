"""`watchdogd rules`: a folder of rules of every kind, and what is said about them."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from watchdogd.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

SHELL = """\
title: Shell started
id: 11111111-1111-4111-8111-111111111111
status: test
level: high
tags: [attack.execution, attack.t1059.004]
logsource: {product: linux, category: process_creation}
detection:
  shell:
    Image|endswith: [/bash, /sh]
    CommandLine|contains|all: [x, y]
  not_root: {User: root}
  condition: shell and not not_root
"""
RECORDS = """\
title: "Shadow \\e[31mread"
id: 22222222-2222-4222-8222-222222222222
status: test
level: low
tags: [attack.credential-access]
logsource: {product: linux, service: auditd}
detection:
  path: {type: PATH, name: /etc/shadow}
  call: {type: SYSCALL, syscall: openat}
  condition: path and call
"""
WINDOWS = """\
title: Elsewhere
id: 33333333-3333-4333-8333-333333333333
status: test
level: critical
logsource: {product: windows, category: process_creation}
detection:
  it: {Image: x}
  condition: it
"""
BURST = """\
---
title: Many shells
id: 44444444-4444-4444-8444-444444444444
status: test
level: high
correlation:
  type: event_count
  rules: [shell]
  group-by: [User]
  timespan: 1m
  condition: {gte: 2}
"""
HEAD = (
    "type=SYSCALL msg=audit(1700000000.{time}:{serial}): arch=c000003e syscall={call} success=yes exit=3 "
    "a0=ffffff9c a1=0 a2=0 a3=0 items={items} "
    'ppid=1 pid=20 auid=1000 uid=1000 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts0 ses=1 comm="x" '
    'exe="/usr/bin/{name}" key=(null)\n'
)


def execute(serial: int, name: str, argument: str) -> str:
    head = HEAD.format(time=f"{serial:03}", serial=serial, call=59, items=0, name=name)
    return head + f'type=EXECVE msg=audit(1700000000.{serial:03}:{serial}): argc=2 a0="{name}" a1="{argument}"\n'


def read(serial: int, path: str) -> str:
    head = HEAD.format(time=f"{serial:03}", serial=serial, call=257, items=1, name="cat")
    rest = "inode=1 dev=08:01 mode=0100640 ouid=0 ogid=0 rdev=00:00 nametype=NORMAL"
    return head + f'type=PATH msg=audit(1700000000.{serial:03}:{serial}): item=0 name="{path}" {rest}\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three rules, of which the first has good samples, the second none, and the third can never match."""
    (tmp_path / "tests" / "shell").mkdir(parents=True)
    (tmp_path / "shell.yml").write_text(SHELL)
    (tmp_path / "records.yml").write_text(RECORDS)
    (tmp_path / "windows.yml").write_text(WINDOWS)
    (tmp_path / "tests" / "shell" / "fires.log").write_text(execute(1, "cat", "xy") + execute(2, "bash", "xy"))
    (tmp_path / "tests" / "shell" / "quiet.log").write_text(execute(3, "bash", "x"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rules(capsys: pytest.CaptureFixture[str], action: str, *arguments: str) -> tuple[int, str, str]:
    status = main(["rules", action, "--rules", ".", *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.usefixtures("folder")
class TestList:
    def test_every_rule_has_its_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        status, out, err = rules(capsys, "list")
        assert (status, err) == (0, "")
        lines = out.splitlines()
        assert lines[0].split() == ["LEVEL", "TITLE", "ID", "LOG", "SOURCE", "TECHNIQUES", "FILE", "STATE"]
        assert "\x1b" not in out
        found = {line.split()[0]: line for line in lines[1:-1]}
        assert found["high"].split()[-3:] == ["T1059.004", "shell.yml", "active"]
        assert "linux/auditd" in found["low"]
        assert found["critical"].rstrip().endswith("inactive: nothing here produces logs of the product 'windows': "
                                                   "this version watches Linux")  # fmt: skip
        assert lines[-1] == "2 active, 1 inactive"

    @pytest.mark.parametrize(
        ("arguments", "titles"),
        [
            (("--level", "high"), ["Shell started", "Elsewhere"]),
            (("--tactic", "execution"), ["Shell started"]),
            (("--tactic", "TA0006"), ["Shadow \x1b[31mread"]),
            (("--tactic", "Credential Access"), ["Shadow \x1b[31mread"]),
            (("--tactic", "stealth"), []),
            (("--inactive",), ["Elsewhere"]),
        ],
    )
    def test_filters(self, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], titles: list[str]) -> None:
        status, out, _ = rules(capsys, "list", "--format", "json", *arguments)
        assert status == 0
        assert sorted(rule["title"] for rule in json.loads(out)) == sorted(titles)

    def test_json_says_everything(self, capsys: pytest.CaptureFixture[str]) -> None:
        _, out, _ = rules(capsys, "list", "--format", "json", "--inactive")
        (rule,) = json.loads(out)
        assert rule == {
            "id": "33333333-3333-4333-8333-333333333333",
            "title": "Elsewhere",
            "level": "critical",
            "kind": "rule",
            "logsource": {"product": "windows", "category": "process_creation", "service": None},
            "tags": [],
            "techniques": [],
            "active": False,
            "reason": "nothing here produces logs of the product 'windows': this version watches Linux",
            "silent": False,
            "folder": ".",
            "path": "windows.yml",
        }

    def test_an_unknown_tactic_is_a_usage_error(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert rules(capsys, "list", "--tactic", "persistance") == (
            2,
            "",
            "watchdogd: --tactic persistance: ATT&CK has no such tactic (did you mean persistence?)\n",
        )


class TestTest:
    def test_good_samples_pass(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "records.yml").unlink()
        assert rules(capsys, "test", "--strict") == (0, "2 passed, 0 failed, 0 without samples, 1 inactive\n", "")

    @pytest.mark.usefixtures("folder")
    def test_a_rule_without_samples_is_a_warning(self, capsys: pytest.CaptureFixture[str]) -> None:
        status, out, _ = rules(capsys, "test")
        assert status == 0
        assert out == (
            "records.yml: warning: 'Shadow \\x1b[31mread' has no samples\n"
            "2 passed, 0 failed, 1 without samples, 1 inactive\n"
        )
        assert rules(capsys, "test", "--strict")[0] == 1
        assert rules(capsys, "test", "--strict", "shell started")[0] == 0

    def test_what_fails_is_placed(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "tests" / "shell" / "quiet.log").write_text(execute(3, "sh", "x") + execute(4, "sh", "xy"))
        status, out, _ = rules(capsys, "test", "--verbose")
        assert status == 1
        assert "passed   Shell started  tests/shell/fires.log" in out
        assert (
            "tests/shell/quiet.log:3: error: 'Shell started': the rule must not match here, and event 1700000000.004:4 "
            "does (the rule is shell.yml)"
        ) in out
        _, out, _ = rules(capsys, "test", "--format", "json", "shell.yml")
        document = json.loads(out)
        assert document["counts"] == {"passed": 1, "failed": 1, "missing": 0, "skipped": 0}
        assert document["results"][1]["matched"] == ["1700000000.004:4"]
        assert document["problems"][0]["line"] == 3

    def test_junit(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "tests" / "shell" / "fires.log").write_text(execute(1, "cat", "xy"))
        status, out, _ = rules(capsys, "test", "--format", "junit")
        assert status == 1
        suite = ET.fromstring(out)[0]
        assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
            "tests": "4",
            "failures": "1",
            "errors": "0",
            "skipped": "2",
        }
        failure = suite.find("testcase/failure")
        assert failure is not None
        assert (failure.get("message") or "").endswith("lacks: Image ends with '/bash' or ends with '/sh'")
        assert "expected: match\nmatched: no event" in (failure.text or "")
        names = [case.get("classname") for case in suite.findall("testcase")]
        assert "Shadow \\u001b[31mread" in names

    @pytest.mark.usefixtures("folder")
    def test_unknown_rules_are_usage_errors(self, capsys: pytest.CaptureFixture[str]) -> None:
        status, out, err = rules(capsys, "test", "Shell startet")
        assert (status, out) == (2, "")
        assert err == "watchdogd: no rule has the id, title or file 'Shell startet' (did you mean 'Shell started'?)\n"

    def test_rules_that_cannot_be_loaded(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "shell.yml").write_text(SHELL.replace("endswith", "endwith"))
        status, out, err = rules(capsys, "test")
        assert (status, out) == (2, "")
        assert "shell.yml:9:11: error: unknown modifier 'endwith'" in err


@pytest.mark.usefixtures("folder")
class TestExplain:
    def test_a_match_part_by_part(self, capsys: pytest.CaptureFixture[str]) -> None:
        status, out, _ = rules(capsys, "explain", "shell", "tests/shell/fires.log")
        assert status == 0
        assert out == (
            "Shell started (shell.yml)\n"
            "\n"
            "1700000000.002:2 (line 3, process_creation (exec)) matches\n"
            "  yes all of\n"
            "    yes shell\n"
            "      yes Image, any of   saw '/usr/bin/bash'\n"
            "        yes ends with '/bash'\n"
            "        no  ends with '/sh'\n"
            "      yes CommandLine, all of   saw 'bash xy'\n"
            "        yes contains 'x'\n"
            "        yes contains 'y'\n"
            "    yes not\n"
            "      no  not_root\n"
            "        no  User is 'root'   saw '1000'\n"
        )

    def test_what_comes_nearest(self, capsys: pytest.CaptureFixture[str]) -> None:
        _, out, _ = rules(capsys, "explain", "11111111-1111-4111-8111-111111111111", "tests/shell/quiet.log")
        assert "1700000000.003:3 (line 1, process_creation (exec)) does not match\n" in out
        assert "        no  contains 'y'\n" in out

    def test_one_event_is_picked(self, capsys: pytest.CaptureFixture[str]) -> None:
        for wanted in ("1", "1700000000.001:1"):
            _, out, _ = rules(capsys, "explain", "shell", "tests/shell/fires.log", "--event", wanted)
            assert "1700000000.001:1 (line 1, process_creation (exec)) does not match\n" in out
        status, _, err = rules(capsys, "explain", "shell", "tests/shell/fires.log", "--event", "9")
        assert (status, err) == (2, "watchdogd: tests/shell/fires.log: no event 9\n")

    def test_records_say_which_of_them_it_was(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with gzip.open(folder / "log.gz", "wt") as file:
            file.write(read(1, "/etc/passwd") + read(2, "/etc/shadow"))
        _, out, _ = rules(capsys, "explain", "records.yml", "log.gz")
        assert "1700000000.002:2 (line 3, 2 records) matches" in out
        assert "    yes path   (record PATH)\n" in out
        assert "      yes syscall is 'openat'   saw '257', 'openat'   (by 'openat')\n" in out
        _, out, _ = rules(capsys, "explain", "records.yml", "log.gz", "--event", "1", "--format", "json")
        (event,) = json.loads(out)["events"]
        assert (event["held"], event["near"]) == (False, 0.75)
        path = event["condition"]["items"][0]
        assert (path["note"], path["items"][1]["seen"]) == ("nearest record PATH", ['"/etc/passwd"', "/etc/passwd"])

    def test_an_event_of_another_kind(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "log").write_text(read(1, "/etc/passwd"))
        _, out, _ = rules(capsys, "explain", "shell", "log")
        assert "the rule looks at process_creation; of this event there is: file_access" in out

    def test_fields_can_be_explained_too(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "fields.log").write_text('{"Image": "/bin/zsh", "CommandLine": "xy", "User": ["root", "x"]}\n')
        _, out, _ = rules(capsys, "explain", "shell", "fields.log")
        assert "yes User is 'root'   saw 'root', 'x'   (by 'root')" in out
        (folder / "fields.log").write_text("{\n")
        status, _, err = rules(capsys, "explain", "shell", "fields.log")
        assert status == 2
        assert err.startswith("watchdogd: fields.log:1: not a JSON object of fields")

    def test_alternatives_that_do_not_hold_are_named_only(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text = SHELL.replace("[/bash, /sh]", "[/bash, /sh, /dash, /zsh, /fish]")
        (folder / "shell.yml").write_text(text)
        _, out, _ = rules(capsys, "explain", "shell", "tests/shell/fires.log")
        assert "        yes ends with '/bash'\n        no  the others: ends with '/sh', ends with '/dash'," in out
        _, out, _ = rules(capsys, "explain", "shell", "tests/shell/fires.log", "--full")
        assert "        no  ends with '/fish'\n" in out
        assert "the others" not in out

    def test_long_values_are_cut_and_control_characters_shown(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = json.dumps({"Image": "/bin/bash", "CommandLine": "xy\x1b[2J" + "z" * 300, "User": ["u"] * 9})
        (folder / "fields.log").write_text(line + "\n")
        _, out, _ = rules(capsys, "explain", "shell", "fields.log")
        assert "\x1b" not in out
        assert "z" * 130 not in out
        assert "saw 'u', 'u', 'u', 'u', 'u', 'u' and 3 more" in out
        _, out, _ = rules(capsys, "explain", "shell", "fields.log", "--full")
        assert "z" * 300 in out

    def test_a_correlation_says_what_counted(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "shell.yml").write_text(SHELL.replace("title:", "name: shell\ntitle:") + BURST)
        status, out, _ = rules(capsys, "explain", "many shells", "tests/shell/fires.log")
        assert status == 0
        assert out == (
            "Many shells (shell.yml)\n"
            "wants >= 2 events within 60 s (event_count)\n"
            "  shell matches 1 events\n"
            "does not fire\n"
            "  User='1000': 1 events count; at most 1 event by 1700000000.002:2\n"
        )
        (folder / "log").write_text("".join(execute(number, "bash", "xy") for number in range(1, 4)))
        _, out, _ = rules(capsys, "explain", "shell.yml", "log")
        assert "fires at 1700000000.002:2\n" in out
        _, out, _ = rules(capsys, "explain", "shell.yml", "log", "--format", "json")
        assert json.loads(out)["correlation"]["fired"] == ["1700000000.002:2"]
        _, out, _ = rules(capsys, "list")
        assert "active, for correlations only" in out
        assert "correlation" in out.splitlines()[-2]

    def test_an_empty_log(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "log").write_text("")
        assert rules(capsys, "explain", "shell", "log") == (0, "Shell started (shell.yml)\nno events\n", "")

    def test_an_inactive_rule_explains_itself(self, capsys: pytest.CaptureFixture[str]) -> None:
        status, _, err = rules(capsys, "explain", "elsewhere", "tests/shell/fires.log")
        assert status == 2
        assert err.startswith("watchdogd: 'Elsewhere' is inactive, so it matches nothing: nothing here produces")

    def test_a_missing_log(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert rules(capsys, "explain", "shell", "nowhere.log")[0] == 2


@pytest.mark.usefixtures("folder")
class TestBlind:
    def test_what_the_file_does_not_feed_is_named_with_its_line(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        loaded = tmp_path / "audit.rules"
        loaded.write_text("-a always,exit -F arch=b64 -S execve -k exec\n")
        status, out, err = rules(capsys, "list", "--blind", "--audit-rules", str(loaded))
        assert (status, err) == (0, "")
        assert out.splitlines() == [
            "blind   low  Shadow \\x1b[31mread  records.yml",
            "        -a always,exit -F arch=b64 -F path=/etc/shadow -F perm=r -k shadow_access",
            f"1 blind, 0 partly, 1 fed, 0 cannot be told; 1 audit rules from {loaded}",
        ]

    def test_json(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        (tmp_path / "audit.rules").write_text("-D\n")
        _, out, _ = rules(
            capsys, "list", "--blind", "--level", "high", "--audit-rules", "audit.rules", "--format", "json"
        )
        found = json.loads(out)
        assert [(rule["title"], rule["state"], rule["missing"]) for rule in found["rules"]] == [
            ("Shell started", "blind", ["-a always,exit -F arch=b64 -S execve,execveat -k exec"])
        ]
        assert (found["audit_rules"], found["fed"], found["unknown"]) == (0, 0, 0)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [(("--blind", "--audit-rules", "none"), "cannot read the audit rules in none"),
         (("--audit-rules", "none"), "--audit-rules goes with --blind")],
    )  # fmt: skip
    def test_mistakes(self, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str) -> None:
        status, _, err = rules(capsys, "list", *arguments)
        assert status == 2
        assert said in err
