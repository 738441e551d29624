from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.store.test_standings import make_standing
from watchdogd.errors import StoreError
from watchdogd.exam_board import ExamBoard
from watchdogd.ports import SystemClock
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
