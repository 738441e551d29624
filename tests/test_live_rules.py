"""Rules edited while the daemon runs, as people and their tools do it; and what a start finds. Real processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon import RULE, Daemon, make_exec_lines, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.host.receiver import Receiver

pytestmark = pytest.mark.slow

BROKEN = "title: Broken\ndetection: [\n"


def make_rule(number: int, exe: str) -> str:
    rule = RULE.format(level="high").replace("/opt/evil/implant", exe)
    return re.sub(r"^id: .*$", f"id: {number:08d}-1111-4111-8111-111111111111", rule, flags=re.MULTILINE)


def ask(daemon: Daemon, command: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "watchdogd", command, "--config", str(daemon.config), *options],
        cwd=daemon.folder,
        env=daemon.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def status(daemon: Daemon) -> dict[str, Any]:
    done = ask(daemon, "status", "--format", "json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def count_reloads(daemon: Daemon) -> int:
    return daemon.said.count("reloaded: ")


def wait_reload(daemon: Daemon, before: int) -> None:
    wait_until(lambda: count_reloads(daemon) > before, daemon)


def write_in_place(rules: Path, text: str) -> None:
    (rules / "implant.yml").write_text(text)


def rename_over(rules: Path, text: str) -> None:
    new = rules / ".implant.yml.tmp~"
    new.write_text(text)
    new.replace(rules / "implant.yml")


def move_away_and_write(rules: Path, text: str) -> None:
    """As vim with `backupcopy=no`."""
    (rules / "implant.yml").rename(rules / "implant.yml~")
    (rules / "implant.yml").write_text(text)
    (rules / "implant.yml~").unlink()


def move_in(rules: Path, text: str) -> None:
    outside = rules.parent / "outside.yaml"
    outside.write_text(text)
    (rules / "implant.yml").unlink()
    outside.rename(rules / "moved.yaml")


def move_a_folder_in(rules: Path, text: str) -> None:
    outside = rules.parent / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "rule.yaml").write_text(text)
    (rules / "implant.yml").unlink()
    outside.rename(rules / "theme")


def make_the_folder_again(rules: Path, text: str) -> None:
    shutil.rmtree(rules)
    rules.mkdir()
    (rules / "rule.yml").write_text(text)


EDITS = [write_in_place, rename_over, move_away_and_write, move_in, move_a_folder_in, make_the_folder_again]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_what_is_saved_is_in_force(daemon: Daemon, receiver: Receiver, edit: Any) -> None:  # noqa: ANN401 - a function
    daemon.start()
    before = count_reloads(daemon)
    edit(daemon.folder / "rules", make_rule(1, "/opt/evil/other"))
    wait_until(lambda: count_reloads(daemon) > before and status(daemon)["last_load"]["accepted"], daemon)
    daemon.append(make_exec_lines(1) + make_exec_lines(2, exe="/opt/evil/other"))
    (request,) = receiver.wait_for(lambda received: len(received) >= 1, 30)
    assert request.document["rule"]["id"].startswith("00000001")
    assert daemon.stop() == 0
    assert len(receiver.requests) == 1
    assert "Traceback" not in daemon.said


def test_a_link_that_leads_elsewhere_now_is_noticed(tmp_path: Path, receiver: Receiver) -> None:
    with Daemon(tmp_path, webhook_url=receiver.url) as daemon:
        daemon.log.touch()
        (tmp_path / "rules").rename(tmp_path / "v1")
        (tmp_path / "rules").symlink_to("v1")
        (tmp_path / "v2").mkdir()
        (tmp_path / "v2" / "rule.yml").write_text(make_rule(2, "/opt/evil/other"))
        daemon.start()
        (tmp_path / "next").symlink_to("v2")
        (tmp_path / "next").replace(tmp_path / "rules")
        wait_reload(daemon, 0)
        (tmp_path / "v2" / "rule.yml").write_text(make_rule(3, "/opt/evil/other"))  # behind the link
        wait_reload(daemon, 1)
        daemon.append(make_exec_lines(1) + make_exec_lines(2, exe="/opt/evil/other"))
        (request,) = receiver.wait_for(lambda received: len(received) >= 1, 30)
        assert request.document["rule"]["id"].startswith("00000003")
        assert daemon.stop() == 0


def test_a_file_behind_a_link_is_noticed(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.log.touch()
        (tmp_path / "store").mkdir()
        (tmp_path / "store" / "real.txt").write_text(make_rule(4, "/opt/evil/other"))
        (tmp_path / "rules" / "linked.yml").symlink_to(tmp_path / "store" / "real.txt")
        daemon.start()
        (tmp_path / "store" / "real.txt").write_text(make_rule(5, "/opt/evil/other"))
        wait_reload(daemon, 0)
        assert [rule["id"][:8] for rule in status(daemon)["last_load"]["added"]] == ["00000005"]
        assert daemon.stop() == 0


def test_a_rule_that_is_moved_out_or_deleted_is_gone(daemon: Daemon) -> None:
    for number in (1, 2):
        (daemon.folder / "rules" / f"{number}.yml").write_text(make_rule(number, f"/opt/evil/{number}"))
    daemon.start()
    (daemon.folder / "rules" / "1.yml").rename(daemon.folder / "1.yml")
    wait_reload(daemon, 0)
    assert [rule["id"][:8] for rule in status(daemon)["last_load"]["removed"]] == ["00000001"]
    (daemon.folder / "rules" / "2.yml").unlink()
    wait_reload(daemon, 1)
    now = status(daemon)
    assert [rule["id"][:8] for rule in now["last_load"]["removed"]] == ["00000002"]
    assert now["active"] == 1
    assert daemon.stop() == 0


def test_fifty_files_at_once_are_one_reload(daemon: Daemon) -> None:
    daemon.start()
    for number in range(50):
        (daemon.folder / "rules" / f"{number}.yml").write_text(make_rule(number, f"/opt/evil/{number}"))
    wait_until(lambda: status(daemon)["active"] == 51, daemon)
    assert count_reloads(daemon) == 1
    assert len(status(daemon)["last_load"]["added"]) == 50
    assert daemon.stop() == 0


def test_saving_settings_is_a_reload_too(daemon: Daemon) -> None:
    (daemon.folder / "rules" / "1.yml").write_text(make_rule(1, "/opt/evil/1"))
    daemon.start()
    daemon.config.write_text(daemon.config.read_text() + "log:\n  level: debug\n")
    wait_reload(daemon, 0)
    daemon.config.write_text(daemon.config.read_text() + "nonsense: 1\n")
    wait_until(lambda: "unknown key 'nonsense'" in daemon.said, daemon)
    assert status(daemon)["last_load"]["accepted"] is False
    assert daemon.stop() == 0


@pytest.mark.parametrize(
    ("setting", "name"),
    [("health:\n  enabled: false\n", "health"), ("api:\n  requests_per_minute: 7\n", "api")],
)
def test_settings_that_wait_for_a_restart_say_so(daemon: Daemon, setting: str, name: str) -> None:
    with daemon:
        daemon.start()
        before = count_reloads(daemon)
        assert f"\n{name}:" not in daemon.config.read_text()
        with daemon.config.open("a") as file:
            file.write(setting)
        wait_reload(daemon, before)
        assert f"changes of {name} need a restart" in daemon.said
        assert daemon.stop() == 0


def test_a_broken_file_changes_nothing_and_is_told_everywhere(daemon: Daemon, receiver: Receiver) -> None:
    daemon.start()
    broken, rule = daemon.folder / "rules" / "broken.yaml", daemon.folder / "rules" / "implant.yml"
    broken.write_text(BROKEN)
    wait_until(lambda: "reload refused" in daemon.said, daemon)
    assert f"{broken}:3:1: error: " in daemon.said
    now = status(daemon)
    assert now["gauges"]["rules_last_load_failed"] == 1
    assert (now["active"], now["last_load"]["accepted"]) == (1, False)
    assert now["last_load"]["problems"][0]["place"] == {"path": str(broken), "line": 3, "column": 1}
    shown = ask(daemon, "status").stdout
    assert "refused: 1 mistake(s)" in shown
    assert f"{broken}:3:1: error: " in shown
    wait_until(lambda: any("1 mistake in the files" in note for note in daemon.read_notes()), daemon)
    refused = ask(daemon, "reload")
    assert refused.returncode == 2
    assert f"{broken}:3:1: error: " in refused.stderr
    assert "\n    ^\n" in refused.stderr
    assert "the 1 active rules from before stay in force" in refused.stderr
    rule.write_text(make_rule(1, "/opt/evil/other"))  # fine by itself; all or nothing
    assert ask(daemon, "reload").returncode == 2
    daemon.append(make_exec_lines(1))
    receiver.wait_for(lambda received: len(received) >= 1, 30)
    broken.unlink()
    done = ask(daemon, "reload")
    assert done.returncode == 0
    # Where the file's end was noticed before it was asked for, the daemon has said so itself.
    assert "1 rules active, 0 inactive; 1 added, 1 removed, 0 changed" in done.stdout + daemon.said
    assert status(daemon)["gauges"]["rules_last_load_failed"] == 0
    assert daemon.stop() == 0


def test_broken_at_boot_is_judged_by_the_last_good_set(daemon: Daemon, receiver: Receiver) -> None:
    daemon.start()
    assert daemon.stop() == 0
    broken = daemon.folder / "rules" / "implant.yml"
    good = broken.read_text()
    broken.write_text(BROKEN)
    daemon.start()
    assert "the rules are broken" in daemon.said
    assert f"{broken}:3:1: error: " in daemon.said
    now = status(daemon)
    assert now["gauges"]["rules_last_load_failed"] == 1
    assert now["rules_from_ms"] < now["since_ms"]
    assert "by an earlier run" in ask(daemon, "status").stdout
    assert any("1 older rules: 1 mistake in the files" in note for note in daemon.notes)
    daemon.append(make_exec_lines(1))
    receiver.wait_for(lambda received: len(received) >= 1, 30)
    broken.write_text(good)
    wait_reload(daemon, 0)
    now = status(daemon)
    assert now["gauges"]["rules_last_load_failed"] == 0
    assert now["last_load"]["changed"] == now["last_load"]["added"] == []
    assert daemon.stop() == 0


def test_broken_at_the_very_first_start_ends_with_2(daemon: Daemon) -> None:
    (daemon.folder / "rules" / "broken.yml").write_text(BROKEN)
    daemon.start(ready=False)
    assert daemon.wait() == 2
    assert "broken.yml:3:1: error: " in daemon.said


def test_an_unchanged_start_reads_no_rule(daemon: Daemon) -> None:
    daemon.start()
    assert daemon.stop() == 0
    marker = daemon.folder / "child"
    trap = daemon.folder / "trap"
    trap.mkdir()
    (trap / "sitecustomize.py").write_text(
        "import sys\ndef hook(event, args):\n"
        f"    if event == 'subprocess.Popen': open({str(marker)!r}, 'a').close()\nsys.addaudithook(hook)\n"
    )
    daemon.environ["PYTHONPATH"] = f"{trap}:{os.environ.get('PYTHONPATH', '')}"
    daemon.start()
    assert daemon.stop() == 0
    assert not marker.exists()
    (daemon.folder / "rules" / "2.yml").write_text(make_rule(2, "/opt/evil/2"))
    daemon.start()
    assert daemon.stop() == 0
    assert marker.exists()


def test_a_failing_sample_keeps_the_old_set(daemon: Daemon) -> None:
    daemon.start()
    samples = daemon.folder / "rules" / "tests" / "implant"
    samples.mkdir(parents=True)
    (samples / "fires.log").write_bytes(make_exec_lines(1, 1_795_000_000_000, exe="/opt/evil/implant"))
    assert ask(daemon, "reload").returncode == 0
    (daemon.folder / "rules" / "implant.yml").write_text(RULE.format(level="high").replace("/implant", "/other"))
    done = ask(daemon, "reload")
    assert done.returncode == 2
    assert "fires.log" in done.stderr
    assert daemon.stop() == 0


def test_swaps_in_a_running_stream_lose_no_event_and_judge_none_twice(daemon: Daemon) -> None:
    daemon.start()
    rule, ended, swapped = daemon.folder / "rules" / "implant.yml", threading.Event(), threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        while written < 1500 or not swapped.is_set():
            daemon.append(make_exec_lines(written + 1))
            written += 1
            time.sleep(0.002)
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    swaps = 0
    try:
        while not ended.is_set():
            swaps += 1
            daemon.read_notes()
            rule.write_text(RULE.format(level=("critical", "high")[swaps % 2]))
            done = ask(daemon, "reload")
            assert done.returncode == 0, done.stderr
            if swaps >= 3:
                swapped.set()
    finally:
        swapped.set()
        writer.join()
    wait_until(lambda: status(daemon)["counters"]["store_alerts_total"] >= written, daemon)
    counters = status(daemon)["counters"]
    assert counters["judge_events_total"] == counters["judge_alerts_total"] == written
    daemon.kill()
    with contextlib.closing(sqlite3.connect(daemon.database)) as database:
        alerts = [json.loads(body) for (body,) in database.execute("select document from alerts")]
    assert sorted(alert["events"][0]["serial"] for alert in alerts) == list(range(1, written + 1))
    assert {alert["level"] for alert in alerts} == {"critical", "high"}


def test_nobody_answers_where_no_daemon_runs(daemon: Daemon) -> None:
    for command in ("reload", "status"):
        done = ask(daemon, command)
        assert done.returncode == 2
        assert "not running" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_killed_daemons_socket_is_taken_over_and_a_living_ones_is_not(daemon: Daemon, tmp_path: Path) -> None:
    daemon.start()
    daemon.kill()
    assert daemon.control.is_socket()
    daemon.start()
    assert status(daemon)["pid"] == daemon.pid
    (tmp_path / "second").mkdir()
    with Daemon(tmp_path / "second") as second:
        second.log.touch()
        second.config.write_text(second.config.read_text().replace(str(second.control), str(daemon.control)))
        second.start()
        wait_until(lambda: "no control socket" in second.said, second)
        assert status(daemon)["pid"] == daemon.pid
        assert second.stop() == 0
    assert status(daemon)["pid"] == daemon.pid
    assert daemon.stop() == 0
    assert not daemon.control.exists()
