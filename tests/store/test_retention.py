"""What is pruned, what stays, and that nobody waits for it: on real files."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from tests.store.conftest import MANY
from watchdogd.background import Case
from watchdogd.entities import AlertState, Label, Level
from watchdogd.store import retention as module
from watchdogd.store.database import Batch, NewAlert, Store
from watchdogd.store.history import History
from watchdogd.store.outbox import Outbox
from watchdogd.store.retention import Retention, find_used_bytes, give_back_step, has_pages_to_give_back
from watchdogd.store.verdicts import Verdicts

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from pathlib import Path

    from tests.store.conftest import HandClock
    from watchdogd.entities import Alert, Verdict
    from watchdogd.telemetry import Counters

    MakeAlert = Callable[..., Alert]

BIG = "x" * 20_000


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_PAUSE_S", 0.0)
    monkeypatch.setattr(module, "SPARE_PAGES", 4)


@pytest.fixture
def by_age(store: Store, counters: Counters, clock: HandClock) -> Retention:
    """Keeps 1000 ms; it is 1,000,000."""
    return Retention(store, counters, clock, keep_ms=1000, max_bytes=None)


async def put(store: Store, *alerts: Alert, sinks: tuple[str, ...] = (), triage: bool = False) -> None:
    await store.commit(Batch(alerts=tuple(NewAlert(alert, sinks, 0, triage) for alert in alerts)))


async def ids(store: Store) -> list[str]:
    query = "SELECT id FROM alerts ORDER BY seq"
    return [name for (name,) in await store.read(lambda connection: connection.execute(query).fetchall())]


async def test_what_is_older_goes_whatever_its_state(
    store: Store, by_age: Retention, counters: Counters, clock: HandClock, path: Path, alert: MakeAlert
) -> None:
    states = [replace(alert(str(state), time_ms=998_999), state=state) for state in AlertState]
    await put(store, *states, alert("young", time_ms=999_000), alert("future", time_ms=9_999_999))
    assert await by_age.prune() == 4
    assert await ids(store) == ["young", "future"]
    assert counters.get("store_pruned_alerts_total") == 4
    assert counters.get("store_pruned_early_total") == 0
    clock.ms += 1
    assert await by_age.prune() == 1
    summary = await History(path, counters, clock, keep_ms=1000, max_bytes=None).summarize()
    assert (summary.pruned_age, summary.pruned_size) == (5, 0)
    assert {state: count for state, count in summary.states.items() if count} == {"active": 1}


async def test_what_is_still_needed_stays_and_goes_afterwards(
    store: Store, by_age: Retention, counters: Counters, clock: HandClock, alert: MakeAlert, verdict: Verdict
) -> None:
    outbox, verdicts = Outbox(store, counters, clock), Verdicts(store, counters, clock)
    await put(store, alert("untold"), sinks=("journald",))
    await put(store, alert("unasked"), triage=True)
    await put(store, alert("judged"), alert("leader"))
    await put(store, alert("part", state=AlertState.FOLDED, leader="leader", time_ms=clock.ms))
    await verdicts.keep_opinion(Case("judged", Label.BENIGN, "t", Level.LOW, (), by="operator"), ("scorer", b"learnt"))
    assert await by_age.prune() == 0
    assert await ids(store) == ["untold", "unasked", "judged", "leader", "part"]
    ((delivery, _),) = await outbox.take_due(clock.ms, MANY)
    await outbox.mark_delivered(delivery)
    await store.record_verdict(
        alert("unasked", verdict=verdict), release=True, journald_only=False, verdict_update=True
    )
    clock.ms += 1001
    assert await by_age.prune() == 4  # the leader with its last part
    assert await ids(store) == ["judged"]
    assert await verdicts.load_lesson("scorer") == b"learnt"
    assert [case.id for case in await verdicts.load_cases()] == ["judged"]


async def test_dead_letters_do_not_hold_an_alert(
    store: Store, by_age: Retention, counters: Counters, clock: HandClock, alert: MakeAlert
) -> None:
    outbox = Outbox(store, counters, clock)
    await put(store, alert("dead"), sinks=("journald",))
    ((delivery, _),) = await outbox.take_due(clock.ms, MANY)
    await outbox.mark_failed(delivery, "gone", None)
    assert await by_age.prune() == 1
    rows = await store.read(lambda connection: connection.execute("SELECT count(*) FROM deliveries").fetchone())
    assert rows == (0,)


async def test_many_go_in_small_steps_between_which_others_commit(
    store: Store, by_age: Retention, alert: MakeAlert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STEP_ALERTS", 10)
    await put(store, alert("untold"), sinks=("journald",))
    await put(store, *(alert(f"old{number}") for number in range(95)))
    sizes: list[int] = []
    step = module.prune_step

    def count(*arguments: object) -> module.Step:
        done: module.Step = step(*arguments)  # type: ignore[arg-type]
        sizes.append(done.pruned)
        return done

    monkeypatch.setattr(module, "prune_step", count)
    at: list[int] = []

    async def commit_between() -> None:
        for number in range(5):
            await put(store, alert(f"new{number}", time_ms=1_000_000))
            at.append(len(sizes))

    async with asyncio.TaskGroup() as group:
        pruning = group.create_task(by_age.prune())
        group.create_task(commit_between())
    assert pruning.result() == 95
    assert max(sizes) == 10
    assert at[-1] < len(sizes) == 11
    assert await ids(store) == ["untold", *(f"new{number}" for number in range(5))]


async def test_what_is_deleted_is_counted_at_once(
    store: Store, by_age: Retention, counters: Counters, alert: MakeAlert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STEP_ALERTS", 10)
    monkeypatch.setattr(module, "LEAST_PAUSE_S", 30.0)
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 30.0)
    await put(store, *(alert(f"old{number}") for number in range(30)))
    async with asyncio.TaskGroup() as group:
        pruning = group.create_task(by_age.prune())
        await asyncio.sleep(0)
        assert len(await ids(store)) + counters.get("store_pruned_alerts_total") == 30
        assert counters.get("store_pruned_alerts_total") == 10
        pruning.cancel()


async def test_the_oldest_make_room_and_that_is_said_once_a_day(
    store: Store,
    counters: Counters,
    clock: HandClock,
    path: Path,
    alert: MakeAlert,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "STEP_ALERTS", 5)
    caplog.set_level(logging.WARNING, "watchdogd.store")
    await put(store, *(alert(f"a{number:03}", time_ms=number, lines=(BIG,)) for number in range(100)))
    used = await store.read(find_used_bytes)
    await put(store, *(alert(f"b{number:03}", time_ms=900_000 + number, lines=(BIG,)) for number in range(50)))
    retention = Retention(store, counters, clock, keep_ms=10_000_000, max_bytes=used)
    assert 45 <= await retention.prune() <= 60
    left = await ids(store)
    assert left[-50:] == [f"b{number:03}" for number in range(50)]
    assert left[0] > "a044"
    assert await store.read(find_used_bytes) <= used
    assert counters.get("store_pruned_early_total") == 150 - len(left)
    assert counters.get("store_pruned_alerts_total") == 0
    assert caplog.text.count("had no room in the database (store.max_size)") == 1
    assert "of 1970-01-01 00:00Z" in caplog.text
    for hours, said in ((1, 1), (24, 2)):
        clock.ms += hours * 3_600_000
        await put(store, *(alert(f"c{hours}-{number}", time_ms=clock.ms, lines=(BIG,)) for number in range(30)))
        assert await retention.prune() > 0
        assert caplog.text.count("had no room") == said
    summary = await History(path, counters, clock, keep_ms=None, max_bytes=used).summarize()
    assert summary.pruned_size == counters.get("store_pruned_early_total")


async def test_where_nothing_may_go_it_ends(
    store: Store, counters: Counters, clock: HandClock, alert: MakeAlert
) -> None:
    await put(store, *(alert(str(number)) for number in range(20)), sinks=("journald",))
    retention = Retention(store, counters, clock, keep_ms=None, max_bytes=1)
    assert await retention.prune() == 0
    assert len(await ids(store)) == 20


async def test_the_file_shrinks(store: Store, by_age: Retention, path: Path, alert: MakeAlert) -> None:
    await put(store, *(alert(str(number), lines=(BIG,)) for number in range(200)))
    before = await measure(store, path)
    assert await by_age.prune() == 200
    assert await measure(store, path) < before / 4
    assert not await store.read(has_pages_to_give_back)


async def test_giving_back_ends_in_time(store: Store, path: Path, alert: MakeAlert) -> None:
    await put(store, *(alert(str(number), lines=(BIG,)) for number in range(50)))
    before = await measure(store, path)

    def delete(connection: sqlite3.Connection) -> bool:
        connection.execute("DELETE FROM alerts")
        ticks = iter(range(9))
        return give_back_step(connection, lambda: float(next(ticks)))

    assert await store.write(delete)  # there is more
    cut = before - await measure(store, path)
    assert 0 < cut <= module.PAGES_AT_ONCE * 4096


async def measure(store: Store, path: Path) -> int:
    """Size of the file once everything is in it."""
    await store.read(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    return await asyncio.to_thread(lambda: path.stat().st_size)


async def test_it_goes_on_where_the_database_refuses(
    store: Store, by_age: Retention, alert: MakeAlert, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.0)
    await put(store, alert("old"))
    await store.write(lambda connection: connection.execute("ALTER TABLE tallies RENAME TO elsewhere"))
    async with asyncio.TaskGroup() as group:
        running = group.create_task(by_age.run())
        while "old alerts stay for now" not in caplog.text:  # noqa: ASYNC110 - a log record sets no event
            await asyncio.sleep(0.01)
        await store.write(lambda connection: connection.execute("ALTER TABLE elsewhere RENAME TO tallies"))
        while await ids(store):  # noqa: ASYNC110 - nor does a row that is gone
            await asyncio.sleep(0.01)
        running.cancel()


async def test_a_clock_that_is_set_forward_by_mistake_costs_no_history(
    store: Store, counters: Counters, alert: MakeAlert, caplog: pytest.LogCaptureFixture
) -> None:
    class TwoClocks:
        ms, seconds = 1_000_000, 0.0

        def now_ms(self) -> int:
            return self.ms

        def monotonic_s(self) -> float:
            return self.seconds

    clock = TwoClocks()
    retention = Retention(store, counters, clock, keep_ms=1000, max_bytes=None)
    await put(store, alert("old"), alert("young", time_ms=1_000_000))
    clock.ms += 86_400_000
    assert await retention.prune() == 0
    assert "the clock was set forward by 86400 s: no alert is deleted for its age in the next 60 min" in caplog.text
    clock.seconds += 600
    assert await retention.prune() == 0
    clock.ms -= 86_400_000 - 600_000
    assert await retention.prune() == 2  # set back: it is believed again, and ten minutes went by
    await put(store, alert("later", time_ms=clock.ms))
    clock.ms += 86_400_000
    assert await retention.prune() == 0
    clock.seconds += module.BELIEVED_AFTER_S
    clock.ms += 3_600_000
    assert await retention.prune() == 1
