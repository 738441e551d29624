"""The database's file is removed or replaced while the daemon has it open: it is written back, and nothing is lost."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.daemon import Daemon, wait_until
from tests.faults.scene import append, ask_status, read_ids, read_stored
from tests.host.receiver import Fault, Receiver
from watchdogd.store.damage import DAMAGE_RULE, list_aside

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.slow


def remove_file(database: Path) -> None:
    database.unlink()


def remove_folder(database: Path) -> None:
    shutil.rmtree(database.parent)


def replace_by_database(database: Path) -> None:
    other = database.with_name("other")
    with closing(sqlite3.connect(other)) as made:
        made.execute("CREATE TABLE something (x)")
        made.commit()
    other.replace(database)


@pytest.mark.parametrize("act", [remove_file, remove_folder, replace_by_database])
def test_the_file_goes_away_while_in_use(daemon: Daemon, receiver: Receiver, act: Callable[[Path], None]) -> None:
    daemon.start()
    expected = append(daemon, range(1, 6))
    wait_until(lambda: read_ids(receiver) == expected, daemon)
    act(daemon.database)
    expected |= append(daemon, range(6, 11))
    wait_until(lambda: read_ids(receiver) == expected and len(read_ids(receiver, DAMAGE_RULE.id)) == 1, daemon)
    assert ask_status(daemon)["gauges"]["store_detached"] == 0
    assert read_stored(daemon) == expected
    daemon.kill()
    daemon.start()
    expected |= append(daemon, range(11, 16))
    wait_until(lambda: read_ids(receiver) == expected, daemon)
    assert daemon.stop() == 0
    assert read_stored(daemon) == expected
    assert len(read_ids(receiver, DAMAGE_RULE.id)) == 1
    assert len(list_aside(daemon.database)) == ("replace" in act.__name__)
    for file in daemon.database.parent.iterdir():
        assert file.stat().st_mode & 0o077 == 0 or file.name.startswith("watchdogd.db.corrupt-"), file


def test_where_it_cannot_be_written_back_alerts_leave_all_the_same(daemon: Daemon, receiver: Receiver) -> None:
    """A file stands where the folder was; what was not delivered is written once there is a folder again."""
    daemon.start()
    expected = append(daemon, range(1, 6))
    wait_until(lambda: read_ids(receiver) == expected, daemon)
    state = daemon.database.parent
    state.rename(state.with_name("elsewhere"))
    state.write_text("in the way")
    expected |= append(daemon, range(6, 11))
    wait_until(lambda: read_ids(receiver) == expected, daemon)
    wait_until(lambda: "cannot be written back" in daemon.said, daemon)
    assert ask_status(daemon)["gauges"]["store_detached"] == 1
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.said


def test_what_waits_for_a_sink_survives_it(daemon: Daemon, receiver: Receiver) -> None:
    receiver.answer_next(*[Fault(status=503)] * 3)
    daemon.start()
    expected = append(daemon, range(1, 3))
    wait_until(lambda: len(receiver.requests) >= 1, daemon)
    remove_folder(daemon.database)
    wait_until(daemon.database.exists, daemon)
    daemon.kill()
    daemon.start()
    wait_until(lambda: read_ids(receiver) >= expected, daemon)
    assert daemon.stop() == 0
