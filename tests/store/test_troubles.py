"""What is kept of sinks that fail: over restarts, and to be told once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.store.conftest import MANY
from watchdogd.entities import GivenUp, SinkTrouble
from watchdogd.store.database import Batch, NewAlert, Store
from watchdogd.store.outbox import Outbox
from watchdogd.store.troubles import TELL_AGAIN_MS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.store.conftest import HandClock
    from watchdogd.entities import Alert, Delivery
    from watchdogd.telemetry import Counters

    MakeAlert = Callable[..., Alert]


@pytest.fixture
def outbox(store: Store, counters: Counters, clock: HandClock) -> Outbox:
    return Outbox(store, counters, clock)


async def take_one(store: Store, outbox: Outbox, alert: Alert, now_ms: int) -> Delivery:
    await store.commit(Batch(alerts=(NewAlert(alert, ("hook",), 0, triage=False),)))
    ((delivery, _),) = await outbox.take_due(now_ms, {"journald": 0})
    return delivery


async def test_a_pause_and_a_retry_are_found_again(
    path: Path, store: Store, outbox: Outbox, alert: MakeAlert, counters: Counters, clock: HandClock
) -> None:
    delivery = await take_one(store, outbox, alert("a"), clock.ms)
    await outbox.mark_failed(delivery, "429", clock.ms + 600_000, clock.ms + 700_000)
    await store.close()
    again = await Store.open(path, counters, clock)
    found = Outbox(again, counters, clock)
    assert await found.load_troubles() == [SinkTrouble("hook", clock.ms + 700_000, clock.ms, None)]
    assert await found.take_due(clock.ms + 599_999, MANY) == []
    assert len(await found.take_due(clock.ms + 600_000, MANY)) == 1
    await again.close()


async def test_what_works_again_is_in_no_trouble(
    store: Store, outbox: Outbox, alert: MakeAlert, clock: HandClock
) -> None:
    delivery = await take_one(store, outbox, alert("a"), clock.ms)
    await outbox.mark_failed(delivery, "429", clock.ms, clock.ms + 5)
    since_ms, clock.ms = clock.ms, clock.ms + 10
    ((delivery, _),) = await outbox.take_due(clock.ms, MANY)
    await outbox.mark_failed(delivery, "429", clock.ms, clock.ms + 5)
    assert await outbox.load_troubles() == [SinkTrouble("hook", clock.ms + 5, since_ms, None)]
    ((delivery, _),) = await outbox.take_due(clock.ms, MANY)
    await outbox.mark_delivered(delivery, is_well=True)
    assert await outbox.load_troubles() == [SinkTrouble("hook", 0, None, None)]


async def test_an_outage_is_told_once(store: Store, outbox: Outbox, alert: MakeAlert, clock: HandClock) -> None:
    def told(name: str) -> NewAlert:
        return NewAlert(alert(name), ("journald",), 0, triage=False)

    for name in "abc":
        await outbox.mark_failed(await take_one(store, outbox, alert(name), clock.ms), f"410 for {name}", None)
        clock.ms += 1
    (given_up,) = await outbox.find_untold()
    assert given_up == GivenUp("hook", clock.ms - 3, 3, "410 for c")
    assert await outbox.tell(given_up, told("says-so"))
    assert not await outbox.tell(given_up, told("says-so"))
    await outbox.mark_failed(await take_one(store, outbox, alert("d"), clock.ms), "410", None)
    assert await outbox.find_untold() == []

    await outbox.mark_delivered(await take_one(store, outbox, alert("e"), clock.ms), is_well=True)
    await outbox.mark_failed(await take_one(store, outbox, alert("f"), clock.ms), "410", None)
    assert await outbox.find_untold() == []  # within an hour: counted, not told

    clock.ms += TELL_AGAIN_MS
    await outbox.mark_failed(await take_one(store, outbox, alert("g"), clock.ms), "410", None)
    assert await outbox.find_untold() == [GivenUp("hook", clock.ms, 2, "410")]


async def test_what_nobody_was_told_of_yet_survives_a_success(
    store: Store, outbox: Outbox, alert: MakeAlert, clock: HandClock
) -> None:
    await outbox.mark_failed(await take_one(store, outbox, alert("a"), clock.ms), "410", None)
    await outbox.mark_delivered(await take_one(store, outbox, alert("b"), clock.ms), is_well=True)
    assert [given_up.sink for given_up in await outbox.find_untold()] == ["hook"]


async def test_all_that_is_old_enough_is_given_up_together(
    store: Store, outbox: Outbox, alert: MakeAlert, clock: HandClock
) -> None:
    sending = await take_one(store, outbox, alert("sending"), clock.ms)
    for name in ("old", "older"):
        await store.commit(Batch(alerts=(NewAlert(alert(name), ("hook", "journald"), 0, triage=False),)))
    clock.ms += 1
    await store.commit(Batch(alerts=(NewAlert(alert("young"), ("hook",), 0, triage=False),)))
    assert await outbox.give_up("hook", clock.ms - 1, "503") == 2
    assert await outbox.find_untold() == [GivenUp("hook", clock.ms, 2, "503")]
    await outbox.mark_delivered(sending)
    taken = await outbox.take_due(clock.ms, MANY)
    assert sorted((delivery.alert_id, delivery.sink) for delivery, _ in taken) == [
        ("old", "journald"),
        ("older", "journald"),
        ("young", "hook"),
    ]
