"""`watchdogd status` and `reload` as a person reads them; asking a real daemon is in tests/test_live_rules.py."""

from __future__ import annotations

import io
import json
import socket
import threading
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.store.test_standings import make_standing
from watchdogd.cli import display
from watchdogd.cli.main import main
from watchdogd.cli.reload import render_change, render_problems
from watchdogd.cli.status import list_rows, show_status
from watchdogd.errors import Place, Problem
from watchdogd.ledger import balance_ledger
from watchdogd.reports import LoadReport, RuleName, SourceReport, StatusReport, TriageReport

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FINE = LoadReport(1_795_000_000_000, accepted=True, active=2, inactive=1, added=(RuleName("id", "New\x1b[31m"),))
REPORT = StatusReport(
    version="1.2.3",
    pid=42,
    since_ms=1_795_000_000_000,
    config="/etc/watchdogd/config.yaml",
    folders=("/usr/share/watchdogd/rules", "/etc/watchdogd/rules"),
    active=2,
    inactive=(RuleName("id", "title", "reason"),),
    rules_from_ms=1_795_000_000_000,
    last_load=FINE,
    sources=(SourceReport("audit_log", "/var/log/audit/audit.log", running=True),),
    counters={"judge_events_total": 5, "decode_garbage_lines_total": 0},
    gauges={"rules_last_load_failed": 0},
)
PROBLEM = Problem(Place("/etc/watchdogd/rules/\x1b[2J.yml", 3, 1), "is broken")


def rows(report: StatusReport) -> dict[str, str]:
    return {name: text for name, text, _ in list_rows(report)}


def test_where_nothing_is_wrong_it_says_so() -> None:
    shown = rows(REPORT)
    assert shown["watchdogd"] == "1.2.3, pid 42, since 2026-11-18T11:06:40.000Z"
    assert shown["rules"] == "2 active, 1 inactive; loaded 2026-11-18T11:06:40.000Z"
    assert shown["last load"].endswith("fine")
    assert shown["lost"] == "nothing"
    assert shown["counted"] == "judge_events 5"
    assert shown["source"] == "audit_log: /var/log/audit/audit.log"


def test_what_is_wrong_stands_out() -> None:
    broken = msgspec.structs.replace(
        REPORT,
        last_load=msgspec.structs.replace(FINE, accepted=False, problems=(PROBLEM,)),
        rules_from_ms=REPORT.since_ms - 1000,
        sources=(SourceReport("audit_log", "/var/log/audit/audit.log", running=False),),
        counters={"decode_garbage_lines_total": 3, "collect_torn_lines_total": 1, "judge_events_total": 5},
    )
    lines = [f"{name} {text}" for name, text, _ in list_rows(broken)]
    assert "rules 2 active, 1 inactive; loaded 2026-11-18T11:06:39.000Z, by an earlier run" in lines
    assert "last load 2026-11-18T11:06:40.000Z, refused: 1 mistake(s); the rules from before are in force" in lines
    assert " /etc/watchdogd/rules/\\x1b[2J.yml:3:1: error: is broken" in lines
    assert "source audit_log: /var/log/audit/audit.log, not read now" in lines
    assert "lost 3  lines that are no audit records (decode_garbage_lines_total)" in lines
    assert "lost 1  collect_torn_lines_total" in lines


def test_a_database_that_fails_stands_out() -> None:
    assert "database" not in rows(REPORT)
    refusing = msgspec.structs.replace(REPORT, gauges={"store_refusing": 1, "store_detached": 0})
    assert rows(refusing)["database"].startswith("takes no commits")
    detached = msgspec.structs.replace(REPORT, gauges={"store_refusing": 0, "store_detached": 1})
    assert rows(detached)["database"].startswith("its file is gone")


TRIAGE = TriageReport(
    model="m:1b",
    server="closed",
    waiting=0,
    in_flight=0,
    budget_left=5,
    budget_per_minute=10,
    sessions=0,
    sessions_opened=0,
    cached=0,
)


def test_exam_of_the_model_is_shown() -> None:
    shown = rows(msgspec.structs.replace(REPORT, triage=TRIAGE))
    assert shown["exam"] == "not examined: its opinion carries no weight"
    passed = msgspec.structs.replace(TRIAGE, standing=make_standing())
    shown = rows(msgspec.structs.replace(REPORT, triage=passed))
    assert shown["exam"] == "passed; AUROC 0.90 (0.80-0.96), scorer 0.85; 0 of 12 injections obeyed"
    off = msgspec.structs.replace(REPORT, triage=msgspec.structs.replace(TRIAGE, model=None))
    assert "exam" not in rows(off)


@pytest.mark.parametrize("terminal", [True, False])
def test_on_a_terminal_and_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, terminal: bool
) -> None:
    monkeypatch.setattr(display.TextConsole, "is_terminal", terminal)
    show_status(REPORT)
    shown = capsys.readouterr().out
    assert "last load" in shown
    assert "nothing" in shown


def test_a_change_is_told_rule_by_rule() -> None:
    assert list(render_change(FINE)) == [
        "added    New\\x1b[31m (id)",
        "2 rules active, 1 inactive; 1 added, 0 removed, 0 changed",
    ]


def test_a_mistake_is_shown_with_its_line_and_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("webhooks:\n  - url: https://example.org/T0KEN\n    nam: ops\n")
    shown = list(render_problems([Problem(Place(str(path), 2, 5), "here"), Problem(Place(str(path), 9, 1), "gone")]))
    assert shown[0] == f"{path}:2:5: error: here"
    assert shown[2].endswith("^")
    assert "T0KEN" not in "".join(shown)


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[tuple[Path, io.BytesIO]]:
    """A socket that answers once with what the test puts into the buffer."""
    buffer, path = io.BytesIO(), tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(9999)
                client.sendall(buffer.getvalue())

        thread = threading.Thread(target=answer)
        thread.start()
        yield path, buffer
        thread.join()


def test_json_is_the_daemons_answer(answering: tuple[Path, io.BytesIO], capsys: pytest.CaptureFixture[str]) -> None:
    path, buffer = answering
    buffer.write(msgspec.json.encode(REPORT) + b"\n")
    assert main(["status", "--socket", str(path), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["pid"] == 42


@pytest.mark.parametrize(
    ("answer", "said"),
    [(b"", "ended before it answered"), (b"{}\n", "of this version"), (b'{"error": "no"}\n', "watchdogd refuses: no")],
)
def test_an_answer_that_is_none_is_told(
    answering: tuple[Path, io.BytesIO], capsys: pytest.CaptureFixture[str], answer: bytes, said: str
) -> None:
    path, buffer = answering
    buffer.write(answer)
    assert main(["reload", "--socket", str(path)]) == 2
    assert said in capsys.readouterr().err


def test_a_broken_configuration_is_no_reason_not_to_ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"nonsense: 1\ncontrol:\n  path: {tmp_path}/here.sock\n")
    assert main(["status", "--config", str(config)]) == 2
    assert f"no watchdogd answers at {tmp_path}/here.sock" in capsys.readouterr().err


def test_a_ledger_that_adds_up_and_one_that_does_not() -> None:
    fine = rows(
        msgspec.structs.replace(
            REPORT,
            ledger=balance_ledger(
                {"judge_matches_total": 3, "judge_alerts_total": 3, "store_repeated_alerts_total": 3}
            ),
        )
    )
    assert fine["complete"] == "yes"
    assert fine["ledger"] == "3 alerts (judge_alerts, service_alerts) = 3 store_repeated_alerts"
    lost = rows(msgspec.structs.replace(REPORT, ledger=balance_ledger({"collect_lines_total": 3})))
    assert lost["complete"] == "no: 3 lines unaccounted between reading and decoding"


def test_what_watchdogd_is_blind_to_is_shown() -> None:
    assert rows(msgspec.structs.replace(REPORT, blind=("The clock was set",)))["blind"] == "The clock was set"
