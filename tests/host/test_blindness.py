"""Auditing that is really taken away: the daemon says so in the journal, once, and when it is back, over a restart too.

The timer's part is played by the test: it runs the status unit's own command.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon import Daemon, wait_until
from tests.host.auditing import auditctl
from tests.host.test_two_sources import write_status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.host.auditing import Auditd
    from tests.host.journal import Journald

pytestmark = pytest.mark.host

BLIND = "e2c47f6a08d94b3f8b61d05a97c3e41f"
"""The class of such messages (docs/delivery.md)."""
SEEN_WITHIN_S = 40.0
"""The status is read each ten seconds, and looked at each ten seconds."""
LOOKED_TWICE_S = 21.0
EVERY_S = 1.0
GONE, OFF = "The kernel has no audit rules any more", "The kernel's audit is switched off"
FEWER = "Audit rules were deleted"


@pytest.fixture
def timer(tmp_path: Path, auditd: Auditd) -> Iterator[None]:  # noqa: ARG001 - the kernel's audit is ours
    """What the root timer does, more often."""
    ended = threading.Event()

    def tick() -> None:
        while not ended.wait(EVERY_S):
            write_status(tmp_path / "audit-status")

    write_status(tmp_path / "audit-status")
    thread = threading.Thread(target=tick, name="timer")
    thread.start()
    yield
    ended.set()
    thread.join()


@pytest.fixture
def daemon(tmp_path: Path, auditd: Auditd, journald: Journald, timer: None) -> Iterator[Daemon]:  # noqa: ARG001
    """A daemon that knows of two audit rules."""
    add_rules(auditd)
    with Daemon(tmp_path, extra="journald:\n  enabled: true\n") as daemon:
        daemon.config.write_text(daemon.config.read_text().replace(str(daemon.log), str(auditd.log)))
        daemon.start()
        wait_until(lambda: read_rules(daemon) == 2, daemon, SEEN_WITHIN_S)
        yield daemon


def add_rules(auditd: Auditd) -> None:
    auditd.add_rule("-a always,exit -F arch=b64 -S execve,execveat -k exec")
    auditd.add_rule("-a always,exit -F arch=b64 -F path=/etc/shadow -F perm=r -k shadow")


def read_rules(daemon: Daemon) -> int | None:
    """How many audit rules it knows of."""
    with closing(sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True, timeout=30)) as database:
        row = database.execute("SELECT json_extract(CAST(state AS TEXT), '$.rules') FROM health").fetchone()
    return None if row is None else row[0]


def find_told(journald: Journald, title: str) -> list[dict[str, Any]]:
    return journald.entries("SYSLOG_IDENTIFIER=watchdogd", f"MESSAGE_ID={BLIND}", f"WATCHDOGD_RULE_TITLE={title}")


def wait_told(journald: Journald, daemon: Daemon, title: str) -> dict[str, Any]:
    """The one entry that says so."""
    wait_until(lambda: bool(find_told(journald, title)), daemon, SEEN_WITHIN_S)
    (entry,) = find_told(journald, title)
    return entry


def restart(daemon: Daemon) -> None:
    """Killed, started again, and long enough at work to have looked twice."""
    daemon.kill()
    daemon.start()
    time.sleep(LOOKED_TWICE_S)


def test_deleted_rules_are_told_and_their_return(daemon: Daemon, auditd: Auditd, journald: Journald) -> None:
    auditctl("-D", "-k", "shadow")
    entry = wait_told(journald, daemon, FEWER)
    assert (entry["WATCHDOGD_LEVEL"], entry["PRIORITY"]) == ("high", "3")
    assert "2 before, 1 now" in entry["MESSAGE"]
    auditctl("-D")
    entry = wait_told(journald, daemon, GONE)
    assert (entry["WATCHDOGD_LEVEL"], entry["PRIORITY"]) == ("critical", "2")
    assert "1 before, none now" in entry["MESSAGE"]
    restart(daemon)
    assert len(find_told(journald, GONE)) == 1
    add_rules(auditd)
    wait_told(journald, daemon, f"Over: {GONE}")
    assert daemon.stop() == 0


def test_audit_that_is_switched_off_is_told_and_its_return(daemon: Daemon, journald: Journald) -> None:
    auditctl("-e", "0")
    entry = wait_told(journald, daemon, OFF)
    assert (entry["WATCHDOGD_LEVEL"], entry["PRIORITY"]) == ("critical", "2")
    assert "enabled 0" in entry["MESSAGE"]
    restart(daemon)
    assert len(find_told(journald, OFF)) == 1
    auditctl("-e", "1")
    wait_told(journald, daemon, f"Over: {OFF}")
    assert find_told(journald, GONE) == []
    assert daemon.stop() == 0
