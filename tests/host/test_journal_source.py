"""The journal as a source: a real sshd whose logins fail and then succeed, a real journald, restarts, no echo."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.daemon import Daemon, wait_until
from tests.host import guard

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.host.journal import Journald

pytestmark = pytest.mark.host

ROOT = Path(__file__).resolve().parents[2]
GUESSED = "0b0b0a31-6a0c-4a1f-9c73-5d7f8a2b1d05"  # SSH Login Accepted After Many Were Refused
FORGED = "7f0e3b55-2f0a-4c55-8a50-3d0d2c1d5e04"  # Log Entry in the Name of Another Program
ANY_ENTRY = """\
title: Any entry that names the marker
id: 4b2b4c3c-7d0c-4b47-9a0d-5f0b2f7f7a11
status: test
level: high
logsource: {product: linux, service: syslog}
detection:
  words: [marker-of-the-test]
  condition: words
watchdogd: {cooldown: 0s}
"""
ACCOUNT = "wd-test-login"
PASSWORD = "right-one"


@pytest.fixture
def account(safe_host: None) -> Iterator[str]:  # noqa: ARG001 (the guard)
    """An account with a password."""
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", ACCOUNT], check=True)
    try:
        subprocess.run(["chpasswd"], input=f"{ACCOUNT}:{PASSWORD}\n", text=True, check=True)
        yield ACCOUNT
    finally:
        subprocess.run(["userdel", "--remove", "--force", ACCOUNT], check=False, capture_output=True)


@pytest.fixture
def sshd(tmp_path: Path, safe_host: None) -> Iterator[int]:  # noqa: ARG001 (the guard)
    """A real sshd on loopback; its port."""
    guard.require_programs("sshd", "ssh", "sshpass", "ssh-keygen")
    key = tmp_path / "host_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = tmp_path / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {key}\nPidFile none\nPasswordAuthentication yes\n"
        "KbdInteractiveAuthentication no\nUsePAM no\nPermitRootLogin no\nMaxStartups 50\nLogLevel INFO\n"
    )
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    process = subprocess.Popen([program, "-D", "-f", str(config)])
    try:
        deadline_s = time.monotonic() + 20
        while time.monotonic() < deadline_s:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def log_in(port: int, user: str, password: str) -> int:
    """Try once; ssh's exit code."""
    command = [
        "sshpass", "-p", password, "ssh", "-F", "none", "-p", str(port), "-o", "StrictHostKeyChecking=no",
        "-o", "UserKnownHostsFile=/dev/null", "-o", "NumberOfPasswordPrompts=1", "-o", "PubkeyAuthentication=no",
        "-o", "LogLevel=ERROR", f"{user}@127.0.0.1", "true",
    ]  # fmt: skip
    return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode


def make_daemon(folder: Path, rules: str) -> Daemon:
    """It reads the journal; the folder `rules` instead of the tests' own rule."""
    daemon = Daemon(folder, journal=True, extra="journald:\n  enabled: true\n")
    daemon.config.write_text(daemon.config.read_text().replace("folders: [rules]", f"folders: [{rules}]"))
    daemon.log.touch()
    return daemon


def read_rows(daemon: Daemon, rule_id: str) -> list[tuple[str, str]]:
    """Id and document of a rule's alerts."""
    with contextlib.closing(sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True)) as database:
        found = [(name, bytes(text).decode()) for name, text in database.execute("SELECT id, document FROM alerts")]
    return [row for row in found if rule_id in row[1]]


def test_a_guessed_password_is_told_by_the_journal(tmp_path: Path, journald: Journald, sshd: int, account: str) -> None:
    with make_daemon(tmp_path, f"{ROOT}/rules") as daemon:
        daemon.start()
        for _ in range(6):
            assert log_in(sshd, account, "wrong") != 0
        assert log_in(sshd, account, PASSWORD) == 0
        wait_until(lambda: bool(journald.entries(f"WATCHDOGD_RULE_ID={GUESSED}")), daemon, 20)
        [entry] = journald.entries(f"WATCHDOGD_RULE_ID={GUESSED}")
        assert "127.0.0.1" in entry["MESSAGE"]
        assert entry["WATCHDOGD_LEVEL"] == "high"
        [(_, document)] = read_rows(daemon, GUESSED)
        assert "Accepted password for wd-test-login from 127.0.0.1" in document
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.said


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["systemd-cat", "-t", "sshd", "sh", "-c", 'echo "$0"; sleep 2'], id="its program is known"),
        pytest.param(["setpriv", "--reuid=65534", "--clear-groups", "logger", "-t", "sshd"], id="gone at once"),
    ],
)
def test_a_forged_entry_is_told(tmp_path: Path, journald: Journald, command: list[str]) -> None:
    says = "Accepted password for root from 203.0.113.9 port 1 ssh2"
    with make_daemon(tmp_path, f"{ROOT}/rules") as daemon:
        daemon.start()
        subprocess.run([*command, says], check=True)
        wait_until(lambda: bool(journald.entries(f"WATCHDOGD_RULE_ID={FORGED}")), daemon, 20)
        assert daemon.stop() == 0


def test_entries_written_while_it_was_down_are_judged_once(tmp_path: Path, journald: Journald) -> None:
    """SIGKILL, entries, restart, restart: each entry raises one alert, and the daemon's own entries raise none."""
    rules = tmp_path / "rules"
    with make_daemon(tmp_path, str(rules)) as daemon:
        (rules / "implant.yml").write_text(ANY_ENTRY)
        say("before the first start")
        daemon.start()
        say("running")
        wait_until(lambda: count(daemon) == 1, daemon)
        daemon.kill()
        say("down, one")
        say("down, two")
        daemon.start()
        wait_until(lambda: count(daemon) == 3, daemon)
        say("running again")
        wait_until(lambda: count(daemon) == 4, daemon)
        assert daemon.stop() == 0
        daemon.start()
        say("third run")
        wait_until(lambda: count(daemon) == 5, daemon)
        # Each alert of the journal's quotes the marker: an echo would have raised alerts about alerts by now.
        journald.entries()
        time.sleep(2)
        assert count(daemon) == 5
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.said


def test_entries_of_an_earlier_boot_are_judged(tmp_path: Path, journald: Journald) -> None:
    """What came between our last look and the reboot: `journalctl --follow` by itself leaves it out."""
    rules = tmp_path / "rules"
    with make_daemon(tmp_path, str(rules)) as daemon:
        (rules / "implant.yml").write_text(ANY_ENTRY)
        daemon.start()
        say("one")
        wait_until(lambda: count(daemon) == 1, daemon)
        assert daemon.stop() == 0
        say("before the reboot")
        journald.entries()
        boot = tmp_path / "boot_id"
        boot.write_text("11111111-2222-4333-8444-555555555555\n")
        reboot = f'mount --bind {boot} /proc/sys/kernel/random/boot_id && exec "$@"'
        daemon.start(prefix=["unshare", "--mount", "sh", "-c", reboot, "reboot"])
        wait_until(lambda: count(daemon) == 2, daemon)
        assert daemon.stop() == 0


def test_a_journald_that_begins_anew_is_followed(tmp_path: Path, journald: Journald) -> None:
    """The files with the cursor's entry are gone: it goes on with what is there."""
    rules = tmp_path / "rules"
    with make_daemon(tmp_path, str(rules)) as daemon:
        (rules / "implant.yml").write_text(ANY_ENTRY)
        daemon.start()
        say("one")
        wait_until(lambda: count(daemon) == 1, daemon)
        assert daemon.stop() == 0
        for path in Path("/run/log/journal").rglob("*.journal"):
            path.unlink()
        subprocess.run(["journalctl", "--rotate"], check=True, capture_output=True)
        say("two")
        daemon.start()
        wait_until(lambda: count(daemon) == 2, daemon)
        assert daemon.stop() == 0
        assert journald is not None


def say(text: str) -> None:
    """Write an entry of the facility authpriv."""
    subprocess.run(["logger", "-p", "authpriv.info", "-t", "test", f"marker-of-the-test {text}"], check=True)


def count(daemon: Daemon) -> int:
    """Alerts in its database."""
    return len(read_rows(daemon, "4b2b4c3c"))
