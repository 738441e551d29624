"""The outbox as an operator sees it: listed, sent again under the same ids, dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.store.conftest import MANY
from watchdogd.reports import OutboxDrop, OutboxRequest, OutboxRetry
from watchdogd.store.database import Batch, NewAlert, Store
from watchdogd.store.outbox import Outbox
from watchdogd.store.outbox_table import OutboxTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.store.conftest import HandClock
    from watchdogd.entities import Alert, Delivery
    from watchdogd.telemetry import Counters

    MakeAlert = Callable[..., Alert]

SINKS = frozenset({"hook", "journald"})


@pytest.fixture
def outbox(store: Store, counters: Counters, clock: HandClock) -> Outbox:
    return Outbox(store, counters, clock)


@pytest.fixture
def table(store: Store, clock: HandClock) -> OutboxTable:
    return OutboxTable(store, clock)


async def put(store: Store, *alerts: Alert, sink: str = "hook") -> None:
    await store.commit(Batch(alerts=tuple(NewAlert(alert, (sink,), 0, triage=True) for alert in alerts)))


async def take(outbox: Outbox, clock: HandClock) -> list[Delivery]:
    return [delivery for delivery, _ in await outbox.take_due(clock.ms, MANY)]


async def kill(store: Store, outbox: Outbox, clock: HandClock, *alerts: Alert) -> list[Delivery]:
    await put(store, *alerts)
    taken = await take(outbox, clock)
    for delivery in taken:
        await outbox.mark_failed(delivery, "410 Gone", None)
    return taken


async def states(table: OutboxTable) -> list[tuple[str, str, str]]:
    return [(row.alert_id, row.kind, row.state) for row in (await table.list(OutboxRequest())).deliveries]


async def test_what_waits_and_what_was_given_up_is_listed(
    store: Store, outbox: Outbox, table: OutboxTable, alert: MakeAlert, clock: HandClock
) -> None:
    await kill(store, outbox, clock, alert("dead"))
    await put(store, alert("waits"), sink="journald")
    await put(store, alert("done"))
    for delivery in [one for one in await take(outbox, clock) if one.alert_id == "done"]:
        await outbox.mark_delivered(delivery)
    report = await table.list(OutboxRequest())
    assert [(row.alert_id, row.sink, row.state) for row in report.deliveries] == [
        ("dead", "hook", "dead"),
        ("waits", "journald", "pending"),
    ]
    assert report.counts == {"hook": {"dead": 1}, "journald": {"pending": 1}}
    first = report.deliveries[0]
    assert (first.attempts, first.error, first.level, first.title) == (1, "410 Gone", "high", "Shadow read")
    assert [row.alert_id for row in (await table.list(OutboxRequest("dead"))).deliveries] == ["dead"]
    assert [row.alert_id for row in (await table.list(OutboxRequest(sink="journald"))).deliveries] == ["waits"]


async def test_pages_hold_everything_once(store: Store, table: OutboxTable, alert: MakeAlert) -> None:
    await put(store, *(alert(str(number)) for number in range(7)))
    seen: list[str] = []
    after: int | None = 0
    while after is not None:
        report = await table.list(OutboxRequest(after=after, limit=3))
        seen += [row.alert_id for row in report.deliveries]
        after = report.next_after
    assert seen == [str(number) for number in range(7)]


@pytest.mark.parametrize("how", ["ids", "sink", "all"])
async def test_dead_letters_are_sent_again_as_they_were(
    store: Store, outbox: Outbox, table: OutboxTable, alert: MakeAlert, clock: HandClock, how: str
) -> None:
    dead = await kill(store, outbox, clock, alert("a"), alert("b"))
    clock.ms += 1_000
    request = {
        "ids": OutboxRetry(ids=tuple(one.id for one in dead)),
        "sink": OutboxRetry(sink="hook"),
        "all": OutboxRetry(),
    }
    assert await table.retry(request[how], SINKS) == (2, frozenset({"hook"}))
    again = await take(outbox, clock)
    assert [(one.id, one.alert_id, one.kind) for one in again] == [(one.id, one.alert_id, one.kind) for one in dead]
    assert [(one.attempts, one.created_ms) for one in again] == [(0, clock.ms)] * 2  # its time begins anew


async def test_what_waits_to_be_tried_again_is_tried_now(
    store: Store, outbox: Outbox, table: OutboxTable, alert: MakeAlert, clock: HandClock
) -> None:
    await put(store, alert("a"))
    (delivery,) = await take(outbox, clock)
    assert await table.retry(OutboxRetry(sink="hook"), SINKS) == (0, frozenset())  # it is being sent
    await outbox.mark_failed(delivery, "503", clock.ms + 300_000)
    assert await take(outbox, clock) == []
    assert await table.retry(OutboxRetry(ids=(delivery.id,)), SINKS) == (1, frozenset({"hook"}))
    assert [one.alert_id for one in await take(outbox, clock)] == ["a"]


async def test_nothing_is_revived_for_a_sink_that_is_gone(
    store: Store, outbox: Outbox, table: OutboxTable, alert: MakeAlert, clock: HandClock
) -> None:
    await kill(store, outbox, clock, alert("a"))
    assert await table.retry(OutboxRetry(), frozenset({"journald"})) == (0, frozenset())


async def test_a_verdict_takes_its_alert_with_it(
    store: Store, outbox: Outbox, table: OutboxTable, alert: MakeAlert, clock: HandClock
) -> None:
    await put(store, alert("a"))
    (delivery,) = await take(outbox, clock)
    await store.record_verdict(alert("a"), release=True, journald_only=False, verdict_update=True)
    await outbox.mark_failed(delivery, "410", None)
    assert await states(table) == [("a", "alert", "dead"), ("a", "verdict", "dead")]
    rows = (await table.list(OutboxRequest())).deliveries
    assert await table.retry(OutboxRetry(ids=(rows[1].id,)), SINKS) == (2, frozenset({"hook"}))
    for kind in ("alert", "verdict"):
        (delivery,) = await take(outbox, clock)
        assert delivery.kind == kind
        await outbox.mark_delivered(delivery)


async def test_dropped_is_never_sent_and_keeps_its_reason(
    store: Store, outbox: Outbox, table: OutboxTable, alert: MakeAlert, clock: HandClock
) -> None:
    dead = await kill(store, outbox, clock, alert("a"))
    await put(store, alert("b"), alert("c"))
    waiting = [row.id for row in (await table.list(OutboxRequest("pending"))).deliveries]
    assert await table.drop(OutboxDrop((dead[0].id, waiting[0]), "drill \udc80")) == 2
    assert await table.drop(OutboxDrop((dead[0].id, 99), "again")) == 0
    assert [one.alert_id for one in await take(outbox, clock)] == ["c"]
    assert await table.drop(OutboxDrop((waiting[1],), "too late")) == 0  # it is being sent
    assert await table.retry(OutboxRetry(), SINKS) == (0, frozenset())
    dropped = (await table.list(OutboxRequest("dropped"))).deliveries
    assert [row.alert_id for row in dropped] == ["a", "b"]
    assert all(row.error.startswith("dropped: drill ") for row in dropped)


async def test_a_dropped_alert_takes_its_verdict_with_it(
    store: Store, outbox: Outbox, table: OutboxTable, alert: MakeAlert, clock: HandClock
) -> None:
    await put(store, alert("a"))
    (delivery,) = await take(outbox, clock)
    await store.record_verdict(alert("a"), release=True, journald_only=False, verdict_update=True)
    await outbox.mark_failed(delivery, "503", clock.ms + 1)
    assert await table.drop(OutboxDrop((delivery.id,), "drill")) == 2
    assert await states(table) == [("a", "alert", "dropped"), ("a", "verdict", "dropped")]
