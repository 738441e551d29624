"""The daemon's database is damaged or removed: it goes on watching, and nothing that the log holds is lost."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.daemon import Daemon, wait_until
from tests.faults.scene import append, read_ids, read_stored
from watchdogd.store.damage import DAMAGE_RULE, list_aside

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.host.receiver import Receiver

pytestmark = pytest.mark.slow

PAGE_BYTES = 4096


def count_damage(receiver: Receiver) -> int:
    return len(read_ids(receiver, DAMAGE_RULE.id))


def scribble_header(database: Path) -> None:
    with database.open("r+b") as file:
        file.write(b"\xa5" * 100)


def scribble_pages(database: Path) -> None:
    with database.open("r+b") as file:
        file.seek(PAGE_BYTES)
        file.write(b"\xa5" * (database.stat().st_size - PAGE_BYTES))


def remove(database: Path) -> None:
    database.unlink()


@pytest.mark.parametrize("damage", [scribble_header, scribble_pages, remove])
def test_damage_found_at_a_start(daemon: Daemon, receiver: Receiver, damage: Callable[[Path], None]) -> None:
    daemon.start()
    expected = append(daemon, range(1, 21))
    wait_until(lambda: read_ids(receiver) == expected, daemon)
    assert daemon.stop() == 0
    expected |= append(daemon, range(21, 26))
    damage(daemon.database)
    daemon.start()
    expected |= append(daemon, range(26, 31))
    wait_until(lambda: read_ids(receiver) == expected and count_damage(receiver) == 1, daemon)
    assert daemon.stop() == 0
    assert len(list_aside(daemon.database)) == (0 if damage is remove else 1)
    assert read_stored(daemon) == expected
    with closing(sqlite3.connect(daemon.database)) as database:
        assert database.execute("PRAGMA quick_check").fetchone() == ("ok",)
    assert "Traceback" not in daemon.said


def test_damage_while_it_runs(daemon: Daemon, receiver: Receiver) -> None:
    daemon.start()
    expected = append(daemon, range(1, 21))
    wait_until(lambda: read_ids(receiver) == expected, daemon)
    with closing(sqlite3.connect(daemon.database, timeout=30)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        scribble_pages(daemon.database)
        database.execute("PRAGMA user_version = 0")  # the daemon must look at the file again, not at its memory
    expected |= append(daemon, range(21, 26))
    wait_until(lambda: read_ids(receiver) == expected and count_damage(receiver) == 1, daemon)
    assert "set aside as" in daemon.said
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.said
