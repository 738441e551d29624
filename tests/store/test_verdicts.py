"""Verdicts and what they are told: questions that wait, related alerts, cases of the operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from tests.store.conftest import MANY
from watchdogd.background import Case
from watchdogd.entities import Alert, Label, Level, Process, ProcessKey, Verdict
from watchdogd.errors import StoreError
from watchdogd.store.batch import RuledAlert
from watchdogd.store.database import Batch, NewAlert, Store
from watchdogd.store.outbox import Outbox
from watchdogd.store.verdicts import Verdicts

if TYPE_CHECKING:
    from collections.abc import Callable

    from watchdogd.ports import Clock
    from watchdogd.telemetry import Counters

    MakeAlert = Callable[..., Alert]

INIT = Process(ProcessKey("b", 1, 0), 1, 0, "/sbin/init", "init", (), "/", 0, "root", None, None, None, None)
NGINX = replace(INIT, key=ProcessKey("b", 90, 5), pid=90, ppid=1, exe="/usr/sbin/nginx")
SHELL = replace(INIT, key=ProcessKey("b", 99, 9), pid=99, ppid=90, exe="/bin/sh", argv=("sh", "-c", "id"))
LOGIN = replace(SHELL, auid=1000, session="7")


@pytest.fixture
def verdicts(store: Store, counters: Counters, clock: Clock) -> Verdicts:
    return Verdicts(store, counters, clock)


async def put(store: Store, *alerts: Alert, question: str = "q", due_ms: int = 1 << 40) -> None:
    new = [NewAlert(alert, ("journald", "hook"), due_ms, triage=bool(question), question=question) for alert in alerts]
    await store.commit(Batch(alerts=tuple(new)))


async def test_questions_wait_until_their_alerts_have_verdicts(
    store: Store, verdicts: Verdicts, alert: MakeAlert, verdict: Verdict
) -> None:
    await put(store, alert("a"), alert("b"), question="x")
    await put(store, alert("c"), question="y")
    await put(store, alert("d"), question="")
    assert [(name, found.id) for name, found in await verdicts.waiting_questions(9)] == [("x", "a"), ("y", "c")]
    assert [name for name, _ in await verdicts.waiting_questions(1)] == ["x"]
    assert [found.id for found in await verdicts.waiting_alerts("x", 9)] == ["a", "b"]
    assert [found.id for found in await verdicts.waiting_alerts("x", 1)] == ["a"]
    await verdicts.record([RuledAlert(replace(alert("a"), verdict=verdict)), RuledAlert(alert("b"))])
    assert await verdicts.waiting_alerts("x", 9) == []
    assert [name for name, _ in await verdicts.waiting_questions(9)] == ["y"]
    assert await store.find_alert("a") == replace(alert("a"), verdict=verdict)


async def test_a_verdict_releases_routes_and_tells(
    store: Store, verdicts: Verdicts, counters: Counters, clock: Clock, alert: MakeAlert
) -> None:
    outbox = Outbox(store, counters, clock)
    await put(store, alert("a"), alert("b"))
    await put(store, alert("told"), due_ms=0)
    for delivery, _ in await outbox.take_due(clock.now_ms(), MANY):
        await outbox.mark_delivered(delivery)
    ruled = (RuledAlert(alert("a")), RuledAlert(alert("b"), journald_only=True))
    await verdicts.record([*ruled, RuledAlert(alert("told"), verdict_update=True)])
    taken = [delivery for delivery, _ in await outbox.take_due(clock.now_ms(), MANY)]
    assert sorted((one.alert_id, one.sink, one.kind) for one in taken) == [
        ("a", "hook", "alert"),
        ("a", "journald", "alert"),
        ("b", "journald", "alert"),
        ("told", "hook", "verdict"),
        ("told", "journald", "verdict"),
    ]


async def test_an_extra_alert_is_stored_with_the_verdict_or_not_at_all(
    store: Store, verdicts: Verdicts, alert: MakeAlert
) -> None:
    await put(store, alert("a"), alert("b"))
    extra = (NewAlert(alert("extra"), ("journald",), 0, triage=False),)
    with pytest.raises(StoreError):
        await verdicts.record([RuledAlert(alert("a"), extra=extra), RuledAlert(alert("not there"))])
    assert await store.find_alert("extra") is None
    assert len(await verdicts.waiting_alerts("q", 9)) == 2
    ruled = [RuledAlert(alert(name), extra=extra) for name in "ab"]
    assert await verdicts.record(ruled) == {"extra"}  # two alerts of one event give rise to one
    assert await store.find_alert("extra") == alert("extra")


async def test_related_are_earlier_alerts_of_the_same_login_session(
    store: Store, verdicts: Verdicts, alert: MakeAlert, verdict: Verdict
) -> None:
    mine = alert("mine", process=LOGIN, time_ms=1_000)
    others = {
        "same": replace(LOGIN, pid=5, argv=("x" * 600,)),
        "other session": replace(LOGIN, session="8"),
        "other login": replace(LOGIN, auid=1001),
        "other boot": replace(LOGIN, key=ProcessKey("c", 99, 9)),
        "nobody": None,
    }
    for name, process in others.items():
        await put(store, alert(name, process=process, time_ms=900, verdict=verdict, level=Level.LOW))
    await put(store, alert("elsewhere", process=LOGIN, time_ms=900, host="other"))
    await put(store, alert("later", process=LOGIN, time_ms=1_001), alert("long ago", process=LOGIN, time_ms=399), mine)
    (found,) = await verdicts.related(mine, 600, 9)
    assert (found.id, found.time_ms, found.title, found.level) == ("same", 900, "Shadow read", Level.LOW)
    assert found.label is Label.SUSPICIOUS
    assert len(found.command) == 512
    assert await verdicts.related(alert("x"), 600, 9) == ()


async def test_without_a_login_they_are_of_the_same_tree_below_init(
    store: Store, verdicts: Verdicts, alert: MakeAlert
) -> None:
    below = alert("mine", process=SHELL, lineage=(NGINX, INIT), time_ms=9)
    sibling = replace(SHELL, key=ProcessKey("b", 98, 8), pid=98)
    for number in range(5):
        await put(store, alert(f"nginx {number}", process=sibling, lineage=(NGINX, INIT), time_ms=number))
    await put(store, alert("cron", process=sibling, lineage=(INIT,), time_ms=5), alert("init", process=INIT, time_ms=5))
    assert [one.id for one in await verdicts.related(below, 100, 3)] == ["nginx 2", "nginx 3", "nginx 4"]
    assert await verdicts.related(alert("x", process=INIT, time_ms=9), 100, 3) == ()


async def test_the_operators_verdicts_are_kept_newest_first(
    store: Store, verdicts: Verdicts, clock: Clock, alert: MakeAlert
) -> None:
    await put(store, alert("a"), alert("b"))
    case = Case("a", Label.BENIGN, "Shadow read", Level.HIGH, ("exe:cat",), {"exe": "/bin/cat"}, "operator", "\udc80")
    other = replace(case, id="b", label=Label.MALICIOUS, note="")
    await verdicts.keep_opinion(replace(case, note="x"), ("scorer", b"1"))
    clock.ms += 1  # type: ignore[attr-defined]
    await verdicts.keep_opinion(other, ("scorer", b"\x002"))
    assert [one.id for one in await verdicts.load_cases()] == ["b", "a"]
    assert await verdicts.load_cases(1) == (other,)
    assert await verdicts.count_opinions() == {"benign": 1, "malicious": 1}
    assert await verdicts.find_opinion("a") is Label.BENIGN
    assert await verdicts.find_opinion("z") is None
    assert await verdicts.load_lesson("scorer") == b"\x002"
    assert await verdicts.load_lesson("other") is None
    await store.write(lambda connection: connection.execute("UPDATE opinions SET document = '{' WHERE alert_id = 'b'"))
    assert [one.id for one in await verdicts.load_cases()] == ["a"]
