"""A verdict says who hears of an alert: deliveries are added and called off with it, in one transaction."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from msgspec.structs import replace

from tests.store.conftest import MANY, make_alert
from tests.store.test_groups import find, new, states
from watchdogd.entities import Label, Verdict
from watchdogd.store.batch import Batch, NewAlert, RuledAlert
from watchdogd.store.outbox import Outbox
from watchdogd.store.verdicts import Verdicts

if TYPE_CHECKING:
    from tests.store.conftest import HandClock
    from watchdogd.store.database import Store
    from watchdogd.telemetry import Counters

LATER = 1 << 40
MALICIOUS = Verdict(label=Label.MALICIOUS, by="fusion")
SUSPICIOUS = Verdict(label=Label.SUSPICIOUS, by="fusion")
BENIGN = Verdict(label=Label.BENIGN, by="fusion")


@pytest.fixture
def outbox(store: Store, counters: Counters, clock: HandClock) -> Outbox:
    return Outbox(store, counters, clock)


@pytest.fixture
def verdicts(store: Store, counters: Counters, clock: HandClock) -> Verdicts:
    return Verdicts(store, counters, clock)


async def rule(store: Store, verdicts: Verdicts, alert_id: str, verdict: Verdict, *sinks: str, refused: str) -> None:
    alert = replace(await find(store, alert_id), verdict=verdict)
    await verdicts.record([RuledAlert(alert, verdict_update=True, sinks=sinks, refused=(refused,))])


async def take(outbox: Outbox, clock: HandClock) -> set[tuple[str, str, str]]:
    """What is due now: alert, sink and kind; delivered with that."""
    taken = set()
    while due := await outbox.take_due(clock.now_ms(), MANY):
        for delivery, _ in due:
            await outbox.mark_delivered(delivery)
            taken.add((delivery.alert_id, delivery.sink, delivery.kind))
    return taken


async def put(store: Store, *sinks: str, due_ms: int = LATER) -> None:
    await store.commit(Batch(alerts=(NewAlert(make_alert("a"), sinks, due_ms, triage=True, question="q"),)))


async def test_a_verdict_in_time_changes_who_is_told(
    store: Store, verdicts: Verdicts, outbox: Outbox, clock: HandClock
) -> None:
    await put(store, "journald", "hook")
    for _ in range(2):  # the same again changes nothing
        await rule(store, verdicts, "a", MALICIOUS, "journald", "mail", refused="hook")
    assert await take(outbox, clock) == {("a", "journald", "alert"), ("a", "mail", "alert")}
    await rule(store, verdicts, "a", MALICIOUS, "journald", "mail", refused="hook")
    assert {kind for _, _, kind in await take(outbox, clock)} == {"verdict"}
    assert await take(outbox, clock) == set()


async def test_a_late_verdict_brings_the_alert_to_those_who_want_it(
    store: Store, verdicts: Verdicts, outbox: Outbox, clock: HandClock
) -> None:
    await put(store, "journald", "hook", due_ms=0)
    assert await take(outbox, clock) == {("a", "journald", "alert"), ("a", "hook", "alert")}
    await rule(store, verdicts, "a", MALICIOUS, "journald", "mail", refused="hook")
    assert await take(outbox, clock) == {
        ("a", "journald", "verdict"),
        ("a", "hook", "verdict"),  # who has the alert hears what it was
        ("a", "mail", "alert"),
    }


async def test_what_was_tried_is_not_called_off(
    store: Store, verdicts: Verdicts, outbox: Outbox, clock: HandClock
) -> None:
    await put(store, "hook", due_ms=0)
    ((delivery, _),) = await outbox.take_due(clock.now_ms(), MANY)
    await rule(store, verdicts, "a", BENIGN, refused="hook")  # while it is being sent
    await outbox.mark_failed(delivery, "busy", clock.now_ms() + 1)
    clock.ms += 1
    await rule(store, verdicts, "a", BENIGN, refused="hook")
    assert ("a", "hook", "alert") in await take(outbox, clock)


async def test_another_verdict_brings_back_what_was_called_off(
    store: Store, verdicts: Verdicts, outbox: Outbox, clock: HandClock
) -> None:
    await put(store, "hook")
    await rule(store, verdicts, "a", BENIGN, refused="hook")
    assert await take(outbox, clock) == set()
    await rule(store, verdicts, "a", MALICIOUS, "hook", refused="")
    assert await take(outbox, clock) == {("a", "hook", "alert")}


async def test_an_added_receiver_waits_for_repeats_as_the_others_do(
    store: Store, verdicts: Verdicts, outbox: Outbox, clock: HandClock
) -> None:
    await store.commit(Batch(alerts=(new(0, sinks=("journald",), hold_ms=5_000, triage=True),)))
    await rule(store, verdicts, "a0", MALICIOUS, "journald", "mail", refused="")
    assert await take(outbox, clock) == set()
    clock.ms += 5_000
    assert await take(outbox, clock) == {("a0", "journald", "alert"), ("a0", "mail", "alert")}


async def test_a_repeat_is_told_to_who_wants_its_verdict_and_has_not_what_it_repeats(
    store: Store, verdicts: Verdicts, outbox: Outbox, clock: HandClock, counters: Counters
) -> None:
    leader, *repeats = (new(0, triage=True), new(1, triage=True, question="b"), new(2, triage=True, question="c"))
    await store.commit(Batch(alerts=(leader, *repeats)))
    await rule(store, verdicts, "a1", SUSPICIOUS, "journald", "hook", "mail", refused="")
    await rule(store, verdicts, "a2", BENIGN, "journald", "hook", refused="mail")
    assert await states(store) == {"a0": ("active", None), "a1": ("active", "a0"), "a2": ("folded", "a0")}
    assert counters.get("store_promoted_alerts_total") == 1
    assert await take(outbox, clock) == {
        ("a1", "mail", "alert"),
        ("a0", "journald", "alert"),
        ("a0", "hook", "alert"),
    }


async def test_an_alert_that_stands_for_another_question_is_not_called_off(
    store: Store, verdicts: Verdicts, outbox: Outbox, clock: HandClock
) -> None:
    await store.commit(Batch(alerts=(new(0, triage=True), new(1, triage=True, question="other"))))
    await rule(store, verdicts, "a1", SUSPICIOUS, "journald", "hook", refused="")  # the hook has it by way of a0
    await rule(store, verdicts, "a0", BENIGN, "journald", refused="hook")
    assert await take(outbox, clock) == {("a0", "journald", "alert"), ("a0", "hook", "alert")}


async def test_what_was_called_off_stands_for_no_other_question(store: Store, verdicts: Verdicts) -> None:
    await store.commit(Batch(alerts=(new(0, triage=True),)))
    await rule(store, verdicts, "a0", BENIGN, "journald", refused="hook")
    await store.commit(Batch(alerts=(new(1), new(2, question="other"))))
    found = await states(store)
    assert (found["a1"], found["a2"]) == (("folded", "a0"), ("active", None))


@pytest.mark.slow
def test_killed_at_any_moment_a_verdict_is_there_with_its_deliveries_or_not_at_all(path: Path) -> None:
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    sample = msgspec.json.encode(make_alert("sample")).decode()
    command = [sys.executable, str(Path(__file__).with_name("ruler.py")), str(path), sample]
    done = pending = 0
    for _ in range(10):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0, 0.05))
            child.kill()
        connection = sqlite3.connect(path)
        rows = connection.execute(
            "SELECT triage_state, group_concat(sink || ' ' || d.state, ', ' ORDER BY sink) FROM alerts "
            "JOIN deliveries AS d ON d.alert_id = alerts.id GROUP BY alerts.id"
            if sqlite3.sqlite_version_info >= (3, 44)
            else "SELECT triage_state, group_concat(said, ', ') FROM (SELECT alerts.id, triage_state, "
            "sink || ' ' || d.state AS said FROM alerts JOIN deliveries AS d ON d.alert_id = alerts.id "
            "ORDER BY alerts.id, sink) GROUP BY id"
        ).fetchall()
        connection.close()
        assert set(rows) <= {
            ("pending", "hook pending, journald pending"),
            ("done", "hook routed, journald pending, mail pending"),
        }, f"seed {seed}"
        before, pending = pending, [state for state, _ in rows].count("pending")
        assert pending <= before + 1, "each kill leaves one at most"
        assert len(rows) >= done
        done = len(rows)
    assert done > 0
