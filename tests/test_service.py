"""The daemon as a whole, as a real process: start, work, bad input, reload, stop. Nothing lost, everything said."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon import NO_PID, RULE, RULE_ID, Daemon, make_exec_lines, wait_until
from tests.host.receiver import Fault, Received, Receiver
from tests.ollama.scripted import Scripted, chat, explanation, label, reply
from tests.store.test_standings import make_standing
from watchdogd.background import Fusion
from watchdogd.cli.daemon import ask as ask_daemon
from watchdogd.ports import SystemClock
from watchdogd.reports import StatusReport
from watchdogd.store.database import Store
from watchdogd.store.standings import save_standing
from watchdogd.telemetry import Counters
from watchdogd.triage.prompt import TEMPLATE_VERSION

if TYPE_CHECKING:
    from watchdogd.ledger import LedgerReport

pytestmark = pytest.mark.slow


def wait_alerts(receiver: Receiver, count: int, timeout_s: float = 30) -> list[dict[str, Any]]:
    requests = receiver.wait_for(lambda received: len(received) >= count, timeout_s)
    return [request.document for request in requests]


def name_alert(serial: int, time_ms: int) -> str:
    return hashlib.sha256(f"{RULE_ID}\naudit||{time_ms}|{serial}|".encode()).hexdigest()


def test_event_becomes_an_alert_and_sigterm_drains(daemon: Daemon, receiver: Receiver) -> None:
    daemon.start()
    now_ms = time.time_ns() // 1_000_000
    daemon.append(make_exec_lines(77, now_ms))
    (alert,) = wait_alerts(receiver, 1)
    assert alert["watchdogd"]["alert_id"] == name_alert(77, now_ms)
    assert alert["watchdogd"]["verdict"] is None or alert["watchdogd"]["verdict"]["label"] == "untriaged"
    assert alert["process"]["executable"] == "/opt/evil/implant"
    assert alert["watchdogd"]["lines"] == make_exec_lines(77, now_ms).decode().splitlines()
    assert daemon.stop() == 0
    daemon.wait_note("STOPPING=1", 2) if "STOPPING=1" not in daemon.notes else None
    assert "Traceback" not in daemon.said


def test_the_ledger_adds_up_over_restarts_and_unclean_ends(daemon: Daemon) -> None:
    def read_ledger() -> LedgerReport:
        ledger = ask_daemon(daemon.control, "status", StatusReport, 20).ledger
        assert ledger is not None
        assert ledger.describe() == "yes"
        return ledger

    def find(name: str) -> int:
        sides = [side for one in read_ledger().balances for side in (one.left, one.right)]
        return next(side[name] for side in sides if name in side)

    def has_stored(count: int) -> bool:
        return find("alerts_stored") == count

    for life in range(3):
        daemon.start()
        assert find("alerts_carried") == life * 20
        lines = (make_exec_lines(life * 20 + number + 1) for number in range(20))
        daemon.append(b"garbage\n" + b"".join(lines))
        wait_until(partial(has_stored, life * 20 + 20), daemon)
        assert find("decode_garbage_lines_total") > 0
        daemon.kill()


def test_first_start_begins_at_the_end_of_the_log(daemon: Daemon, receiver: Receiver) -> None:
    daemon.append(make_exec_lines(1))
    daemon.start()
    daemon.append(make_exec_lines(2, 1_795_000_000_000))
    (alert,) = wait_alerts(receiver, 1)
    assert alert["watchdogd"]["events"][0]["serial"] == 2
    assert daemon.stop() == 0


def test_from_start_and_late(daemon: Daemon, receiver: Receiver) -> None:
    daemon.append(make_exec_lines(1, 1_500_000_000_000))
    daemon.start("--from-start")
    (alert,) = wait_alerts(receiver, 1)
    assert alert["watchdogd"]["late"] is True
    assert daemon.stop() == 0


def test_what_came_while_it_was_down_is_judged_once(daemon: Daemon, receiver: Receiver) -> None:
    daemon.start()
    daemon.append(make_exec_lines(1))
    wait_alerts(receiver, 1)
    assert daemon.stop() == 0
    daemon.append(make_exec_lines(2))
    daemon.log.rename(daemon.log.with_suffix(".log.1"))
    daemon.append(make_exec_lines(3))
    daemon.start()
    alerts = wait_alerts(receiver, 3)
    assert [alert["watchdogd"]["events"][0]["serial"] for alert in alerts] == [1, 2, 3]
    assert daemon.stop() == 0
    assert len(receiver.requests) == 3


def test_missing_log_is_named_and_read_from_its_first_line_once_it_is_there(daemon: Daemon, receiver: Receiver) -> None:
    daemon.log.unlink()
    daemon.start()
    wait_until(lambda: str(daemon.log) in daemon.said, daemon)
    daemon.append(make_exec_lines(1))
    wait_alerts(receiver, 1)
    assert daemon.stop() == 0


def test_directory_in_place_of_the_log(daemon: Daemon) -> None:
    daemon.log.unlink()
    daemon.log.mkdir()
    daemon.start()
    wait_until(lambda: "directory" in daemon.said, daemon)
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.said


def test_binary_garbage_and_a_torn_line_hide_nothing(daemon: Daemon, receiver: Receiver) -> None:
    daemon.start()
    chance = random.Random(3)
    daemon.append(chance.randbytes(200_000) + b"\n" + b"\0" * 5000 + b"\n" + b"type=SYSCALL msg=audit(\n")
    whole = make_exec_lines(5)
    daemon.append(whole[:-40])
    time.sleep(0.3)
    daemon.append(whole[-40:])
    (alert,) = wait_alerts(receiver, 1)
    assert alert["watchdogd"]["events"][0]["serial"] == 5
    assert daemon.stop() == 0
    assert "\x1b" not in daemon.said
    assert "Traceback" not in daemon.said


def test_receiver_that_is_down_gets_it_when_it_is_back(daemon: Daemon, receiver: Receiver) -> None:
    receiver.answer_next(Fault(status=503), Fault("reset"), Fault(status=500))
    daemon.start()
    daemon.append(make_exec_lines(1))
    requests = receiver.wait_for(lambda received: len([r for r in received if r.body]) >= 3, 60)
    assert len({request.headers["webhook-id"] for request in requests}) == 1
    assert daemon.stop() == 0


def test_ollama_down_delays_nobody_beyond_the_deadline(tmp_path: Path, receiver: Receiver) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    extra = f"triage:\n  ollama_url: http://127.0.0.1:{port}\n"
    with Daemon(tmp_path, webhook_url=receiver.url, extra=extra) as daemon:
        daemon.log.touch()
        daemon.start()
        daemon.append(make_exec_lines(1))
        (alert,) = wait_alerts(receiver, 1)
        assert alert["watchdogd"]["verdict"]["label"] == "untriaged"
        assert alert["watchdogd"]["verdict"]["error"]
        assert alert["watchdogd"]["level"] == "high"
        assert daemon.stop() == 0


def test_hanging_model_delays_a_high_alert_by_its_deadline_and_a_critical_not_at_all(
    tmp_path: Path, receiver: Receiver
) -> None:
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        extra = f"triage:\n  ollama_url: {url}\n  timeout_s: 600\n  deadline_s:\n    critical: 0\n    high: 1\n"
        for level in ("critical", "high"):
            folder = tmp_path / level
            folder.mkdir()
            with Daemon(folder, webhook_url=receiver.url, level=level, extra=extra) as daemon:
                daemon.log.touch()
                daemon.start()
                before = len(receiver.requests)
                daemon.append(make_exec_lines(1))
                wait_alerts(receiver, before + 1)
                assert daemon.stop() == 0


def test_no_journald_is_said_and_the_alert_waits(tmp_path: Path, receiver: Receiver) -> None:
    if Path("/run/systemd/journal/socket").exists():
        pytest.skip("a journald runs here")
    with Daemon(tmp_path, webhook_url=receiver.url, extra="journald:\n  enabled: true\n") as daemon:
        daemon.log.touch()
        daemon.start()
        daemon.append(make_exec_lines(1))
        wait_alerts(receiver, 1)
        wait_until(lambda: "journald" in daemon.said, daemon)
        assert daemon.stop() == 0
        states = read_states(daemon)
        assert states == {"receiver": "delivered", "journald": "pending"}


def read_states(daemon: Daemon) -> dict[str, str]:
    database = sqlite3.connect(daemon.database)
    try:
        return dict(database.execute("select sink, state from deliveries"))
    finally:
        database.close()


def test_full_disk_stops_reading_and_loses_nothing(tmp_path: Path, receiver: Receiver) -> None:
    state = tmp_path / "state"
    state.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "x", state], check=False).returncode
    ):
        pytest.skip("needs the right to mount a small file system")
    try:
        with Daemon(tmp_path, webhook_url=receiver.url) as daemon:
            daemon.log.touch()
            daemon.start()
            fill_disk(state / "filler")
            for serial in range(1, 101):
                daemon.append(make_exec_lines(serial))
            wait_until(lambda: "full" in daemon.said, daemon)
            (state / "filler").unlink()
            alerts = wait_alerts(receiver, 100, 60)
            assert {alert["watchdogd"]["events"][0]["serial"] for alert in alerts} == set(range(1, 101))
            assert daemon.stop() == 0
    finally:
        subprocess.run(["umount", state], check=True)


def fill_disk(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


async def test_triage_pending_at_a_crash_resumes_and_the_verdict_follows(tmp_path: Path, receiver: Receiver) -> None:
    answer = explanation("A program was started.")
    async with Scripted(reply({})._replace(delay_s=60.0), answer, load=chat("")) as model:
        extra = f"triage:\n  ollama_url: {model.url}\n  timeout_s: 600\n  deadline_s:\n    high: 1\n"
        with Daemon(tmp_path, webhook_url=receiver.url, extra=extra) as daemon:
            daemon.log.touch()
            await asyncio.to_thread(daemon.start)
            daemon.append(make_exec_lines(1))
            (alert,) = await asyncio.to_thread(wait_alerts, receiver, 1)
            assert alert["watchdogd"]["verdict"]["label"] == "untriaged"
            await asyncio.wait_for(model.asked.wait(), 30)
            daemon.kill()
            await asyncio.to_thread(daemon.start)
            # The alert itself may come again: whether it was marked as delivered before the kill is chance.
            requests = await asyncio.to_thread(receiver.wait_for, lambda received: bool(find_verdicts(received)), 30)
            (verdict,) = find_verdicts(requests)
            assert verdict.document["watchdogd"]["alert_id"] == alert["watchdogd"]["alert_id"]
            assert verdict.document["watchdogd"]["verdict"]["label"] == "suspicious"
            assert verdict.document["watchdogd"]["verdict"]["by"] == "scorer"  # nobody examined the model
            assert await asyncio.to_thread(daemon.stop) == 0


def find_verdicts(received: list[Received]) -> list[Received]:
    return [request for request in received if request.headers["x-watchdogd-kind"] == "verdict"]


async def test_a_believed_model_that_says_benign_keeps_no_high_alert_from_anybody(
    tmp_path: Path, receiver: Receiver
) -> None:
    tags = reply({"models": [{"name": "phi3:mini", "digest": "d1"}]})
    async with Scripted(label("benign"), explanation("A program was started."), load=chat(""), tags=tags) as model:
        extra = f"triage:\n  ollama_url: {model.url}\n  benign_to_journald: true\n"
        with Daemon(tmp_path, webhook_url=receiver.url, extra=extra) as daemon:
            daemon.log.touch()
            daemon.database.parent.mkdir(exist_ok=True)
            store = await Store.open(daemon.database, Counters(), SystemClock())
            await save_standing(store, make_standing("d1", TEMPLATE_VERSION, fusion=Fusion(0.0, 0.0, 1.0)))
            await store.close()
            await asyncio.to_thread(daemon.start)
            daemon.append(make_exec_lines(1))
            (alert,) = await asyncio.to_thread(wait_alerts, receiver, 1)
            assert alert["watchdogd"]["verdict"]["by"] == "fusion"
            assert alert["watchdogd"]["verdict"]["label"] == "suspicious"  # benign only where the scorer says so, too
            assert alert["watchdogd"]["level"] == alert["watchdogd"]["rule_level"] == "high"
            assert await asyncio.to_thread(daemon.stop) == 0


async def test_reload_takes_another_model_and_ends_in_time(tmp_path: Path, receiver: Receiver) -> None:
    async with Scripted(explanation("A program was started."), load=chat("")) as model:
        with Daemon(tmp_path, webhook_url=receiver.url, extra="triage:\n  ollama_url: http://127.0.0.1:9\n") as daemon:
            daemon.log.touch()
            await asyncio.to_thread(daemon.start)
            daemon.config.write_text(daemon.config.read_text().replace("http://127.0.0.1:9", model.url))
            await asyncio.to_thread(reload, daemon)
            daemon.append(make_exec_lines(1))
            (alert,) = await asyncio.to_thread(wait_alerts, receiver, 1)
            assert alert["watchdogd"]["verdict"]["summary"] == "A program was started."
            assert await asyncio.to_thread(daemon.stop, 20) == 0


def test_unreadable_log_is_named_with_its_remedy(daemon: Daemon) -> None:
    daemon.log.chmod(0)
    without_power = (
        "setpriv",
        "--bounding-set=-dac_override,-dac_read_search",
        "--inh-caps=-dac_override,-dac_read_search",
    )
    daemon.start(prefix=without_power if os.geteuid() == 0 else ())
    wait_until(lambda: str(daemon.log) in daemon.said, daemon)
    assert "denied" in daemon.said
    daemon.log.chmod(0o600)
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.said


def test_empty_rules_folder_ends_the_start_with_2(daemon: Daemon) -> None:
    shutil.rmtree(daemon.folder / "rules")
    (daemon.folder / "rules").mkdir()
    daemon.start(ready=False)
    assert daemon.wait() == 2
    assert "rules" in daemon.said
    assert "Traceback" not in daemon.said


def test_invalid_yaml_ends_the_start_with_2_and_its_place(daemon: Daemon) -> None:
    daemon.config.write_text("sources:\n  audit_log: [\n")
    daemon.start(ready=False)
    assert daemon.wait() == 2
    assert f"{daemon.config}:" in daemon.said
    assert "Traceback" not in daemon.said


def test_two_daemons_never_share_a_database(daemon: Daemon) -> None:
    daemon.start()
    second = subprocess.run(
        [*read_command(daemon)], env=daemon.environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 2
    assert str(daemon.database) in second.stderr
    assert daemon.stop() == 0


def read_command(daemon: Daemon) -> list[str]:
    return Path(f"/proc/{daemon.pid}/cmdline").read_text().removesuffix("\0").split("\0")


def test_reload_swaps_rules_and_keeps_the_old_ones_when_the_new_are_broken(daemon: Daemon, receiver: Receiver) -> None:
    daemon.start()
    rule = daemon.folder / "rules" / "implant.yml"
    rule.write_text(RULE.format(level="high").replace("/opt/evil/implant", "/opt/evil/other"))
    reload(daemon)
    daemon.append(make_exec_lines(1) + make_exec_lines(2, exe="/opt/evil/other"))
    (alert,) = wait_alerts(receiver, 1)
    assert alert["watchdogd"]["events"][0]["serial"] == 2
    rule.write_text("title: [broken\n")
    reload(daemon)
    wait_until(lambda: f"{rule}:" in daemon.said, daemon)  # the folder's watcher may have reloaded just before
    daemon.append(make_exec_lines(3, exe="/opt/evil/other"))
    assert wait_alerts(receiver, 2)[1]["watchdogd"]["events"][0]["serial"] == 3
    assert daemon.stop() == 0


def reload(daemon: Daemon) -> None:
    daemon.send_signal(signal.SIGHUP)
    daemon.wait_note("RELOADING=1")
    if daemon.notes[-1] != "READY=1":
        daemon.wait_note("READY=1")


def test_watchdog_is_fed_while_idle_and_not_when_stopped(daemon: Daemon) -> None:
    daemon.environ["WATCHDOG_USEC"] = "600000"
    daemon.start()
    for _ in range(3):
        daemon.wait_note("WATCHDOG=1")
    daemon.send_signal(signal.SIGSTOP)
    assert count_notes(daemon, "WATCHDOG=1", for_s=2) <= 2
    daemon.send_signal(signal.SIGCONT)
    daemon.wait_note("WATCHDOG=1")
    assert daemon.stop() == 0


def count_notes(daemon: Daemon, note: str, for_s: float) -> int:
    """How often it said so within that time; what was on its way counts, too."""
    count, deadline_s = 0, time.monotonic() + for_s
    while time.monotonic() < deadline_s:
        with contextlib.suppress(AssertionError):
            daemon.wait_note(note, max(0.01, deadline_s - time.monotonic()))
            count += 1
    return count


def test_it_never_alerts_about_itself_but_about_one_of_its_name(daemon: Daemon, receiver: Receiver) -> None:
    daemon.start()
    daemon.append(make_exec_lines(1, ppid=daemon.pid))
    daemon.append(make_exec_lines(2, pid=NO_PID + 1))
    (alert,) = wait_alerts(receiver, 1)
    assert alert["watchdogd"]["events"][0]["serial"] == 2
    assert daemon.stop() == 0
    assert len(receiver.requests) == 1


def test_host_metrics_are_judged(tmp_path: Path, receiver: Receiver) -> None:
    with Daemon(tmp_path, webhook_url=receiver.url) as daemon:
        text = daemon.config.read_text().replace("enabled: false\nrules", "enabled: true\n    interval_s: 1\nrules")
        daemon.config.write_text(text)
        (tmp_path / "rules" / "memory.yml").write_text(
            "title: Memory is in use\nid: 0a4c6f0e-8d7e-4a9d-b1f3-0c9f2f0f7a01\nstatus: test\nlevel: low\n"
            "logsource:\n    product: linux\n    category: host_metrics\n"
            "detection:\n    selection:\n        metric: memory.used_percent\n        value|gte: 0\n"
            "    condition: selection\n"
        )
        daemon.log.touch()
        daemon.start()
        alert = wait_alerts(receiver, 1)[0]
        assert alert["rule"]["name"] == "Memory is in use"
        assert daemon.stop() == 0


def test_a_reload_to_an_unusable_certificate_loses_no_alert(daemon: Daemon, receiver: Receiver) -> None:
    daemon.start()
    text = daemon.config.read_text()
    daemon.config.write_text(text + f"    ca_file: {daemon.folder}/rules\n")  # a folder holds no certificate
    reload(daemon)
    daemon.append(make_exec_lines(1))
    daemon.config.write_text(text)
    reload(daemon)
    daemon.append(make_exec_lines(2))
    alerts = wait_alerts(receiver, 2)
    assert {alert["watchdogd"]["events"][0]["serial"] for alert in alerts} == {1, 2}
    assert daemon.stop() == 0
