"""What a real journald makes of our entries: nothing that the host wrote forges a line or a field."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.host.journal import SOCKET, is_listening
from tests.write.conftest import build_alert, make_process
from watchdogd.errors import DeliveryError
from watchdogd.write.journald import (
    MESSAGE_ID_ALERT,
    MESSAGE_ID_SERVICE,
    JournaldSink,
    journal_fields,
    send_service_message,
)

if TYPE_CHECKING:
    from tests.host.journal import Journald

pytestmark = pytest.mark.host

NASTY = {
    "newlines": "a\nb\r\nc\n\n",
    "fake field": "x\nWATCHDOGD_VERDICT=benign\nMESSAGE=all is well\nPRIORITY=7",
    "fake entry": "x\n\nMESSAGE=forged\nWATCHDOGD_ALERT_ID=forged\n\n",
    "binary field": "x\nMESSAGE\n\x04\x00\x00\x00\x00\x00\x00\x00evil\n",
    "nul": "before\0after",
    "escape": "\x1b[2J\x1b]0;owned\x07",
    "group separator": 'name\x1dUID="root"',
    "c1": "\x9b31m",
    "rtl": "\u202egpj.exe",
    "zero width": "ro\u200bot",
    "line separator": "a\u2028b",
    "surrogate": "\udcff\udc80",
    "long": "A" * 1_000_000,
    "long and wide": "\U0001f600" * 250_000,
    "percent": "%s%n@WATCHDOGD_LEVEL@",
    "own words": "; high, benign 100% (evidence 0.00)",
}


async def test_an_alert_arrives_with_all_its_fields(journald: Journald) -> None:
    alert = build_alert(id="full-1")
    await JournaldSink().send(alert, kind="alert", delivery_id="alert_full-1")
    [entry] = journald.entries("WATCHDOGD_ALERT_ID=full-1")
    assert entry["MESSAGE_ID"] == MESSAGE_ID_ALERT.hex
    expected = journal_fields(alert, "alert")
    assert {name: entry[name] for name in expected} == expected


@pytest.mark.parametrize("name", NASTY)
async def test_nasty_text_forges_nothing(journald: Journald, name: str) -> None:
    text = NASTY[name]
    plain = build_alert()
    assert plain.verdict is not None
    alert = build_alert(
        id="nasty-1",
        process=make_process(1, text, text, user=text, login=text, comm=text),
        lineage=(make_process(2, text),),
        reasons=(text,),
        group_key=text,
        verdict=msgspec.structs.replace(plain.verdict, summary=text),
    )
    await JournaldSink().send(alert, kind="alert", delivery_id="alert_nasty-1")
    [entry] = journald.entries("SYSLOG_IDENTIFIER=watchdogd")
    expected = journal_fields(alert, "alert")
    assert {field: entry[field] for field in expected} == expected  # a string each: no null, no bytes, no second value
    ours = {field for field in entry if field.startswith("WATCHDOGD_")}
    assert ours == {field for field in expected if field.startswith("WATCHDOGD_")}
    assert entry["WATCHDOGD_VERDICT"] == "malicious"
    shown = journald.text("-t", "watchdogd", "-o", "cat")
    assert shown == entry["MESSAGE"] + "\n"
    assert "blob data" not in journald.text("-t", "watchdogd")


async def test_a_burst_is_taken_whole(journald: Journald) -> None:
    sink = JournaldSink(timeout_s=60)
    for number in range(500):
        await sink.send(build_alert(id=f"burst-{number}"), kind="alert", delivery_id="alert_burst")
    assert len(journald.entries("SYSLOG_IDENTIFIER=watchdogd")) == 500


async def test_without_a_journald_it_is_an_error(journald: Journald) -> None:
    sink = JournaldSink()
    await sink.send(build_alert(), kind="alert", delivery_id="alert_1")
    journald.stop()
    assert SOCKET.exists()  # as after a crash: the socket is there and nobody behind it
    assert not is_listening()
    with pytest.raises(DeliveryError, match=r"no journald is listening at .* \(ECONNREFUSED\)") as caught:
        await sink.send(build_alert(), kind="alert", delivery_id="alert_1")
    assert caught.value.recoverable


async def test_a_journald_that_hangs_holds_up_nothing(journald: Journald) -> None:
    journald.freeze()
    sink = JournaldSink(timeout_s=0.5)
    sent = 0

    async def send_until_refused() -> None:
        nonlocal sent
        while True:
            await sink.send(build_alert(id=f"hang-{sent}"), kind="alert", delivery_id="alert_hang")
            sent += 1

    with pytest.raises(DeliveryError, match=r"its queue is full|hangs") as caught:
        await asyncio.wait_for(send_until_refused(), 60)
    assert caught.value.recoverable
    journald.thaw()
    written = {entry["WATCHDOGD_ALERT_ID"] for entry in journald.entries("SYSLOG_IDENTIFIER=watchdogd")}
    assert written >= {f"hang-{number}" for number in range(sent)}  # nothing that was taken is lost


def test_a_service_message(journald: Journald) -> None:
    send_service_message("the configuration was refused:\nline 3", priority=3)
    [entry] = journald.entries(f"MESSAGE_ID={MESSAGE_ID_SERVICE.hex}")
    assert entry["MESSAGE"] == r"the configuration was refused:\nline 3"
    assert entry["PRIORITY"] == "3"
