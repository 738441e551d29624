"""Deliveries: at least once, in order, a verdict after its alert."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.store.conftest import MANY
from watchdogd.entities import Level
from watchdogd.store.database import Batch, NewAlert, Store
from watchdogd.store.outbox import ERROR_CHARACTERS, WINDOW, Outbox

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from watchdogd.entities import Alert, Delivery, Verdict
    from watchdogd.ports import Clock
    from watchdogd.telemetry import Counters

    MakeAlert = Callable[..., Alert]

NOBODY: dict[str, int] = {}
"""Nobody is busy: each sink has room for one."""
NOW_MS = 1_000_000


@pytest.fixture
def outbox(store: Store, counters: Counters, clock: Clock) -> Outbox:
    return Outbox(store, counters, clock)


async def put(store: Store, alert: Alert, *sinks: str, due_ms: int = 0, triage: bool = False) -> None:
    await store.commit(Batch(alerts=(NewAlert(alert, sinks, due_ms, triage),)))


async def take(outbox: Outbox, now_ms: int = NOW_MS, **room: int) -> list[Delivery]:
    return [delivery for delivery, _ in await outbox.take_due(now_ms, MANY | room)]


def names(deliveries: list[Delivery]) -> list[tuple[str, str, str]]:
    return [(delivery.alert_id, delivery.sink, delivery.kind) for delivery in deliveries]


async def test_due_ones_come_in_order_and_only_once(store: Store, outbox: Outbox, alert: MakeAlert) -> None:
    await put(store, alert("late"), "journald", due_ms=200)
    await put(store, alert("soon"), "journald", "hook", due_ms=100)
    await put(store, alert("never"), due_ms=100)
    assert await outbox.next_due_ms(99, MANY) == 100
    assert await take(outbox, 99) == []
    assert names(await take(outbox, 100)) == [("soon", "hook", "alert"), ("soon", "journald", "alert")]
    assert await take(outbox, 100) == []
    assert await outbox.next_due_ms(100, MANY) == 200
    assert await take(outbox, 199) == []
    assert await outbox.next_due_ms(200, MANY) is None


async def test_the_worst_of_what_is_due_comes_first(store: Store, outbox: Outbox, alert: MakeAlert) -> None:
    for number, level in enumerate((Level.LOW, Level.HIGH, Level.CRITICAL, Level.HIGH)):
        await put(store, alert(f"{level}{number}", level=level, group_key=str(number)), "journald", due_ms=number)
    assert [name for name, _, _ in names(await take(outbox, 2))] == ["critical2", "high1", "low0"]
    assert [name for name, _, _ in names(await take(outbox, 3))] == ["high3"]


async def test_a_sink_gets_no_more_than_it_has_room_for(store: Store, outbox: Outbox, alert: MakeAlert) -> None:
    for number in range(5):
        await put(store, alert(str(number), group_key=str(number)), "journald", due_ms=number)
    assert [found.id for _, found in await outbox.take_due(9, {"journald": 3})] == ["0", "1", "2"]
    assert [found.id for _, found in await outbox.take_due(9, NOBODY)] == ["3"]
    assert [found.id for _, found in await outbox.take_due(9, MANY)] == ["4"]


async def test_a_busy_sink_is_left_alone(store: Store, outbox: Outbox, alert: MakeAlert) -> None:
    await put(store, alert("a"), "journald", "hook", due_ms=5)
    assert await outbox.next_due_ms(4, {"hook": 0, "journald": 0}) is None
    assert await outbox.next_due_ms(4, {"hook": 0}) == 5
    assert names(await take(outbox, hook=0)) == [("a", "journald", "alert")]


async def test_of_a_group_one_at_a_time_in_the_order_of_commits(store: Store, outbox: Outbox, alert: MakeAlert) -> None:
    for name in ("first", "second", "third"):
        await put(store, alert(name, group_key="one"), "hook")
    await put(store, alert("other", group_key="two"), "hook")
    first, other = await take(outbox)
    assert (first.alert_id, other.alert_id) == ("first", "other")
    assert await take(outbox) == []
    await outbox.mark_failed(first, "503", NOW_MS + 500)
    assert await take(outbox) == []  # not the second, as the first waits to be tried again
    assert await outbox.next_due_ms(NOW_MS, MANY) == NOW_MS + 500
    for name in ("first", "second", "third"):
        (delivery,) = await take(outbox, NOW_MS + 500)
        assert delivery.alert_id == name
        await outbox.mark_delivered(delivery)


async def test_a_worse_one_waits_for_none_of_its_group(store: Store, outbox: Outbox, alert: MakeAlert) -> None:
    await put(store, alert("low", level=Level.LOW, group_key="one"), "hook")
    (low,) = await take(outbox)
    await outbox.mark_failed(low, "503", NOW_MS + 500)
    await put(store, alert("critical", level=Level.CRITICAL, group_key="one"), "hook")
    assert names(await take(outbox)) == [("critical", "hook", "alert")]


async def test_what_waits_for_its_verdict_holds_up_nothing(store: Store, outbox: Outbox, alert: MakeAlert) -> None:
    await put(store, alert("asked"), "hook", due_ms=NOW_MS + 60_000, triage=True)
    await put(store, alert("at-once"), "hook")
    (delivery,) = await take(outbox)
    assert delivery.alert_id == "at-once"


async def test_a_flood_of_one_group_hides_no_other(store: Store, outbox: Outbox, alert: MakeAlert) -> None:
    flood = tuple(
        NewAlert(alert(f"flood{n}", group_key="flood"), ("hook",), 0, triage=False) for n in range(WINDOW + 9)
    )
    await store.commit(Batch(alerts=flood))
    await put(store, alert("other", level=Level.LOW, group_key="two"), "hook")
    (delivery,) = await take(outbox)
    await outbox.mark_failed(delivery, "413", NOW_MS + 500)
    assert names(await take(outbox)) == [("other", "hook", "alert")]


async def test_delivered_ends_it(
    path: Path, store: Store, outbox: Outbox, alert: MakeAlert, counters: Counters, clock: Clock
) -> None:
    await put(store, alert("a"), "journald")
    (delivery,) = await take(outbox)
    await outbox.mark_delivered(delivery)
    await store.close()
    again = await Store.open(path, counters, clock)
    assert await take(Outbox(again, counters, clock)) == []
    await again.close()


async def test_what_was_being_sent_at_a_crash_is_sent_again(
    path: Path, store: Store, outbox: Outbox, alert: MakeAlert, counters: Counters, clock: Clock
) -> None:
    await put(store, alert("a"), "journald")
    assert len(await take(outbox)) == 1
    await store.close()
    again = await Store.open(path, counters, clock)
    assert names(await take(Outbox(again, counters, clock))) == [("a", "journald", "alert")]
    await again.close()


async def test_failed_comes_back_when_told_to(store: Store, outbox: Outbox, alert: MakeAlert) -> None:
    await put(store, alert("a"), "hook")
    (delivery,) = await take(outbox)
    assert delivery.attempts == 0
    await outbox.mark_failed(delivery, "\udc80" + "x" * 10_000, 2_000_000)
    assert await outbox.next_due_ms(NOW_MS, MANY) == 2_000_000
    assert await take(outbox, 1_999_999) == []
    (again,) = await take(outbox, 2_000_000)
    assert (again.id, again.attempts) == (delivery.id, 1)
    row = await store.read(lambda connection: connection.execute("SELECT last_error FROM deliveries").fetchone())
    assert len(row[0]) < ERROR_CHARACTERS + 10


async def test_given_up_ends_its_verdict_too(store: Store, outbox: Outbox, alert: MakeAlert) -> None:
    await put(store, alert("a"), "hook", triage=True)
    (delivery,) = await take(outbox)
    await store.record_verdict(alert("a"), release=True, journald_only=False, verdict_update=True)
    await outbox.mark_failed(delivery, "410 Gone", None)
    assert await outbox.next_due_ms(NOW_MS, MANY) is None
    states = await store.read(
        lambda connection: connection.execute("SELECT kind, state FROM deliveries ORDER BY id").fetchall()
    )
    assert states == [("alert", "dead"), ("verdict", "dead")]


async def test_a_verdict_releases_what_waited_for_it(
    store: Store, outbox: Outbox, alert: MakeAlert, verdict: Verdict
) -> None:
    await put(store, alert("a"), "journald", "hook", due_ms=9_000_000, triage=True)
    assert await take(outbox) == []
    judged = msgspec.structs.replace(alert("a"), verdict=verdict)
    await store.record_verdict(judged, release=True, journald_only=False, verdict_update=True)
    taken = await outbox.take_due(NOW_MS, MANY)
    assert names([delivery for delivery, _ in taken]) == [("a", "hook", "alert"), ("a", "journald", "alert")]
    assert [found.verdict for _, found in taken] == [verdict, verdict]


async def test_without_release_they_wait_for_the_deadline(store: Store, outbox: Outbox, alert: MakeAlert) -> None:
    await put(store, alert("a"), "journald", due_ms=9_000_000, triage=True)
    await store.record_verdict(alert("a"), release=False, journald_only=False, verdict_update=False)
    assert await outbox.next_due_ms(NOW_MS, MANY) == 9_000_000


async def test_journald_only_calls_the_others_off(store: Store, outbox: Outbox, alert: MakeAlert) -> None:
    await put(store, alert("a"), "journald", "hook", "mail", due_ms=9_000_000, triage=True)
    await store.record_verdict(alert("a"), release=True, journald_only=True, verdict_update=False)
    assert names(await take(outbox)) == [("a", "journald", "alert")]
    assert await outbox.next_due_ms(NOW_MS, MANY) is None


async def test_a_sink_that_has_the_alert_is_told_the_verdict_once(
    store: Store, outbox: Outbox, alert: MakeAlert, verdict: Verdict
) -> None:
    await put(store, alert("a"), "journald", "hook", triage=True)
    hook, journald = await take(outbox)
    await outbox.mark_delivered(journald)  # the hook is still being sent to
    judged = msgspec.structs.replace(alert("a"), verdict=verdict)
    for _ in range(2):
        await store.record_verdict(judged, release=True, journald_only=False, verdict_update=True)
    (told,) = await outbox.take_due(NOW_MS, MANY)
    assert (told[0].sink, told[0].kind, told[1].verdict) == ("journald", "verdict", verdict)

    await outbox.mark_failed(hook, "503", 1_500_000)
    assert names(await take(outbox, 1_500_000)) == [("a", "hook", "alert")]
    await outbox.mark_delivered(hook)
    assert names(await take(outbox, 1_500_000)) == [("a", "hook", "verdict")]


async def test_without_an_update_nobody_is_told_again(store: Store, outbox: Outbox, alert: MakeAlert) -> None:
    await put(store, alert("a"), "journald", triage=True)
    (delivery,) = await take(outbox)
    await outbox.mark_delivered(delivery)
    await store.record_verdict(alert("a"), release=True, journald_only=False, verdict_update=False)
    assert await outbox.next_due_ms(NOW_MS, MANY) is None
