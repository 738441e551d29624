from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.daemon import Daemon
from tests.ollama.server import free_port
from tests.store.test_standings import make_standing
from watchdogd.cli.daemon import ask
from watchdogd.cli.models_exam import keep
from watchdogd.cli.status import list_rows
from watchdogd.config import load_config
from watchdogd.errors import StoreError
from watchdogd.exam_board import ExamBoard
from watchdogd.ports import SystemClock
from watchdogd.reports import StatusReport
from watchdogd.store.database import Store
from watchdogd.telemetry import Counters
from watchdogd.triage.prompt import TEMPLATE_VERSION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

STANDING = make_standing(version=TEMPLATE_VERSION)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "w.db", Counters(), SystemClock())
    yield opened
    await opened.close()


async def test_exam_counts_at_once_and_after_a_restart(store: Store) -> None:
    board = await ExamBoard.open(store)
    assert board.known.find("m:1b", "d1", TEMPLATE_VERSION) is None
    await board.keep(STANDING)
    for later in (board, await ExamBoard.open(store)):
        assert later.known.find("m:1b", "d1", TEMPLATE_VERSION) == STANDING
        assert later.look_up("m:1b") == STANDING
        assert later.look_up("other") is None
        assert later.look_up(None) is None


async def test_exam_with_an_earlier_prompt_is_not_shown(store: Store) -> None:
    board = await ExamBoard.open(store)
    await board.keep(make_standing(version="triage-0"))
    assert board.look_up("m:1b") is None


async def test_exam_that_cannot_be_stored_changes_nothing(store: Store) -> None:
    board = await ExamBoard.open(store)
    await board.keep(STANDING)
    await store.close()
    with pytest.raises(StoreError):
        await board.keep(msgspec.structs.replace(STANDING, passed=False))
    assert board.look_up("m:1b") == STANDING


@pytest.mark.slow
def test_running_daemon_takes_an_exam_and_knows_it_after_a_restart(tmp_path: Path) -> None:
    triage = f"triage:\n  model: m:1b\n  ollama_url: http://127.0.0.1:{free_port()}\n"
    with Daemon(tmp_path, extra=triage) as daemon:
        daemon.log.touch()
        daemon.start()
        assert show_exam(daemon).startswith("not examined")
        config = load_config(daemon.config, environ={})
        keep(STANDING, config)
        assert show_exam(daemon).startswith("passed; AUROC 0.90")
        assert daemon.stop() == 0
        keep(msgspec.structs.replace(STANDING, passed=False, examined_ms=STANDING.examined_ms + 1), config)
        daemon.start()  # what was written while none ran counts, too
        assert show_exam(daemon).startswith("failed")
        assert daemon.stop() == 0


def show_exam(daemon: Daemon) -> str:
    """What `watchdogd status` says of it."""
    return {name: text for name, text, _ in list_rows(ask(daemon.control, "status", StatusReport, 20))}["exam"]
