"""A real daemon that another real process tells to stop says who it was, before it ends."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.daemon import Daemon, wait_until
from watchdogd.cli.run import EXIT_SIGNALLED
from watchdogd.last_words import RESTARTED, SIGNALLED

if TYPE_CHECKING:
    from pathlib import Path

    from tests.host.receiver import Receiver

pytestmark = pytest.mark.slow


def read_alerts(daemon: Daemon) -> list[dict[str, object]]:
    with closing(sqlite3.connect(daemon.database)) as database:
        return [json.loads(row[0]) for row in database.execute("SELECT document FROM alerts")]


def test_the_sender_is_named_in_an_alert_that_is_sent_before_the_end(daemon: Daemon, receiver: Receiver) -> None:
    daemon.start()
    killer = subprocess.Popen(["sh", "-c", f"kill -TERM {daemon.pid}; sleep 20"], start_new_session=True)
    try:
        assert daemon.wait() == 0
    finally:
        os.killpg(killer.pid, signal.SIGKILL)
        killer.wait()
    assert f"told to stop: SIGTERM from `sh -c kill -TERM {daemon.pid}; sleep 20` (pid {killer.pid}, " in daemon.said
    (request,) = receiver.requests
    alert = json.loads(request.body)
    assert alert["rule"]["name"] == SIGNALLED.title
    assert alert["watchdogd"]["level"] == "high"
    assert alert["process"]["pid"] == killer.pid
    assert next(parent["pid"] for parent in alert["watchdogd"]["lineage"]) == os.getpid()
    assert len(read_alerts(daemon)) == 1


def write_exec(daemon: Daemon, pid: int, exe: str, argv: tuple[str, ...]) -> None:
    """What auditd writes of an exec by a person who became root."""
    stamp = f"audit({time.time():.3f}:{pid})"
    arguments = " ".join(f'a{number}="{word}"' for number, word in enumerate(argv))
    daemon.append(
        (
            f"type=SYSCALL msg={stamp}: arch=c000003e syscall=59 success=yes exit=0 a0=1 a1=2 a2=3 a3=4 items=1 "
            f"ppid={os.getpid()} pid={pid} auid=1003 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 "
            f'tty=pts1 ses=7 comm="kill" exe="{exe}" key="exec"\n'
            f"type=EXECVE msg={stamp}: argc={len(argv)} {arguments}\n"
            f'type=CWD msg={stamp}: cwd="/root"\n'
            f'type=PATH msg={stamp}: item=0 name="{exe}" inode=1 mode=0100755 ouid=0 ogid=0 nametype=NORMAL\n'
            f"type=PROCTITLE msg={stamp}: proctitle=6B\n"
        ).encode()
    )


def test_a_sender_that_is_gone_is_named_by_the_audit_log(daemon: Daemon, receiver: Receiver) -> None:
    daemon.start()
    daemon.send_signal(signal.SIGSTOP)  # it hears of the other signal when the sender has long ended
    script = f"read -r go; exec /bin/kill -TERM {daemon.pid}"
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, start_new_session=True) as killer:
        write_exec(daemon, killer.pid, "/usr/bin/kill", ("/bin/kill", "-TERM", str(daemon.pid)))
        assert killer.stdin is not None
        killer.stdin.write(b"\n")
        killer.stdin.close()
    daemon.send_signal(signal.SIGCONT)
    assert daemon.wait() == 0
    assert f"`/bin/kill -TERM {daemon.pid}` (pid {killer.pid}, run by root, logged in as uid 1003)" in daemon.said
    assert receiver.requests


def test_who_started_it_may_end_it_without_an_alert(daemon: Daemon, receiver: Receiver) -> None:
    daemon.start()
    assert daemon.stop() == 0
    assert f"SIGTERM: from the program that started us (pid {os.getpid()})" in daemon.said
    assert receiver.requests == []
    assert read_alerts(daemon) == []


@pytest.mark.parametrize("name", ["USR1", "QUIT", "ALRM", "RTMAX"])
def test_any_signal_that_would_end_it_lets_it_have_its_last_words(
    daemon: Daemon, receiver: Receiver, name: str
) -> None:
    daemon.environ["INVOCATION_ID"] = "0" * 32
    daemon.start()
    subprocess.run(["bash", "-c", f"kill -{name} {daemon.pid}; sleep 1; :"], check=True, start_new_session=True)
    assert daemon.wait() == EXIT_SIGNALLED  # systemd starts it again
    assert f"told to stop: SIG{name} from `bash -c kill -{name} {daemon.pid}" in daemon.said
    assert len(receiver.requests) == 1


def test_where_its_own_alerts_are_switched_off_the_log_still_tells(tmp_path: Path) -> None:
    with Daemon(tmp_path, extra="health:\n  enabled: false\n") as daemon:
        daemon.log.touch()
        daemon.start()
        subprocess.run(["sh", "-c", f"kill -INT {daemon.pid}; :"], check=True, start_new_session=True)
        assert daemon.wait() == 0
        assert "told to stop: SIGINT from " in daemon.said
        assert read_alerts(daemon) == []


def test_a_stop_by_systemd_names_who_asked_it(tmp_path: Path, receiver: Receiver) -> None:
    """In a pid namespace of its own a shell is PID 1, and takes the part of systemd."""
    with Daemon(tmp_path, webhook_url=receiver.url) as daemon:
        daemon.log.touch()
        daemon.environ["INVOCATION_ID"] = "0" * 32
        wait = f"while ! [ -e {tmp_path}/go ]; do sleep 0.05; done"
        script = f'"$@" & p=$!; {wait}; kill -TERM $p; wait $p'
        daemon.start(prefix=("unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script, "init"))
        write_exec(daemon, 4242, "/usr/bin/systemctl", ("systemctl", "restart", "watchdogd.service"))
        (tmp_path / "go").touch()
        daemon.wait()
        wait_until(lambda: bool(receiver.requests), daemon)
        alert = json.loads(receiver.requests[0].body)
        assert alert["rule"]["name"] == RESTARTED.title
        assert "which was asked by `systemctl restart watchdogd.service` (pid 4242, run by root" in daemon.said
