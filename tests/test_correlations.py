"""Correlations from the rule file to the alert, by the commands that a user runs."""

from __future__ import annotations

import hashlib
import json
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon import NO_PID, Daemon, make_exec_lines, wait_until
from tests.host.receiver import Receiver

if TYPE_CHECKING:
    from pathlib import Path

TIME_MS = 1_795_000_000_000
BURST, PAIR, TOWER, SILENCE = (f"6a1de0fb-5f11-4a2b-8a3c-52f3f5a1f00{number}" for number in range(4))
RULES = f"""\
title: Probe started
name: probe
id: 6a1de0fb-5f11-4a2b-8a3c-52f3f5a1f010
level: informational
logsource: {{product: linux, category: process_creation}}
detection:
  selection: {{Image: /opt/probe}}
  condition: selection
---
title: Implant seen starting
name: implant
id: 6a1de0fb-5f11-4a2b-8a3c-52f3f5a1f011
level: informational
logsource: {{product: linux, service: auditd}}
detection:
  selection: {{type: SYSCALL, exe: /opt/implant}}
  condition: selection
---
title: Probes again and again
name: burst
id: {BURST}
level: high
correlation:
  type: event_count
  rules: [probe]
  group-by: [who]
  aliases: {{who: {{probe: TerminalSessionId}}}}
  timespan: 1m
  condition: {{gte: 3}}
  generate: false
---
title: Probe, then implant
id: {PAIR}
level: critical
correlation:
  type: temporal_ordered
  rules: [probe, implant]
  group-by: [session]
  aliases: {{session: {{probe: TerminalSessionId, implant: ses}}}}
  timespan: 1m
---
title: Implant without company
id: {SILENCE}
level: low
correlation:
  type: event_count
  rules: [implant]
  group-by: [ses]
  timespan: 1m
  condition: {{lt: 2}}
"""
TOWER_RULES = f"""\
title: Bursts, then implant
id: {TOWER}
level: critical
correlation:
  type: temporal
  rules: [burst, implant]
  group-by: [who]
  aliases: {{who: {{implant: ses}}}}
  timespan: 5m
"""


def make_log(*starts: tuple[str, int]) -> bytes:
    return b"".join(
        make_exec_lines(serial, TIME_MS + second * 1000, exe, pid=NO_PID + serial)
        for serial, (exe, second) in enumerate(starts, 1)
    )


def replay(folder: Path, log: bytes, *options: str) -> str:
    (folder / "rules").mkdir(exist_ok=True)
    (folder / "rules" / "made.yml").write_text(RULES)
    (folder / "audit.log").write_bytes(log)
    command = [sys.executable, "-m", "watchdogd", "replay", "--rules", "rules", *options, "audit.log"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_alerts(folder: Path, log: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in replay(folder, log, "--format", "json").splitlines()]


def name_alert(rule_id: str, serial: int, second: int, *group: str) -> str:
    text = "\n".join((rule_id, f"audit||{TIME_MS + second * 1000}|{serial}|", *group))
    return hashlib.sha256(text.encode()).hexdigest()


LOG = make_log(("/opt/probe", 0), ("/opt/probe", 10), ("/opt/probe", 59), ("/opt/implant", 62))


def test_replay_alerts_about_what_happened_together(tmp_path: Path) -> None:
    alerts = {alert["rule"]["id"]: alert for alert in read_alerts(tmp_path, LOG)}
    assert alerts.keys() == {BURST, PAIR, SILENCE}, "the rules below say nothing by themselves"
    burst = alerts[BURST]["watchdogd"]
    assert burst["alert_id"] == name_alert(BURST, 3, 59, "3")
    assert [event["serial"] for event in burst["events"]] == [1, 2, 3]
    assert burst["correlation"] == {"measure": "count", "number": "3", "group": {"who": "3"}}
    assert burst["first_seen"] < burst["last_seen"] == alerts[BURST]["@timestamp"]
    assert burst["group_key"] == f"{BURST}|3"
    assert len(burst["lines"]) == 5
    assert alerts[BURST]["process"]["pid"] == NO_PID + 3
    pair = alerts[PAIR]["watchdogd"]
    assert [event["serial"] for event in pair["events"]] == [2, 3, 4], "what its minute holds"
    assert alerts[PAIR]["process"]["executable"] == "/opt/implant"
    silence = alerts[SILENCE]["watchdogd"]
    assert silence["alert_id"] == name_alert(SILENCE, 4, 62, "3")
    assert alerts[SILENCE]["process"]["executable"] == "/opt/implant", "said at the end, about the event"


def test_a_correlation_that_another_builds_on_only_feeds_it(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "tower.yml").write_text(TOWER_RULES)
    alerts = {alert["rule"]["id"]: alert["watchdogd"] for alert in read_alerts(tmp_path, LOG)}
    assert alerts.keys() == {PAIR, TOWER, SILENCE}
    assert [event["serial"] for event in alerts[TOWER]["events"]] == [3, 4]


def test_replay_gives_the_same_each_time_and_says_so_in_words(tmp_path: Path) -> None:
    assert read_alerts(tmp_path, LOG) == read_alerts(tmp_path, LOG)
    text = replay(tmp_path, LOG)
    assert 'count 3 in 59 s, who "3"' in text
    assert 'rules 2 in 52 s, session "3"' in text


@pytest.mark.parametrize("is_read_again", [False, True])
def test_state_outlives_a_killed_daemon(tmp_path: Path, *, is_read_again: bool) -> None:
    """The third event comes after the kill. The two before it count once, be they read again or not."""
    with Receiver() as receiver, Daemon(tmp_path, webhook_url=receiver.url) as daemon:
        (tmp_path / "rules" / "made.yml").write_text(RULES)
        daemon.log.write_bytes(make_log(("/opt/probe", 0), ("/opt/probe", 10)))
        daemon.start("--from-start")
        query = "SELECT count(*) FROM correlations WHERE rule_id = ? AND updated_ms = ?"
        wait_until(lambda: ask(daemon, query, BURST, TIME_MS + 10_000) == [1], daemon)
        daemon.kill()
        if is_read_again:
            with closing(sqlite3.connect(daemon.database)) as database, database:
                database.execute("UPDATE checkpoints SET offset = 0")
        daemon.append(make_exec_lines(3, TIME_MS + 20_000, "/opt/probe", pid=NO_PID + 3))
        daemon.start("--from-start")
        wait_until(lambda: bool(receiver.requests), daemon)
        own = receiver.requests[0].document["watchdogd"]
        assert own["alert_id"] == name_alert(BURST, 3, 20, "3")
        assert [event["serial"] for event in own["events"]] == [1, 2, 3]
        assert own["correlation"]["number"] == "3"


def test_a_reload_keeps_what_was_counted(tmp_path: Path) -> None:
    with Receiver() as receiver, Daemon(tmp_path, webhook_url=receiver.url) as daemon:
        (tmp_path / "rules" / "made.yml").write_text(RULES)
        daemon.log.write_bytes(make_log(("/opt/probe", 0), ("/opt/probe", 10)))
        daemon.start("--from-start")
        query = "SELECT count(*) FROM correlations WHERE rule_id = ?"
        wait_until(lambda: ask(daemon, query, PAIR) == [1], daemon)
        changed = RULES.replace("temporal_ordered", "temporal").replace("Probes again and again", "Many probes")
        (tmp_path / "rules" / "made.yml").write_text(changed)
        daemon.send_signal(signal.SIGHUP)
        wait_until(lambda: "reloaded" in daemon.said, daemon)
        daemon.append(make_exec_lines(3, TIME_MS + 20_000, "/opt/probe", pid=NO_PID + 3))
        wait_until(lambda: bool(receiver.requests), daemon)
        (document,) = [request.document for request in receiver.requests]
        assert document["rule"]["name"] == "Many probes"
        assert document["watchdogd"]["alert_id"] == name_alert(BURST, 3, 20, "3")
        digests = "SELECT count(DISTINCT digest) FROM correlations WHERE rule_id = ?"
        wait_until(lambda: ask(daemon, digests, PAIR) == [1], daemon)


def ask(daemon: Daemon, query: str, *values: str | int) -> list[Any]:
    """First column of what the database answers; nothing while it is not there."""
    try:
        database = sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True)
    except sqlite3.OperationalError:
        return []
    with closing(database):
        try:
            return [row[0] for row in database.execute(query, values)]
        except sqlite3.OperationalError:
            return []
