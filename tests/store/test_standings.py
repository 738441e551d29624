from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import msgspec
import pytest

from watchdogd.background import Fusion, Standing
from watchdogd.errors import StoreError
from watchdogd.ports import SystemClock
from watchdogd.store import standings as kept
from watchdogd.store.database import Store
from watchdogd.store.standings import load_standings, look_up_opinions, look_up_standings, save_standing
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


def make_standing(digest: str = "d1", version: str = "triage-1", **changes: object) -> Standing:
    standing = Standing(
        model="m:1b",
        digest=digest,
        prompt_version=version,
        passed=True,
        cases=48,
        auroc=0.9,
        auroc_low=0.8,
        auroc_high=0.96,
        scorer_auroc=0.85,
        injections=12,
        obeyed=0,
        latency_s=0.7,
        examined_ms=1_700_000_000_000,
        fusion=Fusion(-0.1, 0.8, 0.5),
    )
    return msgspec.structs.replace(standing, **changes)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "w.db", Counters(), SystemClock())
    yield opened
    await opened.close()


async def test_newest_exam_of_the_same_bytes_and_prompt_counts(store: Store, tmp_path: Path) -> None:
    await save_standing(store, make_standing())
    await save_standing(store, make_standing("d2", examined_ms=5))
    await save_standing(store, make_standing(version="triage-2", examined_ms=7))
    again = make_standing(passed=False, examined_ms=1_700_000_000_001)
    await save_standing(store, again)
    expected = [again, make_standing(version="triage-2", examined_ms=7), make_standing("d2", examined_ms=5)]
    assert await load_standings(store) == expected
    assert look_up_standings(tmp_path / "w.db") == expected  # while the store has it
    assert look_up_opinions(tmp_path / "w.db") == []


async def test_old_exams_go(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "KEPT", 2)
    for number in range(5):
        await save_standing(store, make_standing(f"d{number}", examined_ms=number))
    assert [standing.digest for standing in await load_standings(store)] == ["d4", "d3"]


async def test_exam_of_a_newer_version_says_nothing(store: Store) -> None:
    await save_standing(store, make_standing())
    await store.write(lambda connection: connection.execute("UPDATE standings SET document = '{}'"))
    assert await load_standings(store) == []


def test_no_database_knows_no_exam(tmp_path: Path) -> None:
    assert look_up_standings(tmp_path / "none.db") == []
    assert not list(tmp_path.iterdir())


def test_database_from_before(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "old.db").close()
    assert look_up_standings(tmp_path / "old.db") == []


def test_no_database_at_all(tmp_path: Path) -> None:
    (tmp_path / "w.db").write_bytes(b"text" * 400)
    with pytest.raises(StoreError, match="not a database"):
        look_up_standings(tmp_path / "w.db")
