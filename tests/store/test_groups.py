"""Repeats, updates and inhibition as the database keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from tests.store.conftest import make_alert
from tests.store.test_clock_steps import TwoClocks
from watchdogd.entities import AlertState, EventId, Label, Level, Verdict
from watchdogd.errors import StoreError
from watchdogd.grouping import Facts, Reach
from watchdogd.store.batch import Batch, NewAlert, RuledAlert
from watchdogd.store.database import Store
from watchdogd.store.groups import KEPT_MS
from watchdogd.store.outbox import Outbox
from watchdogd.store.verdicts import Verdicts

if TYPE_CHECKING:
    from pathlib import Path

    from tests.store.conftest import HandClock
    from watchdogd.entities import Alert, Delivery
    from watchdogd.telemetry import Counters

MANY = {"journald": 100, "hook": 100}
SINKS = ("journald", "hook")


def new(
    number: int,
    *,
    sinks: tuple[str, ...] = SINKS,
    hold_ms: int = 0,
    triage: bool = False,
    **facts: Any,  # noqa: ANN401
) -> NewAlert:
    time_ms = facts.get("time_ms", 1_000 + number)
    alert = make_alert(
        f"a{number}",
        time_ms=time_ms,
        level=Level.MEDIUM,
        events=(EventId("audit_log", None, time_ms, number),),
        first_seen_ms=time_ms,
        last_seen_ms=time_ms,
    )
    known: dict[str, Any] = {
        "key": "k",
        "rank": alert.level.rank,
        "question": "q",
        "time_ms": time_ms,
        "repeat_ms": 10_000,
        "interval_ms": 300_000,
    }
    stated = Facts(**{**known, **facts})
    return NewAlert(alert, sinks, 0, triage=triage, question=stated.question, facts=stated, hold_ms=hold_ms)


async def states(store: Store) -> dict[str, tuple[str, str | None]]:
    query = "SELECT id, state, leader FROM alerts ORDER BY seq"
    rows = await store.read(lambda connection: connection.execute(query).fetchall())
    return {name: (state, leader) for name, state, leader in rows}


async def find(store: Store, alert_id: str) -> Alert:
    found = await store.find_alert(alert_id)
    assert found is not None
    return found


async def send_all(outbox: Outbox, clock: HandClock) -> list[tuple[Delivery, Alert]]:
    """Everything that is due, marked as taken by its sink."""
    sent = []
    while taken := await outbox.take_due(clock.now_ms(), MANY):
        for delivery, alert in taken:
            await outbox.mark_delivered(delivery)
            sent.append((delivery, alert))
    return sent


async def test_a_repeat_is_kept_and_counted_and_has_no_deliveries(
    store: Store, counters: Counters, clock: HandClock
) -> None:
    written = await store.commit(Batch(alerts=(new(0), new(1), new(2))))
    assert [one.state.value for one in written.values()] == ["active", "folded", "folded"]
    assert await states(store) == {"a0": ("active", None), "a1": ("folded", "a0"), "a2": ("folded", "a0")}
    leader, repeat = await find(store, "a0"), await find(store, "a2")
    assert (leader.count, leader.first_seen_ms, leader.last_seen_ms, len(leader.events)) == (3, 1_000, 1_002, 3)
    assert (repeat.state, repeat.leader, repeat.count) == (AlertState.FOLDED, "a0", 1)
    sent = await send_all(Outbox(store, counters, clock), clock)
    assert {(delivery.kind, alert.id, alert.count) for delivery, alert in sent} == {("alert", "a0", 3)}
    assert len(sent) == len(SINKS)


async def test_what_is_read_again_counts_once_even_after_a_restart(
    path: Path, counters: Counters, clock: HandClock
) -> None:
    store = await Store.open(path, counters, clock)
    await store.commit(Batch(alerts=(new(0), new(1))))
    await store.close()
    store = await Store.open(path, counters, clock)
    assert set(await store.commit(Batch(alerts=(new(0), new(1), new(2))))) == {"a2"}
    assert await store.commit(Batch(alerts=(new(2), new(1), new(0)))) == {}
    assert (await find(store, "a0")).count == 3
    await store.close()


async def test_a_refused_commit_counts_nothing(store: Store) -> None:
    await store.commit(Batch(alerts=(new(0),)))
    broken = replace(new(2), alert=replace(new(2).alert, id=None))
    with pytest.raises(StoreError):
        await store.commit(Batch(alerts=(new(1), broken)))
    assert (await find(store, "a0")).count == 1
    assert await states(store) == {"a0": ("active", None)}


async def test_an_update_follows_once_an_interval(store: Store, counters: Counters, clock: HandClock) -> None:
    outbox = Outbox(store, counters, clock)
    await store.commit(Batch(alerts=(new(0),)))
    await send_all(outbox, clock)
    for number in (1, 2, 3):
        clock.ms += 1_000
        await store.commit(Batch(alerts=(new(number),)))
    assert await send_all(outbox, clock) == []
    clock.ms += 297_000
    sent = await send_all(outbox, clock)
    assert [(delivery.kind, delivery.message_id, alert.count) for delivery, alert in sent] == [
        ("update", "update_a0_1", 4)
    ] * 2
    clock.ms += 1_000_000
    await store.commit(Batch(alerts=(new(4),)))
    assert [delivery.message_id for delivery, _ in await send_all(outbox, clock)] == ["update_a0_2"] * 2
    await store.commit(Batch(alerts=(new(5),)))
    assert await send_all(outbox, clock) == []
    assert await outbox.next_due_ms(clock.now_ms(), MANY) == clock.now_ms() + 300_000


async def test_a_clock_that_is_set_back_delays_no_update_by_more_than_the_interval(
    path: Path, counters: Counters
) -> None:
    clocks = TwoClocks()
    time_ms = clocks.now_ms()
    store = await Store.open(path, counters, clocks)
    outbox = Outbox(store, counters, clocks)
    await store.commit(Batch(alerts=(new(0, sinks=("hook",), time_ms=time_ms),)))
    ((delivery, _),) = await outbox.take_due(clocks.now_ms(), MANY)
    await outbox.mark_delivered(delivery)
    clocks.ms -= 3_600_000
    await store.commit(Batch(alerts=(new(1, sinks=("hook",), time_ms=time_ms + 1),)))
    assert await outbox.next_due_ms(clocks.now_ms(), MANY) == clocks.now_ms() + 300_000
    await store.close()


async def test_a_repeat_while_the_alert_or_its_update_is_being_sent_is_told_later(
    store: Store, counters: Counters, clock: HandClock
) -> None:
    outbox = Outbox(store, counters, clock)
    await store.commit(Batch(alerts=(new(0, sinks=("hook",)),)))
    ((delivery, alert),) = await outbox.take_due(clock.now_ms(), MANY)
    await store.commit(Batch(alerts=(new(1, sinks=("hook",)),)))
    assert alert.count == 1
    await outbox.mark_delivered(delivery)
    clock.ms += 300_000
    ((update, told),) = await outbox.take_due(clock.now_ms(), MANY)
    assert (update.kind, told.count) == ("update", 2)
    await store.commit(Batch(alerts=(new(2, sinks=("hook",)),)))
    await outbox.mark_delivered(update)
    clock.ms += 300_000
    ((again, told),) = await outbox.take_due(clock.now_ms(), MANY)
    assert (again.message_id, told.count) == ("update_a0_2", 3)
    await outbox.mark_failed(again, "503", clock.now_ms() + 5)
    clock.ms += 5
    ((again, _),) = await outbox.take_due(clock.now_ms(), MANY)
    assert (again.message_id, again.attempts) == ("update_a0_2", 1)


async def test_repeats_before_the_first_notification_need_no_update(
    store: Store, counters: Counters, clock: HandClock
) -> None:
    outbox = Outbox(store, counters, clock)
    await store.commit(Batch(alerts=(new(0, hold_ms=30_000),)))
    await Verdicts(store, counters, clock).record([RuledAlert(await find(store, "a0"))])
    assert await send_all(outbox, clock) == []
    await store.commit(Batch(alerts=(new(1, hold_ms=30_000),)))
    clock.ms += 30_000
    assert {(delivery.kind, alert.count) for delivery, alert in await send_all(outbox, clock)} == {("alert", 2)}
    clock.ms += 1_000_000
    assert await send_all(outbox, clock) == []


async def test_a_verdict_keeps_what_repeats_have_told_meanwhile(
    store: Store, counters: Counters, clock: HandClock, verdict: Verdict
) -> None:
    await store.commit(Batch(alerts=(new(0),)))
    read = await find(store, "a0")
    await store.commit(Batch(alerts=(new(1),)))
    await Verdicts(store, counters, clock).record([RuledAlert(replace(read, verdict=verdict))])
    found = await find(store, "a0")
    assert (found.count, found.verdict) == (2, verdict)
    await store.commit(Batch(alerts=(new(2),)))
    found = await find(store, "a0")
    assert (found.count, found.verdict) == (3, verdict)


async def test_a_repeat_that_asks_the_same_is_not_asked_about(store: Store) -> None:
    first, same, other = new(0, triage=True), new(1, triage=True), new(2, triage=True, question="other")
    written = await store.commit(Batch(alerts=(first, same, other)))
    assert {name: one.triage for name, one in written.items()} == {"a0": True, "a1": False, "a2": True}


async def test_a_repeat_whose_own_verdict_is_malicious_is_told_after_all(
    store: Store, counters: Counters, clock: HandClock
) -> None:
    outbox, verdicts = Outbox(store, counters, clock), Verdicts(store, counters, clock)
    await store.commit(Batch(alerts=(new(0, triage=True), new(1, triage=True, question="other"))))
    await send_all(outbox, clock)
    harmless = replace(await find(store, "a1"), verdict=Verdict(label=Label.BENIGN, by="scorer"))
    await verdicts.record([RuledAlert(harmless, sinks=SINKS)])
    assert (await states(store))["a1"] == ("folded", "a0")
    await verdicts.record(
        [RuledAlert(replace(harmless, verdict=Verdict(label=Label.MALICIOUS, by="scorer")), sinks=SINKS)]
    )
    assert (await states(store))["a1"] == ("active", "a0")
    assert {(delivery.kind, alert.id) for delivery, alert in await send_all(outbox, clock)} == {("alert", "a1")}
    assert counters.get("store_promoted_alerts_total") == 1


async def test_a_benign_verdict_does_not_keep_another_question_in_the_journal(
    store: Store, counters: Counters, clock: HandClock
) -> None:
    verdicts = Verdicts(store, counters, clock)
    benign = Verdict(label=Label.BENIGN, by="scorer")
    await store.commit(Batch(alerts=(new(0), new(1, question="other"))))
    await verdicts.record([RuledAlert(replace(await find(store, "a0"), verdict=benign), journald_only=True)])
    sent = await send_all(Outbox(store, counters, clock), clock)
    assert {delivery.sink for delivery, _ in sent} == {"journald", "hook"}
    await store.commit(Batch(alerts=(new(2, key="k2"),)))
    await verdicts.record([RuledAlert(replace(await find(store, "a2"), verdict=benign), journald_only=True)])
    await store.commit(Batch(alerts=(new(3, key="k2"), new(4, key="k2", question="other"))))
    found = await states(store)
    assert (found["a3"], found["a4"]) == (("folded", "a2"), ("active", None))
    sent = await send_all(Outbox(store, counters, clock), clock)
    assert {(delivery.sink, alert.id) for delivery, alert in sent} == {
        ("journald", "a2"),
        ("journald", "a4"),
        ("hook", "a4"),
    }


async def test_an_inhibited_alert_is_kept_and_names_its_source(
    store: Store, counters: Counters, clock: HandClock
) -> None:
    source = new(0, key="chain", inhibits=(Reach("part", 0, 9_999),))
    await store.commit(Batch(alerts=(source, new(1, watched=("part",)), new(2, watched=("other",), key="o"))))
    assert await states(store) == {"a0": ("active", None), "a1": ("inhibited", "a0"), "a2": ("active", None)}
    sent = await send_all(Outbox(store, counters, clock), clock)
    assert {alert.id for _, alert in sent} == {"a0", "a2"}
    assert (await find(store, "a0")).count == 1


async def test_what_a_sink_has_not_heard_of_keeps_nothing_from_it(store: Store) -> None:
    source = new(0, key="chain", sinks=("journald",), inhibits=(Reach("part", 0, 9_999),))
    await store.commit(Batch(alerts=(source, new(1, watched=("part",)), new(2, key="j", watched=("part",), sinks=()))))
    assert await states(store) == {"a0": ("active", None), "a1": ("active", None), "a2": ("inhibited", "a0")}


async def test_a_chain_that_is_kept_in_the_journal_inhibits_nothing(
    store: Store, counters: Counters, clock: HandClock
) -> None:
    await store.commit(Batch(alerts=(new(0, key="chain", inhibits=(Reach("part", 0, 9_999),)),)))
    ruled = replace(await find(store, "a0"), verdict=Verdict(label=Label.BENIGN, by="scorer"))
    await Verdicts(store, counters, clock).record([RuledAlert(ruled, journald_only=True)])
    await store.commit(Batch(alerts=(new(1, watched=("part",)),)))
    assert (await states(store))["a1"] == ("active", None)


async def test_a_silenced_alert_is_kept_and_counts_to_nobody(
    store: Store, counters: Counters, clock: HandClock
) -> None:
    await store.commit(Batch(alerts=(new(0), new(1, silence="s1"))))
    found = await find(store, "a1")
    assert (found.state, found.silence) == (AlertState.SILENCED, "s1")
    assert (await find(store, "a0")).count == 1
    assert {alert.id for _, alert in await send_all(Outbox(store, counters, clock), clock)} == {"a0"}


async def test_groups_that_are_long_over_are_forgotten(store: Store, clock: HandClock) -> None:
    many = tuple(new(number, key=f"k{number}", inhibits=(Reach("x", 0, 5_000),)) for number in range(100))
    await store.commit(Batch(alerts=many))
    clock.ms += KEPT_MS + 100_000
    at_ms = clock.now_ms()
    for number in range(100, 160):
        await store.commit(Batch(alerts=(new(number, key=f"k{number}", time_ms=at_ms),)))
    query = "SELECT (SELECT count(*) FROM groups), (SELECT count(*) FROM inhibitors)"
    assert await store.read(lambda connection: connection.execute(query).fetchone()) == (60, 0)


async def test_where_the_leader_is_gone_the_next_leads(store: Store) -> None:
    await store.commit(Batch(alerts=(new(0),)))

    def remove(connection: Any) -> None:  # noqa: ANN401
        connection.execute("DELETE FROM deliveries")
        connection.execute("DELETE FROM alerts")

    await store.write(remove)
    await store.commit(Batch(alerts=(new(1),)))
    assert await states(store) == {"a1": ("active", None)}


async def test_what_was_told_before_it_was_stored_is_not_sent_again(
    store: Store, counters: Counters, clock: HandClock
) -> None:
    outbox = Outbox(store, counters, clock)
    first, repeat, other = new(0), new(1), new(2, key="k2")
    await store.commit(Batch(alerts=(replace(first, told=("hook",)), replace(repeat, told=("hook",)), other)))
    await store.mark_told({"a2": ("journald",)})
    sent = [(delivery.sink, delivery.kind, alert.id) for delivery, alert in await send_all(outbox, clock)]
    assert sorted(sent) == [("hook", "alert", "a2"), ("journald", "alert", "a0")]
    clock.ms += 300_000
    ((delivery, alert),) = await send_all(outbox, clock)
    assert (delivery.sink, delivery.kind, alert.count) == ("hook", "update", 2)  # it had not the repeat
    await store.mark_told({"a0": ("hook", "journald")})
    assert await send_all(outbox, clock) == []
