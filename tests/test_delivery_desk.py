"""What was given up is told once, to everybody else, and never goes round in circles."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.store.conftest import HandClock, make_alert
from watchdogd.delivery_desk import GIVEN_UP_RULE, DeliveryDesk, build_given_up_alert
from watchdogd.entities import GivenUp
from watchdogd.errors import DeliveryError, WatchdogdError
from watchdogd.reports import OutboxDrop, OutboxRequest, OutboxRetry
from watchdogd.store.database import Batch, NewAlert, Store
from watchdogd.store.outbox import Outbox
from watchdogd.store.outbox_table import OutboxTable
from watchdogd.telemetry import Counters
from watchdogd.write.deliver import Deliverer
from watchdogd.write.formats.ecs import alert_document
from watchdogd.write.journald import journal_fields

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from watchdogd.entities import Alert


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "watchdogd.db"


@pytest_asyncio.fixture
async def store(path: Path, clock: HandClock) -> AsyncIterator[Store]:
    opened = await Store.open(path, Counters(), clock)
    yield opened
    await opened.close()


class Sink:
    """Takes what it is sent, or refuses it for good."""

    def __init__(self, name: str, *, refuses: bool = False) -> None:
        self.name = name
        self.refuses = refuses
        self.got: list[str] = []
        self.ids: list[str] = []

    async def send(self, alert: Alert, *, kind: str, delivery_id: str) -> None:  # noqa: ARG002 - as the port has it
        self.ids.append(delivery_id)
        if self.refuses:
            raise DeliveryError(f"webhook {self.name}: answered 410", recoverable=False)
        self.got.append(alert.rule.title)

    async def close(self) -> None:
        return


class Bench:
    """Store, deliverer and desk, as the service joins them."""

    def __init__(self, store: Store, clock: HandClock, *sinks: Sink) -> None:
        self.store = store
        self.counters = Counters()
        self.outbox = Outbox(store, self.counters, clock)
        self.wake, self.given_up = asyncio.Event(), asyncio.Event()
        self.sinks = {sink.name: sink for sink in sinks}
        self.deliverer = Deliverer(self.outbox, self.sinks, self.counters, clock, on_given_up=self.given_up.set)
        self.desk = DeliveryDesk(
            self.outbox,
            OutboxTable(store, clock),
            self.deliverer,
            lambda _: tuple(self.sinks),
            self.given_up,
            self.counters,
            clock,
            "host",
        )

    async def commit(self, *names: str) -> None:
        new = (NewAlert(make_alert(name), tuple(self.sinks), 0, triage=False) for name in names)
        await self.store.commit(Batch(alerts=tuple(new)))
        self.wake.set()

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not true():  # noqa: ASYNC110 - it happens on the store's thread, too
                await asyncio.sleep(0.005)

    async def settle(self) -> None:
        """Until nothing is due and nothing is to be told."""
        async with asyncio.timeout(20):
            while (await self.outbox.find_untold()) or not await self.deliverer.drain(5):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            await self.deliverer.drain(5)

    async def told(self) -> list[Alert]:
        alerts = await self.store.latest_alerts(100)
        return [alert for alert in alerts if alert.rule.id == GIVEN_UP_RULE.id]


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(bench.deliverer.run(bench.wake)),
            group.create_task(bench.desk.run()),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def test_everybody_else_is_told_once(store: Store, clock: HandClock) -> None:
    bad, good = Sink("bad", refuses=True), Sink("good")
    bench = Bench(store, clock, bad, good)
    async with running(bench):
        await bench.commit(*"abcde")
        await bench.until(lambda: GIVEN_UP_RULE.title in good.got)
        await bench.settle()
    (alert,) = await bench.told()
    assert good.got.count(GIVEN_UP_RULE.title) == 1
    assert alert.fields["Sink"] == "bad"
    assert not any(alert.id in delivery_id for delivery_id in bad.ids)
    assert bench.counters.get("write_dead_letters_total") == 5
    assert bench.counters.get("store_alerts_total") == 1


async def test_where_nobody_is_left_it_ends(store: Store, clock: HandClock) -> None:
    sinks = [Sink(name, refuses=True) for name in ("one", "two", "three")]
    bench = Bench(store, clock, *sinks)
    async with running(bench):
        await bench.commit("a", "b")
        await bench.until(lambda: all(sink.ids for sink in sinks))
        await bench.settle()
    told = await bench.told()
    assert sorted(str(alert.fields["Sink"]) for alert in told) == ["one", "three", "two"]
    assert sum(len(sink.ids) for sink in sinks) <= 3 * 2 + 3  # what was under way when the others were given up


async def test_what_an_earlier_life_did_not_tell_is_told(path: Path, store: Store, clock: HandClock) -> None:
    bench = Bench(store, clock, Sink("bad", refuses=True), Sink("good"))
    await bench.commit("a")
    assert await bench.deliverer.drain(5)
    await store.close()
    again = await Store.open(path, Counters(), clock)
    second = Bench(again, clock, Sink("bad", refuses=True), good := Sink("good"))
    async with running(second):
        await second.until(lambda: good.got == [GIVEN_UP_RULE.title])
    await again.close()


async def test_the_operator_sends_again_under_the_same_ids(store: Store, clock: HandClock) -> None:
    bad = Sink("bad", refuses=True)
    bench = Bench(store, clock, bad)
    async with running(bench):
        await bench.commit("a", "b")
        await bench.until(lambda: bench.counters.get("write_dead_letters_total") == 2)
        before = list(bad.ids)
        bad.refuses = False
        assert (await bench.desk.retry(OutboxRetry())).count == 2
        await bench.until(lambda: len(bad.got) == 2)
        assert bad.ids == before * 2
        with pytest.raises(WatchdogdError, match="no sink 'other' is configured: bad"):
            await bench.desk.retry(OutboxRetry(sink="other"))


async def test_what_the_operator_drops_is_counted(store: Store, clock: HandClock) -> None:
    bench = Bench(store, clock, Sink("bad", refuses=True))
    await bench.commit("a", "b")
    await bench.deliverer.drain(5)
    rows = (await bench.desk.list(OutboxRequest("dead"))).deliveries
    assert (await bench.desk.drop(OutboxDrop(tuple(row.id for row in rows), "a drill"))).count == 2
    assert bench.counters.get("write_dropped_total") == 2


def test_the_alert_says_which_sink_and_why() -> None:
    given_up = GivenUp("ops", 1_700_000_000_000, 3, "webhook ops: answered 410")
    alert = build_given_up_alert(given_up, "host")
    assert "deliveries to ops are given up: webhook ops: answered 410" in journal_fields(alert, "alert")["MESSAGE"]
    assert alert_document(alert)["rule"] == {"id": GIVEN_UP_RULE.id, "name": GIVEN_UP_RULE.title}
    assert build_given_up_alert(given_up, "host") == alert
