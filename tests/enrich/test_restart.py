"""What the real daemon still knows of processes after it was killed and started again, and after a reboot."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon import IMPLANT, Daemon
from tests.enrich.lines import write_syscall
from tests.host.receiver import Receiver
from watchdogd.enrich.procfs import ProcReader

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

NGINX, SHELL, PYTHON = "/usr/sbin/nginx", "/usr/bin/dash", "/usr/bin/python3.11"
FIRST = 4_190_000
"""Pids that nobody on the testing host has."""


def write(daemon: Daemon, *story: list[str]) -> None:
    daemon.append("".join(f"{line}\n" for lines in story for line in lines).encode())


def write_chain(daemon: Daemon, now_ms: int) -> None:
    """A server, its shell, and a child of that which only was forked."""
    write(
        daemon,
        write_syscall("execve", FIRST, FIRST - 1, NGINX, at_ms=now_ms, argv=("nginx", "-g", "daemon off;")),
        write_syscall("execve", FIRST + 1, FIRST, SHELL, at_ms=now_ms + 1, argv=("sh", "-c", "(python3 x)")),
        write_syscall("fork", FIRST + 1, FIRST, SHELL, at_ms=now_ms + 2, code=FIRST + 2),
        write_syscall("execve", FIRST + 3, FIRST + 2, PYTHON, at_ms=now_ms + 3, argv=("python3", "x")),
        write_syscall("execve", FIRST + 9, FIRST + 8, IMPLANT, at_ms=now_ms + 4),
    )


def write_child(daemon: Daemon, now_ms: int) -> None:
    write(daemon, write_syscall("execve", FIRST + 4, FIRST + 3, IMPLANT, at_ms=now_ms + 500))


def wait_alert(receiver: Receiver, pid: int) -> dict[str, Any]:
    requests = receiver.wait_for(lambda got: any(one.document["process"]["pid"] == pid for one in got), 30)
    return next(request.document for request in requests if request.document["process"]["pid"] == pid)


def tell(folder: Path, receiver: Receiver, now_ms: int, *, restart: bool) -> dict[str, Any]:
    folder.mkdir()
    with Daemon(folder, webhook_url=receiver.url) as daemon:
        daemon.log.touch()
        daemon.start()
        write_chain(daemon, now_ms)
        wait_alert(receiver, FIRST + 9)
        if restart:
            time.sleep(1.2)  # until the chain is behind the checkpoint: only then is it history
            daemon.kill()
            daemon.start()
        write_child(daemon, now_ms)
        alert = wait_alert(receiver, FIRST + 4)
        assert daemon.stop() == 0
        return alert


def test_lineage_is_the_same_after_a_kill(tmp_path: Path) -> None:
    now_ms = time.time_ns() // 1_000_000
    with Receiver() as receiver:
        straight = tell(tmp_path / "straight", receiver, now_ms, restart=False)
    with Receiver() as receiver:
        restarted = tell(tmp_path / "restarted", receiver, now_ms, restart=True)
    assert [ancestor["executable"] for ancestor in restarted["watchdogd"]["lineage"]] == [PYTHON, SHELL, SHELL, NGINX]
    assert restarted["process"]["parent"]["args"] == ["python3", "x"]
    assert restarted["watchdogd"]["lineage"] == straight["watchdogd"]["lineage"]
    assert restarted["process"] == straight["process"]


def test_nothing_from_before_the_boot_is_believed(tmp_path: Path, receiver: Receiver) -> None:
    with Daemon(tmp_path, webhook_url=receiver.url) as daemon:
        daemon.log.touch()
        write_chain(daemon, ProcReader().boot_ms - 3_600_000)
        daemon.start()
        write_child(daemon, time.time_ns() // 1_000_000)
        alert = wait_alert(receiver, FIRST + 4)
        assert alert["watchdogd"]["lineage"] == []
        assert alert["process"]["parent"] == {"pid": FIRST + 3}
        assert daemon.stop() == 0
