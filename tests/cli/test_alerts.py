"""`watchdogd alerts` and `status` against a real daemon, and what hostile text does to a terminal: nothing."""

from __future__ import annotations

import json
import re
import sqlite3
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.daemon import IMPLANT, RULE_ID, Daemon, make_exec_lines, wait_until
from tests.store.conftest import make_alert
from watchdogd.cli import alerts_list, alerts_show, display
from watchdogd.cli.alerts_show import list_rows, show_report
from watchdogd.cli.main import main
from watchdogd.entities import AlertState, Label, Level, Process, ProcessKey, Verdict
from watchdogd.listings import (
    AlertReport,
    AlertsReport,
    AlertsRequest,
    Cursor,
    DeliveryReport,
    ListedAlert,
    OpinionGiven,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from watchdogd.entities import Alert

EVIL = "\x1b[2J\nevil\u202e"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One that has stored three alerts."""
    with Daemon(tmp_path_factory.mktemp("daemon")) as running:
        running.append(b"")
        running.start("--from-start")
        for serial in (1, 2, 3):
            running.append(make_exec_lines(serial, pid=4_200_000 + serial))
        wait_until(lambda: count_alerts(running) == 3, running)
        yield running


def count_alerts(daemon: Daemon) -> int:
    connection = sqlite3.connect(daemon.database)
    try:
        (count,) = connection.execute("SELECT count(*) FROM alerts").fetchone()
    finally:
        connection.close()
    return int(count)


def run(daemon: Daemon, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main([*arguments, "--socket", str(daemon.control)])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_the_list_is_aligned_and_pages(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(daemon, capsys, "alerts", "list", "--state", "all")
    assert (status, err) == (0, "3 alerts\n")
    head, *lines = out.splitlines()
    assert len(lines) == 3
    at = head.index("ID")
    ids = [line[at : at + 16] for line in lines]
    assert all(re.fullmatch("[0-9a-f]{16}", found) for found in ids)
    assert all(line[head.index("RULE") :].startswith("Implant started  ") for line in lines)
    status, out, err = run(daemon, capsys, "alerts", "list", "--state", "all", "--limit", "2")
    assert err == f"2 alerts; older ones: --before {ids[1]}\n"
    status, out, err = run(daemon, capsys, "alerts", "list", "--state", "all", "--before", ids[1])
    assert (err, out.splitlines()[1][at : at + 16]) == ("1 alert\n", ids[2])


def test_json_is_the_contracts_document(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(daemon, capsys, "alerts", "list", "--state", "all", "--format", "json", "--level", "high")
    documents = [json.loads(line) for line in out.splitlines()]
    assert (status, len(documents)) == (0, 3)
    assert documents[0]["process"]["executable"] == IMPLANT
    assert documents[0]["watchdogd"]["state"] in list(AlertState)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (("--rule", RULE_ID), 3),
        (("--rule", "implant STARTED"), 3),
        (("--level", "low"), 0),
        (("--verdict", "untriaged"), 3),
        (("--user", "1001"), 3),
        (("--user", "nobody-knows"), 0),
        (("--since", "1h"), 3),
        (("--until", "1h"), 0),
        (("--state", "silenced"), 0),
    ],
)
def test_filters(daemon: Daemon, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], count: int) -> None:
    state = () if "--state" in options else ("--state", "all")
    status, _, err = run(daemon, capsys, "alerts", "list", *state, *options)
    assert (status, err) == (0, f"{count} alerts\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list", "--rule", "No Such"), "no alert in the database is of a rule with the id or title 'No Such'"),
        (("list", "--since", "yesterday"), "--since yesterday: must be a duration"),
        (("list", "--before", "zzzz"), "no alert has an id that begins with zzzz"),
        (("show", "zzzz"), "no alert has an id that begins with zzzz"),
        (("show", "z"), "at least the first 4 characters"),
    ],
)
def test_what_is_wrong_is_said(
    daemon: Daemon, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    status, out, err = run(daemon, capsys, "alerts", *arguments)
    assert (status, out) == (2, "")
    assert said in err


@pytest.mark.parametrize("arguments", [("list", "--limit", "0"), ("list", "--state", "open"), ("show",), ()])
def test_usage(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["alerts", *arguments])
    assert caught.value.code == 2


def test_everything_about_one(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(daemon, capsys, "alerts", "list", "--state", "all", "--format", "json", "--limit", "1")
    alert_id = json.loads(out)["watchdogd"]["alert_id"]
    assert run(daemon, capsys, "verdict", alert_id, "benign", "--note", "an exercise")[0] == 0
    status, out, _ = run(daemon, capsys, "alerts", "show", alert_id[:16])
    assert status == 0
    assert re.search(rf"^  id       {alert_id}$", out, re.MULTILINE)
    assert re.search(r"^  yours    benign, .*: an exercise$", out, re.MULTILINE)
    assert re.search(r"^  line     type=EXECVE ", out, re.MULTILINE)
    status, out, _ = run(daemon, capsys, "alerts", "show", alert_id, "--format", "json")
    document = json.loads(out)
    assert document["alert"]["watchdogd"]["alert_id"] == alert_id
    assert document["opinion"]["note"] == "an exercise"


def test_status_tells_of_the_database(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(daemon, capsys, "status")
    assert re.search(r"^alerts +3 stored: .*, since 20\d\d-", out, re.MULTILINE)
    assert re.search(r"^database +[\d.]+ .iB of 1\.0 GiB, kept 90d$", out, re.MULTILINE)


def make_evil() -> Alert:
    process = Process(
        ProcessKey("", 7, 1), 7, 1, f"/bin/{EVIL}", EVIL, ("cat", EVIL), EVIL, 33, EVIL, 1, EVIL, EVIL, EVIL
    )
    return make_alert(
        "f" * 64,
        time_ms=1_795_000_000_000,
        process=process,
        lines=(f"type=SYSCALL {EVIL}", "x" * 9_000),
        verdict=Verdict(label=Label.BENIGN, by="model", summary=EVIL),
    )


def listed(alert: Alert, **changes: str) -> ListedAlert:
    return ListedAlert(alert.state, msgspec.Raw(msgspec.json.encode(alert)), **changes)


@pytest.mark.parametrize("terminal", [True, False])
def test_hostile_text_is_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, terminal: bool
) -> None:
    monkeypatch.setattr(display.TextConsole, "is_terminal", terminal)
    evil = make_evil()
    delivery = DeliveryReport(EVIL, "alert", "dead", 7, 1, 2, 3, EVIL)
    report = AlertReport(
        listed(evil, leader=EVIL, silence=EVIL),
        (delivery, msgspec.structs.replace(delivery, state="pending", kind="verdict")),
        (listed(msgspec.structs.replace(evil, state=AlertState.FOLDED)),),
        more_repeats=True,
        opinion=OpinionGiven("benign", EVIL, 1),
        silence=EVIL,
    )
    show_report(report)
    alerts_list.print_table([evil, make_alert("a" * 64, level=Level.LOW)])
    shown = capsys.readouterr().out
    assert "\x1b[2J" not in shown
    assert "\u202e" not in shown
    assert not re.search(r"^evil", shown, re.MULTILINE)
    assert "\\x1b[2J\\nevil\\u202e" in shown


def test_deliveries_are_told_in_words() -> None:
    sent = DeliveryReport("journald", "alert", "delivered", 1, 1, 1, 1_795_000_000_000, None)
    due = 1_795_000_000_000
    texts = [
        sent,
        DeliveryReport("ops", "verdict", "pending", 3, 1, due, None, "refused"),
        DeliveryReport("ops", "alert", "routed", 0, 1, 1, due, None),
        DeliveryReport("ops", "alert", "dead", 5, 1, 1, due, "404"),
    ]
    report = AlertReport(listed(make_evil()), tuple(texts), (), more_repeats=False)
    assert [text for name, text, _ in list_rows(report) if name == "told"] == [
        "journald: delivered, 2026-11-18T11:06:40.000Z",
        "ops (verdict): waits until 2026-11-18T11:06:40.000Z after 3 tries: refused",
        "ops: left out: its verdict keeps it in the journal, 2026-11-18T11:06:40.000Z",
        "ops: given up after 5 tries, 2026-11-18T11:06:40.000Z: 404",
    ]
    rows = list(list_rows(AlertReport(listed(make_evil()), (), (), more_repeats=False)))
    assert ("told", "nobody", "dim") in rows
    assert rows[-1][1].endswith("xxx...[cut, 9000 characters in all]")


def test_pages_are_asked_for_until_there_are_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[AlertsRequest] = []
    one = listed(make_alert("a"))
    pages = [AlertsReport((), Cursor(9, 9)), AlertsReport((one,) * 3, None)]

    def answer(*arguments: object) -> AlertsReport:
        asked.append(arguments[-1])  # type: ignore[arg-type]
        return pages[len(asked) - 1]

    monkeypatch.setattr(alerts_list, "ask", answer)
    found = list(alerts_list.fetch_pages(tmp_path, AlertsRequest(before_id="abcd"), 1000))
    assert [len(page.alerts) for page in found] == [0, 3]
    assert [(request.before_id, request.limit) for request in asked] == [("abcd", 100), (None, 100)]


def make_secret() -> Alert:
    argv = ("mysql", "--password=Pa55w0rd", "-h", "db")
    process = Process(ProcessKey("", 7, 1), 7, 1, "/bin/mysql", "mysql", argv, "/", 0, "root", 0, None, None, None)
    lines = ('type=EXECVE msg=audit(1.000:1): argc=4 a0="mysql" a1="--password=Pa55w0rd" a2="-h" a3="db"',)
    return make_alert("a" * 64, process=process, lines=lines)


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("command", ["show", "list"])
def test_secrets_are_masked_unless_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, form: str
) -> None:
    one = listed(make_secret())
    reports = {"alert": AlertReport(one, (), (one,), more_repeats=False), "alerts": AlertsReport((one,), None)}
    for module in (alerts_show, alerts_list):
        monkeypatch.setattr(module, "ask", lambda _socket, verb, *_: reports[verb])
    arguments = ["alerts", command, *(["aaaa"] if command == "show" else []), "--socket", "/x", "--format", form]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "--password=[masked]" in shown
    assert "Pa55w0rd" not in shown
    assert main([*arguments, "--unmask"]) == 0
    assert ("--password=Pa55w0rd" in capsys.readouterr().out) == ((command, form) != ("list", "text"))
