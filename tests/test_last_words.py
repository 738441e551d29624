"""Who stopped the watchdog, in words; and signals that tell who sent them."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys

import pytest

from tests.daemon import NO_PID
from watchdogd.entities import Level, Process, ProcessKey
from watchdogd.last_words import RESTARTED, SIGNALLED, STOPPED, Actor, build_last_words, choose_rule, find_asker
from watchdogd.stop_signals import StopListener, StopSignal, stops_let_through


def make(*argv: str, exe: str = "") -> Actor:
    program = exe or f"/usr/bin/{argv[0].rpartition('/')[2]}"
    process = Process(
        key=ProcessKey("", NO_PID, 0),
        pid=NO_PID,
        ppid=1,
        exe=program,
        comm=argv[0],
        argv=argv,
        cwd=None,
        uid=0,
        user="root",
        auid=1003,
        login="bob",
        session="7",
        tty=None,
    )
    return Actor(process)


@pytest.mark.parametrize(
    ("argv", "exe", "rule"),
    [
        (("systemctl", "stop", "watchdogd"), "", STOPPED),
        (("systemctl", "--now", "disable", "watchdogd.service"), "", STOPPED),
        (("systemctl", "kill", "watchdogd"), "", STOPPED),
        (("systemctl", "restart", "watchdogd"), "", RESTARTED),
        (("/usr/bin/perl", "/usr/bin/deb-systemd-invoke", "restart", "watchdogd.service"), "/usr/bin/perl", RESTARTED),
        (("/bin/sh", "/usr/sbin/service", "watchdogd", "stop"), "/usr/bin/dash", STOPPED),
        (("busctl", "call", "x", "StopUnit", "ss", "watchdogd.service", "replace"), "", STOPPED),
        (("reboot",), "/usr/bin/systemctl", RESTARTED),
        (("shutdown", "-h", "now"), "", RESTARTED),
        (("systemctl", "isolate", "rescue.target"), "", RESTARTED),
    ],
)
def test_who_asks_systemd_and_how_bad_that_is(argv: tuple[str, ...], exe: str, rule: object) -> None:
    asker = make(*argv, exe=exe)
    assert find_asker([make("ls"), asker]) == asker
    assert choose_rule(asker, by_manager=True) is rule


@pytest.mark.parametrize(
    "argv",
    [
        ("systemctl", "stop", "nginx"),
        ("systemctl", "is-active", "watchdogd"),
        ("systemctl", "--no-pager", "status", "watchdogd"),
        ("vim", "watchdogd"),
        ("systemctl", "status"),
        ("cat", "shutdown"),
        ("sh", "-c", "x"),
    ],
)
def test_who_does_not(argv: tuple[str, ...]) -> None:
    assert find_asker([make(*argv)]) is None


def test_the_newest_asker_counts() -> None:
    first, last = make("systemctl", "stop", "watchdogd"), make("systemctl", "restart", "watchdogd")
    assert find_asker([last, first]) == last


def test_words_and_level() -> None:
    def build(sender: Actor | None, asker: Actor | None, *, by_manager: bool) -> tuple[Level, str]:
        alert = build_last_words(
            "SIGTERM", 77, 33, sender=sender, asker=asker, by_manager=by_manager, host="h", now_ms=1000
        )
        return alert.level, alert.reasons[0]

    told = "`kill 1` (pid 4200000, run by root, logged in as bob)"
    assert build(make("kill", "1"), None, by_manager=False) == (Level.HIGH, f"SIGTERM from {told}")
    gone = "SIGTERM from pid 77, run by uid 33, which is gone and which no record tells of"
    assert build(None, None, by_manager=False) == (Level.HIGH, gone)
    assert build(None, None, by_manager=True) == (Level.MEDIUM, "SIGTERM from systemd; who asked it is not known")
    level, text = build(None, make("reboot"), by_manager=True)
    assert (level, text.startswith("SIGTERM from systemd, which was asked by `reboot`")) == (Level.LOW, True)


def test_each_stop_is_an_alert_of_its_own() -> None:
    first, second = (
        build_last_words("SIGTERM", 1, 0, sender=None, asker=None, by_manager=True, host="h", now_ms=now_ms)
        for now_ms in (1000, 2000)
    )
    assert first.id != second.id
    assert len({rule.id for rule in (SIGNALLED, STOPPED, RESTARTED)}) == 3


def test_a_signal_tells_who_sent_it_and_children_are_not_deaf() -> None:
    """In a process of its own: this one has threads that were there before."""
    script = (
        "import subprocess, sys\n"
        "from watchdogd.stop_signals import *\n"
        "from tests.test_last_words import listen\n"
        "listen()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def listen() -> None:
    """Runs in the child above."""
    heard: queue.Queue[StopSignal] = queue.Queue()
    listener = StopListener(heard.put)
    listener.open()
    sender = subprocess.Popen(["sh", "-c", f"kill -TERM {os.getpid()}; kill -INT {os.getpid()}; :"])
    both = {heard.get(timeout=20), heard.get(timeout=20)}
    sender.wait()
    assert both == {StopSignal(name, sender.pid, os.getuid()) for name in ("SIGTERM", "SIGINT")}, both
    with stops_let_through():
        child = subprocess.Popen(["sleep", "60"])
    child.terminate()
    assert child.wait(20) == -signal.SIGTERM
    listener.close()
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGTERM, signal.SIGINT}
    listener.close()


def test_a_listener_that_was_never_opened_is_closed() -> None:
    StopListener(lambda _: None).close()
