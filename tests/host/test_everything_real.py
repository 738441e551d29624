"""The whole path with every part real: kernel audit, auditd, watchdogd, a model, journald, an HTTP receiver."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon import Daemon, wait_until

if TYPE_CHECKING:
    from tests.host.auditing import Auditd
    from tests.host.journal import Journald
    from tests.host.receiver import Receiver
    from tests.ollama.fixtures import Ollama

pytestmark = pytest.mark.host

ROOT = Path(__file__).resolve().parents[2]
RULE_ID = "8f29b897-dc17-4138-a8df-961b87bfea3c"  # Password Hashes Read by an Unusual Program
WITHIN_S = 10.0
FIELDS = (
    "MESSAGE",
    "MESSAGE_ID",
    "PRIORITY",
    "WATCHDOGD_ALERT_ID",
    "WATCHDOGD_RULE_ID",
    "WATCHDOGD_RULE_TITLE",
    "WATCHDOGD_LEVEL",
    "WATCHDOGD_VERDICT",
    "WATCHDOGD_TECHNIQUE",
    "WATCHDOGD_GROUP",
    "WATCHDOGD_COUNT",
    "WATCHDOGD_EXE",
    "WATCHDOGD_CMDLINE",
    "WATCHDOGD_USER",
    "WATCHDOGD_LINEAGE",
)


def find_alerts(journald: Journald, rule_id: str = RULE_ID) -> list[dict[str, Any]]:
    return journald.entries("SYSLOG_IDENTIFIER=watchdogd", f"WATCHDOGD_RULE_ID={rule_id}")


def test_a_read_of_the_password_hashes_reaches_journal_and_receiver(
    tmp_path: Path, auditd: Auditd, journald: Journald, receiver: Receiver, ollama: Ollama
) -> None:
    auditd.add_rule("-a always,exit -F arch=b64 -S execve,execveat -k exec")
    auditd.add_rule("-a always,exit -F arch=b64 -F path=/etc/shadow -F perm=r -k shadow")
    triage = f"triage:\n  ollama_url: {ollama.url}\n  model: {ollama.model}\n  timeout_s: 240\n"
    extra = f"{triage}journald:\n  enabled: true\n"
    with Daemon(tmp_path, webhook_url=receiver.url, extra=extra) as daemon:
        text = daemon.config.read_text()
        text = text.replace(str(daemon.log), str(auditd.log)).replace("folders: [rules]", f"folders: [{ROOT}/rules]")
        daemon.config.write_text(text)
        daemon.start()
        began_s = time.monotonic()
        auditd.run_audited(["sh", "-c", "cat /etc/shadow >/dev/null; true"])
        wait_until(lambda: bool(find_alerts(journald)), daemon, WITHIN_S)
        (request, *_) = receiver.wait_for(bool, max(0.1, WITHIN_S - (time.monotonic() - began_s)))

        entry = find_alerts(journald)[0]
        assert [name for name in FIELDS if name not in entry] == []
        assert entry["WATCHDOGD_EXE"].endswith("/cat")
        assert entry["WATCHDOGD_CMDLINE"] == "cat /etc/shadow"
        assert entry["WATCHDOGD_LINEAGE"].startswith("dash < ")
        assert entry["WATCHDOGD_LEVEL"] == "high"
        assert entry["WATCHDOGD_USER"] == "root"
        assert request.document["watchdogd"]["alert_id"] == entry["WATCHDOGD_ALERT_ID"]

        # What so small a model says is its own affair; that it was asked, and that it lowers nothing, is ours.
        wait_until(lambda: read_verdict(daemon) is not None, daemon, 260)
        verdict = read_verdict(daemon)
        assert verdict is not None
        assert verdict["model"] == ollama.model
        assert verdict["model_digest"] == ollama.digest
        assert verdict["prompt_sha256"]
        assert verdict["prompt_tokens"] > 100, f"the model was not asked: {verdict}"
        if verdict["label"] != "untriaged":
            wait_until(lambda: any(has_verdict(found) for found in find_alerts(journald)), daemon, 30)
            told = [found for found in find_alerts(journald) if has_verdict(found)]
            assert {found["WATCHDOGD_ALERT_ID"] for found in told} == {entry["WATCHDOGD_ALERT_ID"]}
            assert {found["WATCHDOGD_LEVEL"] for found in told} == {"high"}
            receiver.wait_for(lambda all_: any(model_said(one.document) for one in all_), 30)
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.said


def read_verdict(daemon: Daemon) -> dict[str, Any] | None:
    """Of the one alert in the daemon's database, as far as triage is done."""
    database = sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True)
    try:
        rows = database.execute("select document from alerts where triage_state = 'done'").fetchall()
    finally:
        database.close()
    return json.loads(rows[0][0])["verdict"] if rows else None


def has_verdict(entry: dict[str, Any]) -> bool:
    return entry["WATCHDOGD_VERDICT"] in {"malicious", "suspicious", "benign"}


def model_said(document: dict[str, Any]) -> bool:
    verdict = document["watchdogd"]["verdict"]
    return verdict is not None and verdict["by"] != "none"


def test_it_never_alerts_about_itself_when_it_is_the_one_audited(
    tmp_path: Path, auditd: Auditd, receiver: Receiver
) -> None:
    """The daemon runs inside the audited tree: its own execs, opens and connections are logged, and judged by none."""
    auditd.add_rule("-a always,exit -F arch=b64 -S execve,execveat,connect,openat -k everything")
    with Daemon(tmp_path, webhook_url=receiver.url) as daemon:
        (tmp_path / "rules" / "implant.yml").write_text(ANY_EVENT)
        text = daemon.config.read_text().replace(str(daemon.log), str(auditd.log))
        daemon.config.write_text(text)
        daemon.start("--from-start", prefix=auditd.audited_command([]))
        auditd.run_audited(["/bin/true"])
        receiver.wait_for(bool, 30)
        time.sleep(2)  # whatever it did itself is in the log by now; alerts about that would come after this
        assert daemon.stop() == 0
        programs = {one.document["process"].get("executable") for one in receiver.requests}
        own = {one.document["process"]["pid"] for one in receiver.requests} & {daemon.pid}
        assert not own, f"alerts about itself: {programs}"
        assert "judge_own_events_total=0" not in daemon.said
        assert "judge_own_events_total=" in daemon.said


ANY_EVENT = """\
title: Anything at all
id: 5d1f0a52-6f0c-4f0e-9a53-9a7f6a2c1e11
status: test
level: low
logsource:
    product: linux
    service: auditd
detection:
    selection:
        type: SYSCALL
    condition: selection
"""
