"""Fields of a journal entry. What journald makes of them: tests/host/test_journald.py."""

from __future__ import annotations

import contextlib
import re
import socket
from typing import TYPE_CHECKING

import pytest

from tests import readme
from tests.write.conftest import build_alert, make_process
from tests.write.nasty import NASTY
from watchdogd.entities import EventId, Label, Level, Verdict
from watchdogd.errors import DeliveryError
from watchdogd.resources import find_resource
from watchdogd.write.journald import (
    MESSAGE_ID_ALERT,
    MESSAGE_ID_BLINDNESS,
    MESSAGE_ID_SERVICE,
    MESSAGE_ID_UPDATE,
    MESSAGE_ID_VERDICT,
    JournaldSink,
    choose_message_id,
    event_text,
    find_journal,
    journal_fields,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from watchdogd.entities import Alert


def test_fields_of_a_full_alert(make_alert: Callable[..., Alert]) -> None:
    fields = journal_fields(make_alert(), "alert")
    assert fields.pop("MESSAGE").startswith("high, malicious 87% (evidence 0.62): Shadow file read: root (login alice)")
    assert fields == {
        "PRIORITY": "2",
        "SYSLOG_IDENTIFIER": "watchdogd",
        "WATCHDOGD_ALERT_ID": "a1b2c3",
        "WATCHDOGD_RULE_ID": "5f0f9e9e-0000-4000-8000-000000000001",
        "WATCHDOGD_RULE_TITLE": "Shadow file read",
        "WATCHDOGD_LEVEL": "high",
        "WATCHDOGD_VERDICT": "malicious",
        "WATCHDOGD_CONFIDENCE": "0.87",
        "WATCHDOGD_SUMMARY": "Reads password hashes.",
        "WATCHDOGD_TECHNIQUE": "T1003.008",
        "WATCHDOGD_GROUP": "rule|alice",
        "WATCHDOGD_COUNT": "1",
        "WATCHDOGD_LATE": "false",
        "WATCHDOGD_EVENT_ID": "1753000000.123:4567",
        "WATCHDOGD_SCORE": "0.62",
        "WATCHDOGD_REASONS": "the rule's level is high; never seen on this host",
        "WATCHDOGD_EXE": "/usr/bin/cat",
        "WATCHDOGD_CMDLINE": "/usr/bin/cat /etc/shadow",
        "WATCHDOGD_USER": "root (login alice)",
        "WATCHDOGD_LINEAGE": "bash < sshd",
    }


def test_a_correlation_has_a_field_of_its_own(make_alert: Callable[..., Alert]) -> None:
    assert "WATCHDOGD_CORRELATION" not in journal_fields(make_alert(), "alert")
    fields = journal_fields(make_alert(is_correlation=True, matched={"User": "bob", "sum": "7.5"}), "alert")
    assert fields["WATCHDOGD_CORRELATION"] == 'sum 7.5 in 0.005 s, User "bob"'


def test_nothing_known_leaves_fields_out(make_alert: Callable[..., Alert]) -> None:
    fields = journal_fields(make_alert(process=None, lineage=(), verdict=None, events=(), reasons=()), "alert")
    assert fields["WATCHDOGD_VERDICT"] == "untriaged"
    missing = {"WATCHDOGD_EXE", "WATCHDOGD_CMDLINE", "WATCHDOGD_USER", "WATCHDOGD_LINEAGE", "WATCHDOGD_CONFIDENCE"}
    assert not missing & fields.keys()


def test_a_later_verdict_is_told_from_an_alert(make_alert: Callable[..., Alert]) -> None:
    assert journal_fields(make_alert(), "verdict")["MESSAGE"].startswith("verdict on an earlier alert: high, ")


PRIORITIES = {
    Label.UNTRIAGED: "65432",
    Label.SUSPICIOUS: "65432",
    Label.MALICIOUS: "54322",
    Label.BENIGN: "66532",
}
"""By verdict, of the levels from informational up."""


@pytest.mark.parametrize(
    ("label", "level", "priority"),
    [(label, level, one) for label, row in PRIORITIES.items() for level, one in zip(Level, row, strict=True)],
)
def test_priority_by_level_and_verdict(
    make_alert: Callable[..., Alert], label: Label, level: Level, priority: str
) -> None:
    alert = make_alert(level=level, verdict=Verdict(label=label, by="fusion"))
    assert journal_fields(alert, "alert")["PRIORITY"] == priority


def test_each_class_has_a_message_id_of_its_own(make_alert: Callable[..., Alert]) -> None:
    assert choose_message_id(make_alert(), "alert") == MESSAGE_ID_ALERT
    assert choose_message_id(make_alert(), "verdict") == MESSAGE_ID_VERDICT
    assert choose_message_id(make_alert(), "update") == MESSAGE_ID_UPDATE
    assert choose_message_id(make_alert(source="watchdogd"), "alert") == MESSAGE_ID_BLINDNESS


def test_an_update_says_how_often_and_since_when(make_alert: Callable[..., Alert]) -> None:
    fields = journal_fields(make_alert(count=7), "update")
    assert fields["MESSAGE"].startswith("again: high, ")
    assert "; seen 7 times since 2025-07-20 08:26:40Z; " in fields["MESSAGE"]
    assert fields["WATCHDOGD_COUNT"] == "7"


def test_there_are_two_hundred_nasty_strings() -> None:
    assert len(NASTY) == 200


@pytest.mark.parametrize("name", NASTY)
def test_nasty_text_stays_in_its_field(name: str) -> None:
    text = NASTY[name]
    alert = build_alert(
        process=make_process(1, text, text, user=text, login=text, comm=text),
        lineage=(make_process(2, text),),
        reasons=(text,),
        group_key=text,
        matched={"a": text, "count": "3"},
        is_correlation=True,
        fields={"TargetFilename": text, "SourceFilename": text},
        action=text,
    )
    fields = journal_fields(alert, "alert")
    assert fields.keys() <= journal_fields(build_alert(is_correlation=True), "alert").keys()
    for field, value in fields.items():
        assert value.encode().decode() == value
        assert "\n" not in value
        assert "\0" not in value
        assert len(f"{field}={value}".encode()) < 4096
    assert (fields["PRIORITY"], fields["WATCHDOGD_VERDICT"]) == ("2", "malicious")
    assert fields["MESSAGE"].startswith("high, malicious 87% (evidence 0.62): Shadow file read: ")


def test_no_field_is_longer_than_journalctl_shows(make_alert: Callable[..., Alert]) -> None:
    long = "\x1b" + "ä" * 1_000_000
    alert = make_alert(group_key=long, reasons=(long,), lines=(long,))
    fields = journal_fields(alert, "alert")
    assert fields["WATCHDOGD_GROUP"].endswith("[cut, 1000001 characters in all]")
    assert max(len(f"{name}={value}".encode()) for name, value in fields.items()) < 4096
    assert all(value.isprintable() for value in fields.values())


def test_event_ids_read_as_ausearch_wants_them() -> None:
    event_id = EventId(source="audit_log", node=None, time_ms=1_753_000_000_007, serial=9)
    assert event_text(event_id) == "1753000000.007:9"
    assert event_text(EventId(source="audit_log", node="web01", time_ms=1000, serial=9)) == "web01 1.000:9"
    metric = EventId(source="host_metrics", node=None, time_ms=1000, serial=0, name="cpu_percent")
    assert event_text(metric) == metric.text()


async def test_no_socket_is_an_error_and_no_silence(make_alert: Callable[..., Alert], tmp_path: Path) -> None:
    sink = JournaldSink(path=str(tmp_path / "socket"))
    with pytest.raises(DeliveryError, match=r"no journald is listening at .*socket \(ENOENT\)") as caught:
        await sink.send(make_alert(), kind="alert", delivery_id="alert_1")
    assert caught.value.recoverable


def test_a_socket_that_nobody_holds_is_an_error(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left_over:
        left_over.bind(path)
        find_journal(path)
    with pytest.raises(DeliveryError, match="ECONNREFUSED"):
        find_journal(path)


def test_a_journald_that_hangs_is_noticed_before_it_blocks(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hung,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
    ):
        hung.bind(path)
        other.connect(path)
        other.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                other.send(b"x")
        with pytest.raises(DeliveryError, match="queue is full"):
            find_journal(path)


@pytest.mark.parametrize("name", ["watchdogd.catalog", "watchdogd.es.catalog"])
def test_every_message_id_has_its_catalog_entry(name: str) -> None:
    catalog = (find_resource("systemd") / name).read_text()
    entries = re.findall(r"^-- ([0-9a-f]{32})$", catalog, re.MULTILINE)
    ids = (MESSAGE_ID_ALERT, MESSAGE_ID_VERDICT, MESSAGE_ID_UPDATE, MESSAGE_ID_BLINDNESS, MESSAGE_ID_SERVICE)
    assert sorted(entries) == sorted(one.hex for one in ids)
    used = set(re.findall(r"@([A-Z_]+)@", catalog))
    assert used <= journal_fields(build_alert(), "alert").keys()
    assert len(re.findall(r"^(?:What to do|Qué hacer):", catalog, re.MULTILINE)) == len(entries)


def test_readme_asks_for_fields_that_there_are() -> None:
    commands = readme.commands("Read alerts")
    asked = {name for command in commands for name in re.findall(r"\b([A-Z_]+)=", command)}
    assert {"WATCHDOGD_VERDICT", "WATCHDOGD_USER"} <= asked <= journal_fields(build_alert(), "alert").keys()
    assert asked & {"WATCHDOGD_RULE_ID", "WATCHDOGD_RULE_TITLE"}
    assert {"-b", "-f", "json"} <= {word for command in commands for word in command.split()}
