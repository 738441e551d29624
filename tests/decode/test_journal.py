"""Entries of the journal to events."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.decode.journal import JournalDecoder
from watchdogd.entities import Event, Position, Record
from watchdogd.telemetry import Counters

NOW_MS = 1_795_426_733_000
FAILED = "Failed password for root from 203.0.113.9 port 40112 ssh2"
ENTRY = {
    "__CURSOR": "s=1;i=2",
    "__REALTIME_TIMESTAMP": "1795426732298587",
    "MESSAGE": FAILED,
    "SYSLOG_IDENTIFIER": "sshd",
    "SYSLOG_FACILITY": "10",
    "_EXE": "/usr/sbin/sshd",
    "_PID": "812",
    "_UID": "0",
    "_SYSTEMD_UNIT": "ssh.service",
    "_TRANSPORT": "syslog",
    "_HOSTNAME": "web1",
}


def decode(*lines: bytes, counters: Counters | None = None, own_pid: int = 1) -> list[Event]:
    decoder = JournalDecoder(counters or Counters(), is_own_pid=lambda pid: pid == own_pid)
    return decoder.feed([Record("journal", None, line) for line in lines], NOW_MS).events


def decode_entry(**changes: object) -> list[Event]:
    return decode(json.dumps({**ENTRY, **changes}).encode())


def test_an_entry_has_a_view_for_each_service_that_rules_ask_for() -> None:
    (event,) = decode_entry()
    assert [view.category for view in event.views] == ["sshd", "auth", "syslog"]
    assert event.id.time_ms == 1_795_426_732_298
    assert event.id.name == "s=1;i=2"
    view = event.views[0]
    assert (view.action, view.outcome) == ("failed", "failure")
    assert view.fields["SourceIp"] == "203.0.113.9"
    assert view.fields["Image"] == "/usr/sbin/sshd"
    assert event.records[0].line == f"2026-11-23T09:38:52.298Z web1 sshd[812]: {FAILED}".encode()


@pytest.mark.parametrize(
    ("changes", "categories"),
    [
        ({"SYSLOG_IDENTIFIER": "sudo"}, ["sudo", "auth", "syslog"]),
        ({"SYSLOG_IDENTIFIER": "su"}, ["auth", "syslog"]),
        ({"SYSLOG_IDENTIFIER": "CRON", "SYSLOG_FACILITY": "9"}, ["cron", "syslog"]),
        ({"SYSLOG_IDENTIFIER": "systemd-logind", "SYSLOG_FACILITY": "4"}, ["auth", "syslog"]),
        ({"SYSLOG_IDENTIFIER": "kernel", "SYSLOG_FACILITY": "0"}, ["syslog"]),
        ({"SYSLOG_IDENTIFIER": ["x", "sshd"], "SYSLOG_FACILITY": None}, ["sshd", "auth", "syslog"]),
    ],
)
def test_services(changes: dict[str, object], categories: list[str]) -> None:
    (event,) = decode_entry(**changes)
    assert [view.category for view in event.views] == categories


def test_bytes_that_are_no_text_are_written_out() -> None:
    (event,) = decode_entry(MESSAGE=[120, 255, 10, 121])
    assert event.views[0].fields["Message"] == "x\\xff\ny"


@pytest.mark.parametrize("changes", [{"_SYSTEMD_UNIT": "watchdogd.service"}, {"_PID": "1"}, {"_TRANSPORT": "audit"}])
def test_own_entries_and_audits_records_are_left_out(changes: dict[str, str]) -> None:
    assert decode_entry(**changes) == []


def test_nobody_makes_his_entries_pass_for_the_daemons_own() -> None:
    assert decode_entry(SYSLOG_IDENTIFIER="watchdogd", SYSLOG_PID="1", UNIT="watchdogd.service") != []


def test_what_is_no_entry_is_counted_and_settled() -> None:
    counters = Counters()
    position = Position("journal", "c", 0, 1)
    decoded = JournalDecoder(counters).feed([Record("journal", position, b'{"MESSAGE": 1}')], NOW_MS)
    assert decoded == ([], [position])
    assert counters.snapshot()["decode_garbage_lines_total"] == 1


@pytest.mark.parametrize(
    ("line", "time_ms"),
    [
        (f"2026-11-23T09:38:52.5+00:00 web1 sshd[812]: {FAILED}", 1_795_426_732_500),
        (f"2026-11-23T09:38:52Z web1 sshd[812]: {FAILED}", 1_795_426_732_000),
    ],
)
def test_a_line_of_auth_log(line: str, time_ms: int) -> None:
    (event,) = decode(line.encode())
    assert [view.category for view in event.views] == ["sshd", "auth", "syslog"]
    assert event.id.time_ms == time_ms
    assert event.views[0].fields["User"] == "root"


def test_a_line_without_a_year_is_of_the_year_nearest_to_now() -> None:
    (event,) = decode(f"Dec 31 23:59:59 web1 sshd[812]: {FAILED}".encode())
    assert abs(event.id.time_ms - NOW_MS) < 200 * 86_400_000


def test_equal_lines_of_one_second_are_events_of_their_own() -> None:
    line = f"Nov 23 09:38:52 web1 sshd[812]: {FAILED}".encode()
    assert len({event.id for event in decode(line, line)}) == 2


@given(st.one_of(st.binary(), st.text().map(lambda text: json.dumps({**ENTRY, "MESSAGE": text}).encode())))
def test_any_line_is_an_event_or_counted(line: bytes) -> None:
    counters = Counters()
    events = decode(line, counters=counters)
    counted = counters.snapshot()
    assert len(events) == counted["decode_events_total"]
    assert len(events) + counted["decode_garbage_lines_total"] == (1 if line.strip() else 0)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.sampled_from(list(ENTRY)),
)
def test_any_value_in_any_field(value: object, name: str) -> None:
    decode(json.dumps({**ENTRY, name: value}).encode())


def test_a_time_that_no_calendar_has_is_no_entry() -> None:
    assert decode_entry(__REALTIME_TIMESTAMP="9" * 18) == []
