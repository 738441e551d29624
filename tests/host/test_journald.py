"""What a real journald makes of our entries: nothing that the host wrote forges a line or a field."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests import readme
from tests.host.journal import SOCKET, is_listening
from tests.write.conftest import build_alert, make_process
from tests.write.nasty import NASTY
from watchdogd.errors import DeliveryError
from watchdogd.resources import find_resource
from watchdogd.write.journald import (
    MESSAGE_ID_ALERT,
    MESSAGE_ID_BLINDNESS,
    MESSAGE_ID_SERVICE,
    MESSAGE_ID_UPDATE,
    MESSAGE_ID_VERDICT,
    JournaldSink,
    journal_fields,
    send_service_message,
)
from watchdogd.write.masked import mask_alert

if TYPE_CHECKING:
    from pathlib import Path

    from tests.host.journal import Journald

pytestmark = pytest.mark.host

SHOWN_WHOLE = 30_000
"""Characters: twice as many in a command line are more than masking reads (write/masked.py)."""

MESSAGE_IDS = (
    MESSAGE_ID_ALERT,
    MESSAGE_ID_VERDICT,
    MESSAGE_ID_UPDATE,
    MESSAGE_ID_BLINDNESS,
    MESSAGE_ID_SERVICE,
)


async def test_an_alert_arrives_with_all_its_fields(journald: Journald) -> None:
    alert = build_alert(id="full-1")
    await JournaldSink().send(alert, kind="alert", delivery_id="alert_full-1")
    [entry] = journald.entries("WATCHDOGD_ALERT_ID=full-1")
    assert entry["MESSAGE_ID"] == MESSAGE_ID_ALERT.hex
    expected = journal_fields(alert, "alert")
    assert {name: entry[name] for name in expected} == expected


async def test_two_hundred_nasty_strings_forge_nothing(journald: Journald) -> None:
    plain = build_alert()
    assert plain.verdict is not None
    sink = JournaldSink(timeout_s=60)
    alerts = []
    for number, text in enumerate(NASTY.values()):
        alert = build_alert(
            id=f"nasty-{number}",
            process=make_process(1, text, text, user=text, login=text, comm=text),
            lineage=(make_process(2, text),),
            reasons=(text,),
            group_key=text,
            verdict=msgspec.structs.replace(plain.verdict, summary=text),
        )
        await sink.send(alert, kind="alert", delivery_id=f"alert_{alert.id}")
        alerts.append(alert)
    entries = journald.entries("SYSLOG_IDENTIFIER=watchdogd")
    assert [entry["WATCHDOGD_ALERT_ID"] for entry in entries] == [alert.id for alert in alerts]  # none more, none less
    for alert, entry in zip(alerts, entries, strict=True):
        expected = journal_fields(mask_alert(alert), "alert")
        text = alert.group_key
        assert len(text) > SHOWN_WHOLE or expected == journal_fields(alert, "alert")  # nothing in it is a secret
        # A string each: no null, no bytes, no second value.
        assert {field: entry[field] for field in expected} == expected
        ours = {field for field in entry if field.startswith("WATCHDOGD_")}
        assert ours == {field for field in expected if field.startswith("WATCHDOGD_")}
        assert (entry["WATCHDOGD_VERDICT"], entry["PRIORITY"], entry["_PID"]) == ("malicious", "2", str(os.getpid()))
    shown = journald.text("-t", "watchdogd", "-o", "cat")
    assert shown.splitlines() == [entry["MESSAGE"] for entry in entries]
    assert "blob data" not in journald.text("-t", "watchdogd")


@pytest.mark.usefixtures("journald")
def test_the_queries_of_the_readme_find_it() -> None:
    rule = msgspec.structs.replace(build_alert().rule, title="Web Server Runs Commands That Explore or Connect")
    alert = build_alert(id="asked-1", rule=rule, process=make_process(1, "/bin/x", user="www-data", login="www-data"))
    for sent in (alert, build_alert(id="other", verdict=None)):
        asyncio.run(JournaldSink().send(sent, kind="alert", delivery_id=f"alert_{sent.id}"))
    subprocess.run(["journalctl", "--sync"], check=True, timeout=60)
    asked = [command for command in readme.commands("Read alerts") if " -t " in command]
    assert len(asked) == 6
    for command in asked:
        follows = command.endswith(" -f")
        words = ["timeout", "2" if follows else "60", *shlex.split(command), "--no-pager"]
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=90)
        assert done.returncode == (124 if follows else 0), command
        assert "Web Server Runs Commands That Explore or Connect: www-data" in done.stdout, command
        assert ("Shadow file read: root" in done.stdout) == ("=" not in command), command


def test_the_catalog_explains_every_class(tmp_path: Path) -> None:
    catalogs, made = tmp_path / "usr/lib/systemd/catalog", tmp_path / "var/lib/systemd/catalog"
    catalogs.mkdir(parents=True)
    made.mkdir(parents=True)
    for file in find_resource("systemd").glob("*.catalog"):
        shutil.copy(file, catalogs)
    asked = ["journalctl", f"--root={tmp_path}"]
    done = subprocess.run([*asked, "--update-catalog"], check=True, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    shown = subprocess.run([*asked, "--dump-catalog"], check=True, capture_output=True, text=True, timeout=60).stdout
    for message_id in MESSAGE_IDS:
        assert "What to do:" in shown.partition(f"-- {message_id.hex}")[2].partition("\n-- ")[0]
    # Spanish is shown where the host has that locale: few machines that run tests do.
    assert (made / "database").read_bytes().count("Qué hacer:".encode()) == len(MESSAGE_IDS)


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
