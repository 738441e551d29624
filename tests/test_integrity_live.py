"""File integrity in the real daemon: what inotify tells, what a scan finds, and SIGKILL in between."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import time
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.daemon import Daemon, wait_until
from tests.size import LARGE
from watchdogd.cli.daemon import ask
from watchdogd.reports import StatusReport

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

RULE = """\
title: Watched file changed
id: 9d1f0a52-6f0c-4f0e-9a53-9a7f6a2c1e11
status: test
description: Any change.
level: medium
logsource: {product: linux, category: file_integrity}
detection:
    changed:
        Action: [created, modified, deleted, attributes]
    condition: changed
watchdogd: {group_by: [TargetFilename]}
"""
KILLS = 8 if LARGE else 2


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path.resolve() / "etc"
    (root / "cron.d").mkdir(parents=True)
    (root / "passwd").write_text("root")
    (root / "cron.d" / "job").write_text("job")
    return root


@pytest.fixture
def daemon(tmp_path: Path, root: Path) -> Iterator[Daemon]:
    files = f"paths: [{root}]\n    special_folders: []\n    who_wait_s: 0.2\n    cpu_share: 1"
    with Daemon(tmp_path, files=files) as daemon:
        (daemon.folder / "rules" / "changed.yml").write_text(RULE)
        daemon.log.touch()
        yield daemon


def list_alerts(daemon: Daemon, root: Path) -> list[tuple[str, str]]:
    """Action and path of every alert about a file of ours."""
    with sqlite3.connect(daemon.database) as database:
        documents = [
            msgspec.json.decode(row[0]) for row in database.execute("SELECT document FROM alerts ORDER BY seq")
        ]
    database.close()
    found = [(one["action"], one["fields"]["TargetFilename"]) for one in documents]
    return [(action, path.removeprefix(f"{root}/")) for action, path in found if path.startswith(str(root))]


def wait_for(daemon: Daemon, root: Path, *wanted: tuple[str, str]) -> None:
    wait_until(lambda: set(wanted) <= set(list_alerts(daemon, root)), daemon, 20)


def wait_scanned(daemon: Daemon, times: int = 1) -> None:
    wait_until(lambda: daemon.said.count("the baseline is made") >= times, daemon)


def test_what_happens_is_told_and_the_first_scan_is_quiet(daemon: Daemon, root: Path, tmp_path: Path) -> None:
    daemon.start()
    wait_scanned(daemon)
    (root / "passwd").write_text("evil")
    (root / "cron.d" / "job").unlink()
    (root / "cron.d").chmod(0o777)
    (root / "new" / "below").mkdir(parents=True)
    (root / "new" / "below" / "file").write_text("x")
    os.mkfifo(root / "fifo")
    (root / "link").symlink_to("/dev/zero")
    wait_for(
        daemon,
        root,
        ("modified", "passwd"),
        ("deleted", "cron.d/job"),
        ("attributes", "cron.d"),
        ("created", "new"),
        ("created", "new/below"),
        ("created", "new/below/file"),
        ("created", "fifo"),
        ("created", "link"),
    )
    (root / "cron.d").rename(tmp_path / "away")  # as who edits a copy does
    (root / "cron.d").mkdir(0o777)
    time.sleep(1)
    (root / "cron.d" / "again").write_text("x")
    wait_for(daemon, root, ("created", "cron.d/again"))
    shutil.rmtree(root / "new")
    wait_for(daemon, root, ("deleted", "new/below/file"), ("deleted", "new/below"), ("deleted", "new"))
    alerts = list_alerts(daemon, root)
    assert (len(alerts), len(set(alerts))) == (13, 12)  # the new folder has another mode: attributes, once more
    assert daemon.stop() == 0


def test_what_happened_while_nobody_looked_is_found_at_the_start(daemon: Daemon, root: Path) -> None:
    daemon.start()
    wait_scanned(daemon)
    daemon.stop()
    (root / "passwd").write_text("evil")
    (root / "cron.d" / "job").unlink()
    daemon.start()
    wait_for(daemon, root, ("modified", "passwd"), ("deleted", "cron.d/job"))
    daemon.stop()
    daemon.start()
    (root / "last").write_text("x")
    wait_for(daemon, root, ("created", "last"))
    assert len(list_alerts(daemon, root)) == 3
    daemon.stop()


@pytest.mark.sampled
def test_a_kill_at_any_moment_loses_no_change_and_tells_none_twice(daemon: Daemon, root: Path) -> None:
    chance = random.Random(8)
    daemon.start()
    wait_scanned(daemon)
    for number in range(KILLS):
        (root / f"file{number}").write_text("x")
        time.sleep(chance.uniform(0, 1.2))
        daemon.kill()
        daemon.start()
    wanted = [("created", f"file{number}") for number in range(KILLS)]
    wait_for(daemon, root, *wanted)
    daemon.stop()
    assert sorted(list_alerts(daemon, root)) == wanted


def test_a_kill_during_the_first_scan_begins_it_again_quietly(daemon: Daemon, root: Path) -> None:
    for number in range(3_000):
        (root / f"file{number}").write_text("x")
    daemon.start()
    time.sleep(0.5)
    daemon.kill()
    daemon.start()
    wait_scanned(daemon)
    (root / "passwd").write_text("evil")
    wait_for(daemon, root, ("modified", "passwd"))
    assert list_alerts(daemon, root) == [("modified", "passwd")]
    daemon.stop()


def test_status_says_what_is_watched(daemon: Daemon, root: Path) -> None:
    daemon.start()
    wait_scanned(daemon)
    (root / "passwd").write_text("evil")
    wait_for(daemon, root, ("modified", "passwd"))
    report = ask(daemon.control, "status", StatusReport, 20)
    (source,) = [source for source in report.sources if source.name == "file_integrity"]
    assert "files, scanned in" in source.reads
    assert "folders watched" in source.reads
    assert report.ledger is not None
    assert report.ledger.complete, report.ledger.describe()
    assert report.counters["collect_integrity_changes_total"] == report.counters["collect_integrity_events_total"] == 1
    daemon.stop()
