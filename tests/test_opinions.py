"""The operator's verdicts: found by a prefix, kept over a restart, learnt from, used for the next question."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import msgspec
import pytest
import pytest_asyncio

from tests.triage.conftest import make_alert, make_process
from watchdogd.cli import verdict as command
from watchdogd.cli.main import main
from watchdogd.config import TriageSettings
from watchdogd.control import ControlServer, Takes
from watchdogd.entities import Label, Verdict
from watchdogd.errors import WatchdogdError
from watchdogd.gathering import Gatherer
from watchdogd.opinions import Opinions
from watchdogd.ports import SystemClock
from watchdogd.reports import OpinionReport, OpinionRequest
from watchdogd.routes import Routes
from watchdogd.store.database import Batch, NewAlert, Store
from watchdogd.store.verdicts import Verdicts
from watchdogd.telemetry import Counters
from watchdogd.triage.features import fingerprint, tokens_of
from watchdogd.triage.scorer import Scorer
from watchdogd.triage_desk import TriageDesk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from watchdogd.background import Background, Case
    from watchdogd.entities import Alert

FIRST, SECOND = "abcd1" + "0" * 59, "abcd2" + "0" * 59


class Pupil:
    """Learns by heart."""

    def __init__(self) -> None:
        self.learnt: list[tuple[str, str]] = []

    def learn(self, alert: Alert, background: Background, label: Label) -> None:  # noqa: ARG002 - as the scorer has it
        self.learnt.append((alert.id, label.value))

    def changes(self) -> bytes:
        return msgspec.json.encode(self.learnt)

    def restore(self, lesson: bytes) -> bool:
        self.learnt = msgspec.json.decode(lesson, type=list[tuple[str, str]])
        return True


class Office:
    """Everything that takes a verdict, over one database."""

    def __init__(self, store: Store) -> None:
        counters, clock = Counters(), SystemClock()
        self.store = store
        self.verdicts = Verdicts(store, counters, clock)
        self.gatherer = Gatherer(self.verdicts, lambda _: None, lambda _, cases: tuple(cases), "host")
        routes = Routes(())
        gather = self.gatherer.gather
        settings = TriageSettings()
        self.desk = TriageDesk(None, settings, routes, self.verdicts, gather, fingerprint, counters, clock)
        self.pupil = Pupil()
        self.opinions = Opinions(self.verdicts, self.gatherer, self.desk, tokens_of, self.pupil)

    async def say(self, alert_id: str, label: Label, note: str = "") -> OpinionReport:
        return await self.opinions.take(OpinionRequest(alert_id, label, note))

    async def gather_cases(self) -> tuple[Case, ...]:
        return (await self.gatherer.gather(make_alert())).cases


@pytest_asyncio.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    store = await Store.open(tmp_path / "watchdogd.db", Counters(), SystemClock())
    secret = make_process("/usr/bin/mysql", "mysql", "--password=hunter2", "-e", "\x1b[2Jselect")
    alerts = (make_alert(id=FIRST, process=secret), make_alert(id=SECOND))
    await store.commit(Batch(alerts=tuple(NewAlert(alert, (), 0, triage=False) for alert in alerts)))
    office = Office(store)
    yield office
    office.gatherer.close()
    await store.close()


async def test_a_verdict_is_kept_as_a_case_without_secrets(office: Office) -> None:
    report = await office.say("ABCD1", Label.BENIGN, "the nightly job, token=abcdef123456")
    assert report == OpinionReport(FIRST, "Password hashes read", Label.BENIGN, None, Label.UNTRIAGED, {"benign": 1})
    (case,) = await office.gather_cases()
    assert (case.id, case.label, case.by) == (FIRST, Label.BENIGN, "operator")
    assert case.tokens == tokens_of((await office.verdicts.find(FIRST, 1))[0])
    assert case.document["exe"] == "/usr/bin/mysql"
    assert "hunter2" not in str(case)
    assert "abcdef123456" not in str(case)
    assert "\x1b" not in str(case)
    assert office.desk.report().opinions == {"benign": 1}


async def test_the_last_verdict_on_an_alert_counts_and_each_is_learnt_once(office: Office) -> None:
    await office.say(FIRST, Label.BENIGN)
    await office.say(FIRST, Label.BENIGN)
    report = await office.say(FIRST, Label.MALICIOUS)
    assert (report.before, report.opinions) == (Label.BENIGN, {"malicious": 1})
    assert office.pupil.learnt == [(FIRST, "benign"), (FIRST, "malicious")]
    assert [case.label for case in await office.gather_cases()] == [Label.MALICIOUS]


async def test_verdicts_and_what_was_learnt_survive_a_restart(office: Office) -> None:
    await office.say(FIRST, Label.BENIGN)
    await office.say(SECOND, Label.MALICIOUS)
    again = Office(office.store)
    await again.opinions.restore()
    assert again.pupil.learnt == [(FIRST, "benign"), (SECOND, "malicious")]
    assert again.desk.opinions == {"benign": 1, "malicious": 1}
    assert {case.id for case in await again.gather_cases()} == {FIRST, SECOND}
    again.gatherer.close()


@pytest.mark.parametrize(
    ("alert_id", "complaint"),
    [
        ("abcd", r"several alerts have .* abcd2\S* \(Password hashes read\), abcd1"),
        ("ffff", "no alert has an id that begins with ffff"),
        ("%%%%", "no alert has"),
        ("abc", "at least the first 4"),
    ],
)
async def test_an_alert_must_be_named_by_its_own_prefix(office: Office, alert_id: str, complaint: str) -> None:
    with pytest.raises(WatchdogdError, match=complaint):
        await office.say(alert_id, Label.BENIGN)
    assert await office.gather_cases() == ()


async def test_untriaged_is_no_verdict(office: Office) -> None:
    with pytest.raises(WatchdogdError, match="malicious, suspicious or benign"):
        await office.say(FIRST, Label.UNTRIAGED)


async def test_kept_verdicts_are_forgotten(office: Office) -> None:
    office.desk.cache.keep("name", Verdict(label=Label.BENIGN, by="model"))
    await office.say(FIRST, Label.MALICIOUS)
    assert office.desk.cache.find("name") is None


async def test_the_command_asks_the_daemon(office: Office, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "control.sock")
    async with asyncio.TaskGroup() as group:
        handlers = {"verdict": Takes(OpinionRequest, office.opinions.take)}
        server = ControlServer(tmp_path / "control.sock", handlers, Counters(), group.create_task)
        await server.open()
        said = ["verdict", "abcd1", "malicious", "--note", "seen it", "--socket", path]
        assert await asyncio.to_thread(main, said) == 0
        assert "abcd100000000000 Password hashes read: malicious (not triaged)" in capsys.readouterr().out
        assert await asyncio.to_thread(main, [*said, "--format", "json"]) == 0
        assert json.loads(capsys.readouterr().out)["before"] == "malicious"
        assert await asyncio.to_thread(main, ["verdict", "abcd", "benign", "--socket", path]) == 2
        assert "several alerts" in capsys.readouterr().err
        server.close()
    (case,) = await office.gather_cases()
    assert case.note == "seen it"


def test_labels_are_all_but_untriaged() -> None:
    assert set(command.LABELS) == {label.value for label in Label} - {"untriaged"}


async def test_the_real_scorer_learns(office: Office) -> None:
    scorer = Scorer()
    opinions = Opinions(office.verdicts, office.gatherer, office.desk, tokens_of, scorer)
    (alert,) = await office.verdicts.find(FIRST, 1)
    before = scorer.score(alert).probability
    await opinions.take(OpinionRequest(FIRST, Label.MALICIOUS))
    after = scorer.score(alert).probability
    assert after > before
    again = Scorer()
    await Opinions(office.verdicts, office.gatherer, office.desk, tokens_of, again).restore()
    assert again.score(alert).probability == after
