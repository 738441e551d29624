from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

import pytest

from tests.triage.conftest import make_alert
from watchdogd.cli.check import list_policy
from watchdogd.cli.main import main
from watchdogd.config import Config, FloorSettings, TriageSettings
from watchdogd.entities import Label, Level, Verdict
from watchdogd.triage.policy import Policy

if TYPE_CHECKING:
    from pathlib import Path

RULE = """\
title: Shadow file read
id: 11111111-1111-4111-8111-111111111111
description: A process reads the password hashes.
status: test
level: high
logsource:
  product: linux
  category: process_creation
detection:
  selection:
    CommandLine|contains: /etc/shadow
  condition: selection
"""
SECRET, TOKEN = "s1gn1ng", "T0KEN"
CONFIG = f"""\
rules:
  folders: [mine]
triage:
  model: tiny
  benign_to_journald: true
webhooks:
  - name: ops
    url: https://example.org/{TOKEN}
    secret_file: ops.secret
    min_level: medium
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration and one rule, both fine; the working directory is beside them."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "shadow.yml").write_text(RULE)
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "ops.secret").write_text(SECRET)
    (tmp_path / "ops.secret").chmod(0o600)
    monkeypatch.chdir(tmp_path)
    for name in ("OLLAMA_URL", "OLLAMA_MODEL", "AI_ENABLED", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = main(["check", "--config", "config.yaml", *arguments])
    captured = capsys.readouterr()
    assert captured.err == ""
    return status, captured.out


def test_what_is_fine_says_what_would_be_in_force(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out = check(capsys, "--strict")
    assert status == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert f"configuration {folder}/config.yaml" in lines
    assert f"rules from {folder}/mine" in lines
    assert "rules 1 active, 0 inactive" in lines
    assert "triage tiny at http://127.0.0.1:11434, 60 s a question" in lines
    assert "policy level waits for floor malicious benign" in lines
    for row in ("critical nothing webhooks", "high 5 s webhooks", "medium 60 s journald"):
        benign = "journal only" if row.startswith("medium") else "no change"
        assert f"{row} no change {benign}" in lines
    assert "webhook ops: https://example.org/..., from medium up, signed" in lines
    assert lines[-1] == "0 errors, 0 warnings"
    assert SECRET not in out
    assert TOKEN not in out


def test_who_may_ask_the_api_is_said_and_no_token(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "grafana.token").write_text("0123456789abcdef\n")
    config = folder / "config.yaml"
    tokens = "  tokens:\n    - {name: grafana, token_file: grafana.token}\n"
    config.write_text(f"{config.read_text()}api:\n  path: api.sock\n  listen: 127.0.0.1:8000\n{tokens}")
    status, out = check(capsys)
    assert status == 0
    assert f"{folder}/api.sock; 127.0.0.1:8000 (no TLS) for grafana (read)" in out
    assert "0123456789abcdef" not in out


@pytest.mark.parametrize("raised", [False, True])
@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("floor", ["journald", "webhooks"])
def test_the_policy_says_what_the_policy_does(
    *, raised: bool, local: bool, floor: Literal["journald", "webhooks"]
) -> None:
    floors = FloorSettings(medium=floor)
    triage = TriageSettings(raise_on_malicious=raised, benign_to_journald=local, floor=floors)
    policy = Policy(triage)
    rows = {row["level"]: row for row in list_policy(Config(triage=triage))}
    for level in Level:
        malicious = policy.rule_on(make_alert(level=level), Verdict(Label.MALICIOUS, "fusion"))
        after = malicious.alert.level
        assert rows[level]["malicious"] == ("no change" if after is level else f"to {after}")
        benign = policy.rule_on(make_alert(level=level), Verdict(Label.BENIGN, "scorer"))
        assert rows[level]["benign"] == ("journal only" if benign.journald_only else "no change")
        assert rows[level]["floor"] == getattr(floors, level.value)
        if rows[level]["floor"] == "webhooks":
            assert not benign.journald_only
        assert rows[level]["waits_s"] * 1000 == policy.deadline_ms(level)


def test_without_triage_there_is_no_policy() -> None:
    assert list_policy(Config(triage=TriageSettings(enabled=False))) == []


@pytest.mark.usefixtures("folder")
def test_the_environment_counts(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AI_ENABLED", "no")
    assert "off: alerts go out untriaged" in check(capsys)[1]
    monkeypatch.setenv("AI_ENABLED", "perhaps")
    status, out = check(capsys)
    assert status == 1
    assert out.startswith("environment variable AI_ENABLED: error: triage.enabled must be true, false, ")


def test_mistakes_of_settings_and_rules_come_together_with_their_lines(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "config.yaml").write_text(CONFIG.replace("model: tiny", "modle: tiny") + "late_after_s: soon\n")
    (folder / "mine" / "shadow.yml").write_text(RULE.replace("level: high", "level: hgih"))
    status, out = check(capsys)
    assert status == 1
    assert (
        "config.yaml:4:3: error: unknown key 'modle' in triage (did you mean 'model'?)\n"
        "      modle: tiny\n"
        "      ^\n"
        "config.yaml:11:15: error: late_after_s must be a number greater than 0, not 'soon'"
    ) in out
    assert "shadow.yml:5:" in out
    assert "    level: hgih\n" in out
    assert out.endswith("\n3 errors, 0 warnings\n")


def test_a_line_that_is_shown_holds_no_secret(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = CONFIG.replace("https:", "ftp:").replace("secret_file: ops.secret", f"secret: {SECRET}")
    (folder / "config.yaml").write_text(f"{text}    headers: {{Authorization: Bearer {SECRET}}}\n")
    status, out = check(capsys)
    assert status == 1
    assert "        url: ftp://example.org/*****\n" in out
    assert "    secret: *******\n" in out
    assert SECRET not in out
    assert TOKEN not in out


def test_a_warning_fails_only_a_strict_check(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "ops.secret").chmod(0o644)
    status, out = check(capsys)
    assert status == 0
    assert "config.yaml:9:18: warning: " in out
    assert out.endswith("\n0 errors, 1 warning\n")
    assert check(capsys, "--strict")[0] == 1


def test_an_inactive_rule_is_listed_with_its_reason(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = RULE.replace("11111111", "22222222").replace("product: linux", "product: windows")
    (folder / "mine" / "windows.yml").write_text(other)
    _, out = check(capsys)
    assert "1 active, 1 inactive" in out
    assert "inactive  " in out
    assert "windows.yml): " in out


def test_a_rules_flag_replaces_the_configured_folders(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "rule.yml").write_text("title: [")
    status, out = check(capsys, "--rules", "other")
    assert status == 1
    assert "other/rule.yml:1:" in out
    assert "mine" not in out


def test_json_tells_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out = check(capsys, "--format", "json")
    report = json.loads(out)
    assert status == 0
    assert report["config"] == str(folder / "config.yaml")
    assert report["problems"] == []
    assert report["rules"]["active"] == ["11111111-1111-4111-8111-111111111111"]
    assert report["settings"]["webhooks"][0]["secret"] == "***"
    assert SECRET not in out
    (folder / "config.yaml").write_text("log: {level: loud}\n")
    status, out = check(capsys, "--format", "json", "--rules", "mine")
    (problem,) = json.loads(out)["problems"]
    assert status == 1
    assert (problem["path"], problem["line"], problem["column"]) == ("config.yaml", 1, 14)


@pytest.mark.parametrize("arguments", [["--config", "nope.yaml"], ["--config", "."], ["--rules", "nope"]])
@pytest.mark.usefixtures("folder")
def test_what_is_not_there_cannot_be_checked(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("watchdogd: ")


def test_a_file_that_is_no_text_is_a_mistake_in_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "config.yaml").write_bytes(b"log:\n  level: \xff\n")
    status, out = check(capsys, "--rules", "mine")
    assert status == 1
    assert out.startswith("config.yaml:2:10: error: byte 14 (0xff) is not UTF-8")


def test_rules_and_tags_that_a_receiver_waits_for_in_vain_are_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = folder / "mine" / "shadow.yml"
    rule.write_text(f"{rule.read_text()}tags: [attack.t1003.008]\n")
    match = (
        "    match:\n      rules: [shadow FILE read, Shadow file, 11111111-1111-4111-8111-111111111111]\n"
        "      tags: [attack.T1003.008, attack.t1003]\n"
    )
    (folder / "config.yaml").write_text(CONFIG + match)
    status, out = check(capsys, "--strict")
    assert status == 1
    assert "config.yaml:12:33: warning: webhooks[0].match.rules[1] 'Shadow file': no rule has that id or title" in out
    assert "config.yaml:13:32: warning: webhooks[0].match.tags[1] 'attack.t1003': no rule has that tag" in out
    assert "0 errors, 2 warnings" in out
