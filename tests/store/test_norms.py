from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from watchdogd.ports import SystemClock
from watchdogd.store.database import Batch, Store
from watchdogd.store.norms import KEPT, load_norms
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from pathlib import Path


async def open_store(tmp_path: Path) -> Store:
    return await Store.open(tmp_path / "w.db", Counters(), SystemClock())


async def test_what_is_usual_survives_a_restart(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await store.commit(Batch(norms={"cpu.percent": b"\0\xff", "load.1m": b"1"}))
    await store.commit(Batch(norms={"load.1m": b"2"}))
    await store.close()
    store = await open_store(tmp_path)
    assert await load_norms(store) == {"cpu.percent": b"\0\xff", "load.1m": b"2"}
    await store.close()


async def test_series_are_bounded_on_the_disk_too(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await store.commit(Batch(norms={f"disk:{number}": b"1" for number in range(KEPT + 9)}))
    assert len(await load_norms(store)) == KEPT
    await store.close()


@pytest.mark.parametrize("value", ["'text'", "17"])
async def test_what_is_no_state_is_left_out(tmp_path: Path, value: str) -> None:
    store = await open_store(tmp_path)
    await store.commit(Batch(norms={"load.1m": b"2"}))
    await store.close()
    with sqlite3.connect(tmp_path / "w.db") as connection:
        connection.execute(f"INSERT INTO norms VALUES ('cpu.percent', {value}, 0)")
    connection.close()
    store = await open_store(tmp_path)
    assert await load_norms(store) == {"load.1m": b"2"}
    await store.close()
