"""The real daemon with a database that cannot be written: it says so, goes on, loses nothing and recovers by itself."""

from __future__ import annotations

import resource
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon import Daemon, wait_until
from tests.faults.scene import append, ask_status, read_ids, read_stored
from watchdogd.write.emergency import REASON

if TYPE_CHECKING:
    from tests.host.receiver import Receiver

pytestmark = pytest.mark.slow


def read_emergencies(receiver: Receiver) -> list[dict[str, Any]]:
    documents = [request.document["watchdogd"] for request in receiver.requests]
    return [found for found in documents if REASON in found["reasons"]]


def refuse_writes(daemon: Daemon) -> None:
    """No file of the daemon may grow beyond what it has: its writes fail with I/O errors."""
    _, most = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (16_384, most))


def allow_writes(daemon: Daemon) -> None:
    _, most = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (most, most))


def test_io_errors_for_so_long_that_the_worst_alerts_are_sent_past_it(daemon: Daemon, receiver: Receiver) -> None:
    daemon.start()
    before = append(daemon, range(1, 6))
    wait_until(lambda: read_ids(receiver) == before, daemon)
    refuse_writes(daemon)
    meanwhile = append(daemon, range(6, 26))
    wait_until(lambda: {found["alert_id"] for found in read_emergencies(receiver)} == meanwhile, daemon)
    status = ask_status(daemon)
    assert status["gauges"]["store_refusing"] == 1
    assert status["counters"]["store_commit_errors_total"] > 0
    wait_until(lambda: ask_status(daemon)["counters"]["write_emergency_total"] == 20, daemon)
    assert "disk I/O error" in daemon.said
    assert read_stored(daemon) == before
    allow_writes(daemon)
    wait_until(lambda: read_stored(daemon) == before | meanwhile, daemon)
    wait_until(lambda: ask_status(daemon)["ledger"]["complete"], daemon)
    assert len(read_emergencies(receiver)) == 20
    ids = [request.headers["webhook-id"] for request in receiver.requests]
    assert len(ids) == len(set(ids)) == 25, "what the receiver took is not sent to it again"
    assert ask_status(daemon)["gauges"]["store_refusing"] == 0
    assert daemon.stop() == 0
    assert "the database takes commits again" in daemon.said
    assert "Traceback" not in daemon.said


@pytest.mark.host  # each try takes five seconds
def test_locked_by_another_process(daemon: Daemon, receiver: Receiver) -> None:
    daemon.start()
    expected = append(daemon, range(1, 6))
    wait_until(lambda: read_ids(receiver) == expected, daemon)
    with closing(sqlite3.connect(daemon.database, isolation_level=None, timeout=30)) as shell:
        shell.execute("BEGIN EXCLUSIVE")
        expected |= append(daemon, range(6, 26))
        wait_until(lambda: "is locked by another process" in daemon.said, daemon)
        shell.execute("ROLLBACK")
    wait_until(lambda: read_ids(receiver) == expected, daemon)
    assert daemon.stop() == 0
    assert read_stored(daemon) == expected


def test_killed_while_it_refuses(daemon: Daemon, receiver: Receiver) -> None:
    daemon.start()
    expected = append(daemon, range(1, 6))
    wait_until(lambda: read_ids(receiver) == expected, daemon)
    refuse_writes(daemon)
    expected |= append(daemon, range(6, 26))
    wait_until(lambda: ask_status(daemon)["counters"].get("judge_alerts_total", 0) == 25, daemon)
    wait_until(lambda: "disk I/O error" in daemon.said, daemon)
    daemon.kill()
    daemon.start()
    expected |= append(daemon, range(26, 31))
    wait_until(lambda: read_ids(receiver) == expected, daemon)
    assert daemon.stop() == 0
    assert read_stored(daemon) == expected


@pytest.mark.host  # each try takes five seconds
def test_locked_at_a_start(daemon: Daemon, receiver: Receiver) -> None:
    daemon.start()
    expected = append(daemon, range(1, 6))
    wait_until(lambda: read_ids(receiver) == expected, daemon)
    assert daemon.stop() == 0
    with closing(sqlite3.connect(daemon.database, isolation_level=None)) as shell:
        shell.execute("PRAGMA locking_mode = EXCLUSIVE")
        shell.execute("BEGIN EXCLUSIVE")
        daemon.start(ready=False)
        expected |= append(daemon, range(6, 11))
        daemon.wait_note("STATUS=the database cannot be used yet: waiting")
        assert "is locked by another process" in daemon.said
    daemon.wait_note("READY=1")
    wait_until(lambda: read_ids(receiver) == expected, daemon)
    assert daemon.stop() == 0


def test_another_daemon(daemon: Daemon) -> None:
    daemon.start()
    pid = daemon.pid
    first = daemon._process
    daemon.start(ready=False)
    assert daemon.wait() == 2
    assert f"is used by another watchdogd (pid {pid})" in daemon.said
    daemon._process = first
    assert daemon.stop() == 0
