"""The wall clock is set while deliveries wait: they go out after the wait that they had."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.store.conftest import MANY, make_alert
from watchdogd.entities import Checkpoint
from watchdogd.store.database import Batch, NewAlert, Store
from watchdogd.store.outbox import Outbox
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from pathlib import Path

HOUR_MS = 3_600_000


class TwoClocks:
    """A wall clock that can be set, beside one that only goes on."""

    def __init__(self) -> None:
        self.ms = 2_000_000_000_000
        self.passed_ms = 0

    def now_ms(self) -> int:
        return self.ms + self.passed_ms

    def monotonic_s(self) -> float:
        return self.passed_ms / 1000


@pytest.fixture
def clocks() -> TwoClocks:
    return TwoClocks()


async def commit_one(store: Store, clocks: TwoClocks, wait_ms: int, name: str = "a") -> None:
    due_ms = clocks.now_ms() + wait_ms
    await store.commit(Batch(alerts=(NewAlert(make_alert(name), ("journald",), due_ms, triage=False),)))


async def take(outbox: Outbox, clocks: TwoClocks) -> list[str]:
    return [alert.id for _, alert in await outbox.take_due(clocks.now_ms(), MANY)]


@pytest.mark.parametrize("step_ms", [-HOUR_MS, HOUR_MS, -90 * 365 * 24 * HOUR_MS])
async def test_a_clock_that_is_set_neither_delays_nor_hurries_what_waits(
    path: Path, clocks: TwoClocks, step_ms: int
) -> None:
    counters = Counters()
    store = await Store.open(path, counters, clocks)
    outbox = Outbox(store, counters, clocks)
    await commit_one(store, clocks, wait_ms=60_000)
    clocks.ms += step_ms
    assert await outbox.next_due_ms(clocks.now_ms(), MANY) == clocks.now_ms() + 60_000
    clocks.passed_ms += 59_000
    assert await take(outbox, clocks) == []
    clocks.passed_ms += 1_000
    assert await take(outbox, clocks) == ["a"]
    assert counters.get("store_clock_steps_total") == 1
    await store.close()


async def test_the_age_of_a_delivery_does_not_jump(path: Path, clocks: TwoClocks) -> None:
    store = await Store.open(path, Counters(), clocks)
    outbox = Outbox(store, Counters(), clocks)
    await commit_one(store, clocks, wait_ms=0)
    clocks.ms += 48 * HOUR_MS  # a sink that is given up after a day was tried for no time at all
    ((delivery, _),) = await outbox.take_due(clocks.now_ms(), MANY)
    assert clocks.now_ms() - delivery.created_ms == 0
    await store.close()


async def test_a_retry_that_the_disk_refused_to_note_moves_with_the_clock(path: Path, clocks: TwoClocks) -> None:
    store = await Store.open(path, Counters(), clocks)
    outbox = Outbox(store, Counters(), clocks)
    await commit_one(store, clocks, wait_ms=0)
    ((delivery, _),) = await outbox.take_due(clocks.now_ms(), MANY)
    await store.read(lambda connection: connection.execute("PRAGMA query_only = ON"))
    await outbox.mark_failed(delivery, "no route", clocks.now_ms() + 5_000)
    clocks.ms -= HOUR_MS
    await store.read(lambda connection: connection.execute("PRAGMA query_only = OFF"))
    assert await take(outbox, clocks) == []
    clocks.passed_ms += 5_000
    assert await take(outbox, clocks) == ["a"]
    await store.close()


async def test_a_clock_that_was_set_back_while_nobody_ran(path: Path, clocks: TwoClocks) -> None:
    point = Checkpoint("audit_log", "/log", "1:2:aa", 1)
    store = await Store.open(path, Counters(), clocks)
    await commit_one(store, clocks, wait_ms=60_000)
    clocks.passed_ms += 10_000
    await store.commit(Batch(checkpoint=point))
    await store.close()
    clocks.ms -= HOUR_MS
    for steps in (1, 0):
        counters = Counters()
        store = await Store.open(path, counters, clocks)
        outbox = Outbox(store, counters, clocks)
        assert await outbox.next_due_ms(clocks.now_ms(), MANY) == clocks.now_ms() + 50_000
        assert counters.get("store_clock_steps_total") == steps
        await store.close()
    store = await Store.open(path, Counters(), clocks)
    clocks.passed_ms += 50_000
    assert await take(Outbox(store, Counters(), clocks), clocks) == ["a"]
    await store.close()


async def test_downtime_is_no_step(path: Path, clocks: TwoClocks) -> None:
    store = await Store.open(path, Counters(), clocks)
    await commit_one(store, clocks, wait_ms=60_000)
    await store.close()
    clocks.passed_ms += HOUR_MS
    counters = Counters()
    store = await Store.open(path, counters, clocks)
    assert await take(Outbox(store, counters, clocks), clocks) == ["a"]
    assert counters.get("store_clock_steps_total") == 0
    await store.close()
