"""Logins from a syslog file, where the journal has none: judged once, over SIGKILL, rotation and nasty lines."""

from __future__ import annotations

import contextlib
import sqlite3
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from tests.daemon import Daemon, wait_until

if TYPE_CHECKING:
    from pathlib import Path

RULE = """\
title: Login
id: 6c0f5d0e-0d0a-4c58-a4f1-6dfb3b0f7c21
status: test
level: high
logsource: {product: linux, service: sshd}
detection:
  selection: {Operation: accepted}
  condition: selection
watchdogd: {cooldown: 0s}
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    (tmp_path / "auth.log").touch()
    daemon = Daemon(tmp_path)
    text = daemon.config.read_text()
    wanted = f"sources:\n  auth_log:\n    enabled: true\n    path: {tmp_path / 'auth.log'}\n"
    daemon.config.write_text(text.replace("sources:\n", wanted))
    (tmp_path / "rules" / "implant.yml").write_text(RULE)
    daemon.log.touch()
    return daemon


def write(daemon: Daemon, *messages: bytes) -> None:
    head = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f+00:00} host sshd[812]: ".encode()
    with (daemon.folder / "auth.log").open("ab") as file:
        for message in messages:
            file.write(head + message + b"\n")


def accept(port: int) -> bytes:
    return b"Accepted password for root from 203.0.113.9 port %d ssh2" % port


def count(daemon: Daemon) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True)) as database:
        found: int = database.execute("SELECT count(*) FROM alerts").fetchone()[0]
    return found


def test_each_line_is_judged_once_over_a_crash_and_a_rotation(daemon: Daemon) -> None:
    with daemon:
        write(daemon, accept(1))  # before the first start: not news
        daemon.start()
        write(daemon, accept(2), accept(2))  # two lines that are alike are two logins
        wait_until(lambda: count(daemon) == 2, daemon)
        daemon.kill()
        write(daemon, accept(3))
        (daemon.folder / "auth.log").rename(daemon.folder / "auth.log.1")
        write(daemon, accept(4))
        daemon.start()
        wait_until(lambda: count(daemon) == 4, daemon)
        assert daemon.stop() == 0
        daemon.start()
        write(daemon, accept(5))
        wait_until(lambda: count(daemon) == 5, daemon)
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.said


def test_nasty_lines_harm_nothing(daemon: Daemon) -> None:
    with daemon:
        daemon.start()
        with (daemon.folder / "auth.log").open("ab") as file:
            file.write(b"\xff\xfe\n\n[[[\nNov 31 25:61:61 host sshd[1]: Accepted password\n" + b"x" * 1_500_000 + b"\n")
        write(daemon, b"Failed password for " + b"A" * 100_000 + b" from 203.0.113.9 port 1 ssh2", accept(6))
        wait_until(lambda: count(daemon) == 1, daemon)
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.said
