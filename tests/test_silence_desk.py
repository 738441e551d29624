"""The operator's silences: what is refused, what is in force, and that their end is told. On a real database."""

from __future__ import annotations

import asyncio
import os
from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import pytest_asyncio

from tests.store.conftest import HandClock, make_alert
from watchdogd import silence_desk
from watchdogd.control import Peer
from watchdogd.entities import DAY_MS, AlertState, Level, Process, ProcessKey, Rule
from watchdogd.errors import StoreError, WatchdogdError
from watchdogd.listings import EndSilenceRequest, SilenceRequest, SilencesRequest
from watchdogd.silence_desk import SilenceDesk, describe_peer, is_narrow
from watchdogd.silences import parse_matcher
from watchdogd.store.database import Batch, NewAlert, Store
from watchdogd.store.history import History
from watchdogd.store.silences import KEPT
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NOW_MS = 1_795_000_000_000
PEER = Peer(os.getpid(), 4711)
NAMES = {0: "root", 4711: "ann", 1000: "alice"}


class Office:
    def __init__(self, path: Path, clock: HandClock) -> None:
        self.path = path
        self.clock = clock
        self.counters = Counters()

    async def open(self) -> None:
        self.store = await Store.open(self.path, self.counters, self.clock)
        history = History(self.path, self.counters, self.clock, keep_ms=None, max_bytes=None)
        ids = count(1)
        self.desk = SilenceDesk(self.store, history, self.clock, lambda: f"{next(ids):08x}", NAMES.get)
        await self.desk.restore()

    async def put(self, *alerts: Any) -> None:  # noqa: ANN401 - alerts
        await self.store.commit(Batch(alerts=tuple(NewAlert(alert, (), 0, triage=False) for alert in alerts)))


@pytest_asyncio.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    clock = HandClock()
    clock.ms = NOW_MS
    opened = Office(tmp_path / "watchdogd.db", clock)
    await opened.open()
    yield opened
    await opened.store.close()


def wanted(**changes: Any) -> SilenceRequest:  # noqa: ANN401 - any part of it
    given = {"until_ms": NOW_MS + 3_600_000, "reason": "an exercise", "rules": ("Shadow read",)}
    return SilenceRequest(**{**given, **changes})


async def test_a_silence_is_in_force_from_then_on_and_says_what_it_would_have_muted(office: Office) -> None:
    other = Rule(id="r2", title="Other", level=Level.LOW)
    await office.put(
        make_alert("a", time_ms=NOW_MS - 5),
        make_alert("b", time_ms=NOW_MS - 4, rule=other, level=Level.LOW),
        make_alert("c", time_ms=NOW_MS - 3),
        make_alert("old", time_ms=NOW_MS - DAY_MS - 1),
    )
    made = await office.desk.add(wanted(rules=("SHADOW read",), reason="  an\nexercise "), PEER)
    assert (made.looked_at, made.complete, made.covered, made.titles) == (3, True, 2, {"Shadow read": 2})
    assert made.notes == ()
    assert (made.silence.id, made.silence.author, made.silence.reason) == ("00000001", "ann", "an exercise")
    assert made.silence.matchers == ('rule="Shadow read"',)
    assert office.desk.find(make_alert("d")) == "00000001"
    assert office.desk.find(make_alert("d", rule=other)) is None
    office.clock.ms = NOW_MS + 3_600_000
    assert office.desk.find(make_alert("d")) is None


async def test_several_rules_and_everything_else_must_hold_together(office: Office) -> None:
    await office.put(make_alert("a", rule=Rule(id="r3", title="A (dangerous) b.c", level=Level.LOW)))
    matchers = ('user="alice"', 'level="high"')
    made = await office.desk.add(wanted(rules=("a (DANGEROUS) b.c", "Shadow read"), matchers=matchers), PEER)
    assert made.notes == ("no alert so far is of a rule with the id or title 'Shadow read': is it spelled like this?",)
    process = Process(ProcessKey("", 7, 1), 7, 1, "/b", "b", (), None, 0, "root", 1000, "alice", "1", None)
    assert office.desk.find(make_alert("d", process=process))
    assert office.desk.find(make_alert("d", process=process, rule=Rule("x", "A (dangerous) b.c", Level.HIGH)))
    assert not office.desk.find(make_alert("d", process=process, rule=Rule("x", "A (dangerous) bXc", Level.HIGH)))
    assert not office.desk.find(make_alert("d", process=process, level=Level.LOW))
    assert not office.desk.find(make_alert("d"))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"reason": " \n"}, "needs a reason"),
        ({"reason": "x" * 501}, "500 characters at most"),
        ({"until_ms": NOW_MS}, "must end in the future"),
        ({"until_ms": NOW_MS + 367 * DAY_MS}, "a year at most"),
        ({"rules": ()}, "at least one matcher is needed"),
        ({"rules": ("  ",)}, "named by its id or title"),
        ({"rules": tuple(map(str, range(101)))}, "more than 100 rules"),
        ({"rules": (), "matchers": ("nonsense",)}, "not a matcher"),
        ({"rules": (), "matchers": ('colour="red"',)}, "no label"),
        ({"rules": (), "matchers": ('user=~"("',)}, "not a regular expression"),
        ({"rules": (), "matchers": ('rule=~".*"',)}, "would silence every alert"),
        ({"rules": (), "matchers": ('user!="bob"', 'rule=~".+"')}, "would silence every alert"),
        ({"rules": (), "matchers": ('user=""',)}, "would silence every alert"),
    ],
)
async def test_what_is_refused(office: Office, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(WatchdogdError, match=complaint):
        await office.desk.add(wanted(**changes), PEER)
    assert (await office.desk.list_silences(SilencesRequest(ended=True))).silences == ()


async def test_every_alert_only_where_that_is_said(office: Office) -> None:
    made = await office.desk.add(wanted(rules=(), all_rules=True), PEER)
    assert made.silence.matchers == ('rule=~"(?s).*"',)
    assert office.desk.find(make_alert("a"))


async def test_they_outlive_a_restart_and_are_counted(office: Office) -> None:
    made = await office.desk.add(wanted(), PEER)
    await office.put(make_alert("a", state=AlertState.SILENCED, silence=made.silence.id))
    await office.store.close()
    await office.open()
    assert office.desk.find(make_alert("d")) == made.silence.id
    (found,) = (await office.desk.list_silences(SilencesRequest())).silences
    assert (found.muted, found.ended, found.until_ms) == (1, False, NOW_MS + 3_600_000)
    said = await office.desk.describe(found.id)
    assert said == '00000001: an exercise (by ann; rule="Shadow read")'
    assert await office.desk.describe("unknown") == "unknown"


async def test_ending_one_is_told(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    await office.desk.add(wanted(), PEER)
    second = (await office.desk.add(wanted(reason="two"), PEER)).silence
    await office.put(make_alert("a", state=AlertState.SILENCED, silence=second.id))
    for silence_id, complaint in {"": "no silence has", "0000": "2 silences have", "zz": "no silence has"}.items():
        with pytest.raises(WatchdogdError, match=complaint):
            await office.desk.end(EndSilenceRequest(silence_id), PEER)
    office.clock.ms += 5
    ended = await office.desk.end(EndSilenceRequest(" 00000002"), PEER)
    assert (ended.ended, ended.until_ms, ended.muted) == (True, NOW_MS + 5, 1)
    assert "silence 00000002 was ended by ann: it muted 1 alerts (two)" in caplog.text
    assert office.desk.find(make_alert("d")) == "00000001"
    with pytest.raises(WatchdogdError, match="has ended already"):
        await office.desk.end(EndSilenceRequest("00000002"), PEER)
    assert [one.id for one in (await office.desk.list_silences(SilencesRequest())).silences] == ["00000001"]
    both = (await office.desk.list_silences(SilencesRequest(ended=True))).silences
    assert {one.id: one.ended for one in both} == {"00000001": False, "00000002": True}


async def test_the_end_of_its_time_is_told(
    office: Office, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence_desk, "LOOK_EVERY_S", 0.01)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(office.desk.run())
        await office.desk.add(wanted(), PEER)
        office.clock.ms += 3_600_000
        while "silence 00000001 is over: it muted 0 alerts (an exercise)" not in caplog.text:  # noqa: ASYNC110 - a log record sets no event
            await asyncio.sleep(0.01)
        running.cancel()
    assert office.desk.current == ()


async def test_one_that_cannot_be_read_silences_nothing(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    await office.desk.add(wanted(), PEER)
    await office.store.write(lambda connection: connection.execute("UPDATE silences SET matchers = '[{'"))
    await office.desk.restore()
    assert office.desk.current == ()
    assert "silence 00000001 cannot be read, and silences nothing" in caplog.text


async def test_the_database_that_refuses_is_told_to_who_asks(office: Office) -> None:
    await office.store.write(lambda connection: connection.execute("DROP TABLE silences"))
    with pytest.raises(StoreError, match="no such table"):
        await office.desk.add(wanted(), PEER)
    assert office.desk.current == ()


async def test_of_those_that_ended_the_oldest_make_room(office: Office) -> None:
    def fill(connection: Any) -> None:  # noqa: ANN401 - sqlite3's
        rows = [(f"e{number:05}", "[]", 1, 1, number, "r", "a", None) for number in range(KEPT + 5)]
        connection.executemany("INSERT INTO silences VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        connection.execute("INSERT INTO tallies VALUES ('silence.e00000', 3), ('silence.e00900', 4)")

    await office.store.write(fill)
    await office.desk.add(wanted(), PEER)
    query = "SELECT count(*), min(id) FROM silences WHERE id GLOB 'e*'"
    assert await office.store.read(lambda connection: connection.execute(query).fetchone()) == (KEPT, "e00005")
    query = "SELECT name FROM tallies WHERE name GLOB 'silence.*'"
    assert await office.store.read(lambda connection: connection.execute(query).fetchall()) == [("silence.e00900",)]


def test_who_asks_is_named_by_login_too(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    loginuid = tmp_path / "7" / "loginuid"
    for text, said in {
        "1000": "root (login alice)",
        "5": "root (login uid 5)",
        "4294967295": "root",
        "0": "root",
    }.items():
        loginuid.write_text(text)
        assert describe_peer(Peer(7, 0), NAMES.get, tmp_path) == said
    assert describe_peer(Peer(8, 12), NAMES.get, tmp_path) == "uid 12"


@pytest.mark.parametrize(
    ("text", "narrow"),
    [
        ('user="bob"', True),
        ('executable=~"/opt/.*"', True),
        ('rule=~"A|B"', True),
        ('user!="bob"', False),
        ('user!~"b.*"', False),
        ('rule=~".*"', False),
        ('rule=~"(?s:.*)|x"', False),
        ('user=""', False),
    ],
)
def test_what_says_what_an_alert_must_have(text: str, *, narrow: bool) -> None:
    assert is_narrow(parse_matcher(text)) is narrow


def test_a_request_is_strict() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"until_ms": 1, "reason": "x", "rule": "y"}', type=SilenceRequest)
