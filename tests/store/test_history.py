"""What is asked of the history of alerts, on real files."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING

import msgspec
import pytest
import pytest_asyncio

from tests.store.conftest import MANY
from watchdogd.background import Case
from watchdogd.entities import Alert, AlertState, Label, Level, Process, ProcessKey, Rule, Verdict
from watchdogd.errors import StoreError
from watchdogd.listings import AlertsRequest, Cursor
from watchdogd.store import history as module
from watchdogd.store import search
from watchdogd.store.database import Batch, NewAlert, Store
from watchdogd.store.history import History
from watchdogd.store.outbox import Outbox
from watchdogd.store.verdicts import Verdicts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from watchdogd.listings import AlertsReport
    from watchdogd.ports import Clock
    from watchdogd.telemetry import Counters

    MakeAlert = Callable[..., Alert]


def run_by(user: str | None, uid: int, login: str) -> Process:
    return Process(ProcessKey("", 7, 1), 7, 1, "/bin/cat", "cat", ("cat",), "/", uid, user, 1, login, "1", None)


def names(report: AlertsReport) -> list[str]:
    return [msgspec.json.decode(listed.document, type=Alert).id for listed in report.alerts]


@pytest.fixture
def history(path: Path, counters: Counters, clock: Clock) -> History:
    return History(path, counters, clock, keep_ms=90, max_bytes=1 << 30)


@pytest_asyncio.fixture
async def filled(store: Store, alert: MakeAlert) -> AsyncIterator[Store]:
    """Six alerts, a0 to a5; a2 was folded into a1, a3 inhibited by it, a4 silenced."""
    other = Rule(id="r2", title="Ünusual Shell", level=Level.LOW)
    alerts = (
        alert("aaaa0", time_ms=10, process=run_by("root", 0, "alice")),
        alert("aaaa1", time_ms=20, rule=other, level=Level.LOW, process=run_by(None, 33, "bob")),
        alert("aaaa2", time_ms=30, rule=other, level=Level.LOW, state=AlertState.FOLDED, leader="aaaa1"),
        alert("aaaa3", time_ms=40, state=AlertState.INHIBITED, leader="aaaa1"),
        alert("aaab4", time_ms=50, state=AlertState.SILENCED, silence="s1"),
        alert("aaab5", time_ms=60, verdict=Verdict(label=Label.BENIGN, by="scorer")),
    )
    await store.commit(Batch(alerts=tuple(NewAlert(one, ("journald", "ops"), 0, triage=False) for one in alerts)))
    yield store


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (AlertsRequest(), "aaab5 aaab4 aaaa3 aaaa2 aaaa1 aaaa0"),
        (AlertsRequest(state=AlertState.ACTIVE), "aaab5 aaaa1 aaaa0"),
        (AlertsRequest(state=AlertState.FOLDED), "aaaa2"),
        (AlertsRequest(state=AlertState.INHIBITED), "aaaa3"),
        (AlertsRequest(state=AlertState.SILENCED), "aaab4"),
        (AlertsRequest(rule="R2"), "aaaa2 aaaa1"),
        (AlertsRequest(rule="ünusual shell"), "aaaa2 aaaa1"),
        (AlertsRequest(level=Level.LOW), "aaaa2 aaaa1"),
        (AlertsRequest(verdict=Label.BENIGN), "aaab5"),
        (AlertsRequest(verdict=Label.UNTRIAGED, level=Level.HIGH), "aaab4 aaaa3 aaaa0"),
        (AlertsRequest(user="root"), "aaaa0"),
        (AlertsRequest(user="33"), "aaaa1"),
        (AlertsRequest(user="bob"), "aaaa1"),
        (AlertsRequest(user="' OR 1=1 --"), ""),
        (AlertsRequest(since_ms=20, until_ms=40), "aaaa2 aaaa1"),
        (AlertsRequest(before_id="aaaa2"), "aaaa1 aaaa0"),
        (AlertsRequest(before_id="aaaa2", before=Cursor(20, 2)), "aaaa0"),
        (AlertsRequest(user="alice", state=AlertState.ACTIVE, since_ms=10, until_ms=11), "aaaa0"),
        (AlertsRequest(user="alice", state=AlertState.FOLDED), ""),
        (AlertsRequest(user="alice", level=Level.HIGH), "aaaa0"),
        (AlertsRequest(rule="r2", state=AlertState.ACTIVE), "aaaa1"),
        (AlertsRequest(level=Level.LOW, state=AlertState.ACTIVE), "aaaa1"),
        (AlertsRequest(verdict=Label.BENIGN, state=AlertState.ACTIVE, until_ms=61), "aaab5"),
        (AlertsRequest(rule="Shadow read", verdict=Label.UNTRIAGED, level=Level.HIGH), "aaab4 aaaa3 aaaa0"),
        (AlertsRequest(since_ms=-(1 << 63), until_ms=1 << 62, state=AlertState.SILENCED), "aaab4"),
    ],
)
async def test_alerts_are_found_by(history: History, wanted: AlertsRequest, found: str) -> None:
    report = await history.search(wanted)
    assert names(report) == found.split()
    assert report.next is None


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("stretch", [1, 2, 3, 5])
async def test_a_search_goes_on_from_stretch_to_stretch(
    history: History, monkeypatch: pytest.MonkeyPatch, stretch: int
) -> None:
    monkeypatch.setattr(search, "STRETCH", stretch)
    everything = await history.search(AlertsRequest())
    assert names(everything) == ["aaab5", "aaab4", "aaaa3", "aaaa2", "aaaa1", "aaaa0"]
    assert names(await history.search(AlertsRequest(level=Level.HIGH, user="alice"))) == ["aaaa0"]
    assert names(await history.search(AlertsRequest(level=Level.HIGH, user="bob"))) == []
    assert names(await history.search(AlertsRequest(level=Level.HIGH, state=AlertState.ACTIVE))) == ["aaab5", "aaaa0"]


async def test_a_rule_that_was_given_another_id_is_found_by_its_title(
    history: History, filled: Store, alert: MakeAlert
) -> None:
    again = alert("aaab6", time_ms=70, rule=Rule(id="r9", title="shadow READ", level=Level.HIGH))
    await filled.commit(Batch(alerts=(NewAlert(again, (), 0, triage=False),)))
    found = await history.search(AlertsRequest(rule="Shadow read", state=AlertState.ACTIVE))
    assert names(found) == ["aaab6", "aaab5", "aaaa0"]


@pytest.mark.usefixtures("filled")
async def test_a_page_ends_in_time_though_nothing_was_found_yet(
    path: Path, counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow:
        seconds = 0.0

        def now_ms(self) -> int:
            return 0

        def monotonic_s(self) -> float:
            self.seconds += module.PAGE_S
            return self.seconds

    monkeypatch.setattr(search, "STRETCH", 2)
    history = History(path, counters, Slow(), keep_ms=None, max_bytes=None)
    pages, found = 0, list[str]()
    wanted = AlertsRequest(rule="Shadow read", until_ms=60, state=AlertState.ACTIVE)
    while True:
        page = await history.search(wanted)
        pages, found = pages + 1, [*found, *names(page)]
        if page.next is None:
            break
        wanted = msgspec.structs.replace(wanted, before=page.next)
    assert found == ["aaaa0"]
    assert pages == 2


@pytest.mark.usefixtures("filled")
async def test_pages_follow_one_another_though_alerts_come_between(
    history: History, filled: Store, alert: MakeAlert
) -> None:
    first = await history.search(AlertsRequest(limit=4))
    await filled.commit(Batch(alerts=(NewAlert(alert("new", time_ms=70), (), 0, triage=False),)))
    second = await history.search(AlertsRequest(limit=4, before=first.next))
    assert names(first) + names(second) == ["aaab5", "aaab4", "aaaa3", "aaaa2", "aaaa1", "aaaa0"]
    assert second.next is None


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        (AlertsRequest(rule="Unheard of"), "no alert in the database is of a rule with the id or title 'Unheard of'"),
        (AlertsRequest(before_id="ffff"), "no alert has an id that begins with ffff"),
        (AlertsRequest(before_id="aaaa"), "4 alerts have an id that begins with aaaa: aaaa3, aaaa2, aaaa1, aaaa0$"),
        (AlertsRequest(before_id="aa%"), "at least the first 4 characters"),
    ],
)
async def test_what_is_not_there_is_said(history: History, wanted: AlertsRequest, complaint: str) -> None:
    with pytest.raises(StoreError, match=complaint):
        await history.search(wanted)


async def test_everything_about_one_alert(history: History, filled: Store, counters: Counters, clock: Clock) -> None:
    outbox = Outbox(filled, counters, clock)
    (taken, *_) = await outbox.take_due(clock.now_ms(), MANY)
    await outbox.mark_failed(taken[0], "refused", 2_000_000)
    case = Case(id="aaaa1", label=Label.BENIGN, title="t", level=Level.LOW, note="backup", by="operator", tokens=())
    await Verdicts(filled, counters, clock).keep_opinion(case)
    report = await history.show(" AAAA1 ")
    assert msgspec.json.decode(report.alert.document, type=Alert).id == "aaaa1"
    assert report.alert.state is AlertState.ACTIVE
    assert [(one.sink, one.kind, one.state) for one in report.deliveries] == [
        ("journald", "alert", "pending"),
        ("ops", "alert", "pending"),
    ]
    assert [msgspec.json.decode(one.document, type=Alert).id for one in report.repeats] == ["aaaa3", "aaaa2"]
    assert not report.more_repeats
    assert report.opinion is not None
    assert (report.opinion.label, report.opinion.note) == ("benign", "backup")
    failed = (await history.show(taken[1].id)).deliveries[0]
    assert (failed.attempts, failed.last_error, failed.due_ms) == (1, "refused", 2_000_000)
    part = await history.show("aaaa2")
    assert (part.alert.leader, part.repeats, part.opinion) == ("aaaa1", (), None)


async def test_of_many_repeats_the_newest_are_shown(history: History, filled: Store, alert: MakeAlert) -> None:
    many = [alert(f"bbbb{number:02}", state=AlertState.FOLDED, leader="aaaa0") for number in range(30)]
    await filled.commit(Batch(alerts=tuple(NewAlert(one, (), 0, triage=False) for one in many)))
    report = await history.show("aaaa0")
    assert len(report.repeats) == module.REPEATS
    assert report.more_repeats
    assert msgspec.json.decode(report.repeats[0].document, type=Alert).id == "bbbb29"


@pytest.mark.usefixtures("filled")
async def test_the_summary_counts_without_counting(history: History) -> None:
    summary = await history.summarize()
    assert summary.states == {"active": 3, "folded": 1, "inhibited": 1, "silenced": 1}
    assert (summary.oldest_ms, summary.keep_ms, summary.max_bytes) == (10, 90, 1 << 30)
    assert 0 < summary.used_bytes <= summary.file_bytes
    assert (summary.pruned_age, summary.pruned_size) == (0, 0)


async def test_a_search_waits_for_no_commit_and_no_commit_for_it(
    history: History, filled: Store, path: Path, alert: MakeAlert
) -> None:
    with sqlite3.connect(path, isolation_level=None) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM deliveries")
        assert len((await history.search(AlertsRequest())).alerts) == 6
        writer.execute("ROLLBACK")
    writer.close()
    began, end = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait(connection: sqlite3.Connection) -> int:
        connection.execute("SELECT count(*) FROM listing").fetchone()
        loop.call_soon_threadsafe(began.set)
        asyncio.run_coroutine_threadsafe(end.wait(), loop).result()
        count: int = connection.execute("SELECT count(*) FROM listing").fetchone()[0]
        return count

    async with asyncio.TaskGroup() as group:
        looking = group.create_task(history._look(wait))
        await began.wait()
        assert await filled.commit(Batch(alerts=(NewAlert(alert("new"), (), 0, triage=False),)))
        end.set()
    assert looking.result() == 6  # of the moment when it began


async def test_a_search_that_takes_too_long_is_given_up(
    path: Path, filled: Store, counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Racing:
        seconds = 0.0

        def now_ms(self) -> int:
            return 0

        def monotonic_s(self) -> float:
            self.seconds += module.SEARCH_S
            return self.seconds

    assert filled is not None
    monkeypatch.setattr(module, "_STEPS", 10)
    history = History(path, counters, Racing(), keep_ms=None, max_bytes=None)
    with pytest.raises(StoreError, match="given up after 8 s: ask for less"):
        await history.search(AlertsRequest())
    assert counters.get("store_read_errors_total") == 0


async def test_an_alert_that_cannot_be_read_is_left_out_and_counted(
    history: History, filled: Store, counters: Counters
) -> None:
    await filled.write(lambda connection: connection.execute("UPDATE alerts SET document = '{' WHERE id = 'aaab5'"))
    assert names(await history.search(AlertsRequest(limit=2))) == ["aaab4"]
    assert counters.get("store_unreadable_alerts_total") == 1
    with pytest.raises(StoreError, match="aaab5 cannot be read"):
        await history.show("aaab5")


async def test_where_there_is_no_database_that_is_said(tmp_path: Path, counters: Counters, clock: Clock) -> None:
    history = History(tmp_path / "none.db", counters, clock, keep_ms=None, max_bytes=None)
    with pytest.raises(StoreError, match=r"none\.db: cannot be opened"):
        await history.summarize()
    assert counters.get("store_read_errors_total") == 1
