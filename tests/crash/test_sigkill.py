"""SIGKILL at random moments while a writer appends and rotates, to a receiver that often fails: nothing lost, nothing
twice under another id.
"""

from __future__ import annotations

import hashlib
import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.host.receiver import CUT, OK, RESET, Fault, Receiver
from tests.size import LARGE

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
RULE_ID = "5d1f0a52-6f0c-4f0e-9a53-9a7f6a2c1e10"
RULE = f"""
title: Implant started
id: {RULE_ID}
status: test
description: The writer's marked program.
level: high
logsource:
    product: linux
    category: process_creation
detection:
    selection:
        Image: /opt/evil/implant
    condition: selection
"""
NEVER_ID, ONCE_ID = "5d1f0a52-6f0c-4f0e-9a53-9a7f6a2c1e11", "5d1f0a52-6f0c-4f0e-9a53-9a7f6a2c1e12"
ENOUGH = 60
"""More implants than one life of the daemon sees."""
CORRELATIONS = f"""
title: One implant counted twice
id: {NEVER_ID}
level: high
correlation:
  type: event_count
  rules: [{RULE_ID}]
  group-by: [CommandLine]
  timespan: 1h
  condition: {{gte: 2}}
  generate: true
---
title: Many implants
id: {ONCE_ID}
level: high
correlation:
  type: event_count
  rules: [{RULE_ID}]
  group-by: [Image]
  timespan: 1h
  condition: {{gte: {ENOUGH}}}
  generate: true
"""
KILLS = 100 if LARGE else 50
FAULTS = (
    Fault(status=500),
    Fault(status=503, headers=(("retry-after", "1"),)),
    Fault(status=429, headers=(("retry-after", "0"),)),
    RESET,
    CUT,
)
CORRELATION_KILLS = 10
CONTROL_KILLS = 12
SETTLE_S = 120


def read_ids(receiver: Receiver) -> dict[str, set[str]]:
    """Alert id to the webhook ids under which it came."""
    ids: dict[str, set[str]] = {}
    for request in receiver.requests:
        ids.setdefault(request.document["watchdogd"]["alert_id"], set()).add(request.headers["webhook-id"])
    return ids


@pytest.fixture
def flaky() -> Iterator[Receiver]:
    """Fails two times of five, until it has failed often enough."""
    chance = random.Random(23)
    with Receiver(*(chance.choice(FAULTS) if chance.random() < 0.4 else OK for _ in range(4 * KILLS))) as receiver:
        yield receiver


def prepare(tmp_path: Path, url: str) -> Path:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "implant.yml").write_text(RULE)
    (tmp_path / "audit.log").touch()
    config = tmp_path / "config.yaml"
    config.write_text(
        f"sources:\n  audit_log:\n    path: {tmp_path}/audit.log\n  audit_netlink:\n    enabled: false\n"
        f"  host_metrics:\n    enabled: false\n  file_integrity:\n    enabled: false\n"
        f"rules:\n  folders: [rules]\ntriage:\n  enabled: false\njournald:\n  enabled: false\n"
        f"store:\n  path: {tmp_path}/state/watchdogd.db\nwebhooks:\n  - name: receiver\n    url: {url}\n"
    )
    return config


def start_daemon(program: list[str], config: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as stderr:
        return subprocess.Popen(
            [sys.executable, *program, "run", "--config", str(config), "--from-start"], stderr=stderr, cwd=config.parent
        )


def read_expected(path: Path) -> set[str]:
    rows = (line.split() for line in path.read_text().splitlines())
    return {hashlib.sha256(f"{RULE_ID}\naudit||{time_ms}|{serial}|".encode()).hexdigest() for time_ms, serial in rows}


def read_times(path: Path) -> set[int]:
    return {int(line.split()[0]) for line in path.read_text().splitlines()}


def torment(
    tmp_path: Path, program: list[str], config: Path, kills: int, settled: Receiver
) -> tuple[set[str], list[str]]:
    """Kill the daemon so many times, let it finish, stop it; return expected ids and the ids in the database."""
    log, expected_path, stop = tmp_path / "daemon.log", tmp_path / "expected", tmp_path / "stop"
    expected_path.touch()
    writer = subprocess.Popen(
        [sys.executable, str(HERE / "writer.py"), str(tmp_path / "audit.log"), str(expected_path), str(stop)]
    )
    chance = random.Random()
    try:
        for _ in range(kills):
            daemon = start_daemon(program, config, log)
            time.sleep(chance.uniform(0.2, 2.2))
            daemon.kill()
            daemon.wait()
    finally:
        stop.touch()
        writer.wait(30)
    readies = log.read_text().count("ready:")
    daemon = start_daemon(program, config, log)
    try:
        while log.read_text().count("ready:") == readies:
            assert daemon.poll() is None, log.read_text()[-3000:]
            time.sleep(0.05)
        expected = read_expected(expected_path)
        quiet_since, last = time.monotonic(), -1
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline and not expected <= read_ids(settled).keys():
            if len(settled.requests) != last:
                quiet_since, last = time.monotonic(), len(settled.requests)
            elif time.monotonic() - quiet_since > 30:
                break  # nothing comes any more: what lacks now is lost
            time.sleep(0.3)
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(30) == 0, log.read_text()[-3000:]
    finally:
        daemon.kill()
        daemon.wait()
    with sqlite3.connect(tmp_path / "state" / "watchdogd.db") as database:
        rows = [row[0] for row in database.execute("select id from alerts")]
    database.close()
    return expected, rows


@pytest.mark.slow
@pytest.mark.sampled
def test_kills_lose_nothing_and_name_nothing_anew(tmp_path: Path, flaky: Receiver) -> None:
    config = prepare(tmp_path, flaky.url)
    expected, rows = torment(tmp_path, ["-m", "watchdogd"], config, KILLS, flaky)
    rotated = len(list(tmp_path.glob("audit.log.*")))
    assert rotated >= 5, "the writer rotated too seldom to prove anything"
    assert len(expected) > 100
    assert len(rows) == len(set(rows))
    assert set(rows) == expected
    assert expected == read_ids(flaky).keys()
    assert all(len(ids) == 1 for ids in read_ids(flaky).values())
    assert flaky.failed > KILLS // 4, "the receiver failed too seldom to prove anything"


@pytest.mark.slow
def test_kills_make_correlations_neither_forget_nor_count_twice(tmp_path: Path, receiver: Receiver) -> None:
    config = prepare(tmp_path, receiver.url)
    (tmp_path / "rules" / "together.yml").write_text(CORRELATIONS)
    expected, rows = torment(tmp_path, ["-m", "watchdogd"], config, CORRELATION_KILLS, receiver)
    assert len(expected) > ENOUGH
    with sqlite3.connect(tmp_path / "state" / "watchdogd.db") as database:
        found = database.execute("SELECT id, document FROM alerts WHERE rule_id <> ?", (RULE_ID,)).fetchall()
    database.close()
    ((alert_id, document),) = found
    alert = json.loads(document)
    assert set(rows) == {*expected, alert_id}
    assert (alert["rule"]["id"], alert["matched"]["count"]) == (ONCE_ID, str(ENOUGH))
    assert {event["time_ms"] for event in alert["events"]} <= read_times(tmp_path / "expected")
    assert len({event["serial"] for event in alert["events"]}) == ENOUGH


@pytest.mark.slow
def test_control_that_checkpoints_at_the_read_head_loses(tmp_path: Path, receiver: Receiver) -> None:
    """Moments are random: it may be lucky once, not three times."""
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        config = prepare(folder, receiver.url)
        expected, rows = torment(folder, [str(HERE / "read_head.py")], config, CONTROL_KILLS, receiver)
        if set(rows) < expected:
            return
    pytest.fail("the control lost nothing: this harness could not see a loss")
