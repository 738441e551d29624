"""Who asked systemd to stop the daemon, where audit says nothing of it. The whole desk: test_stop_desk.py."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from watchdogd.enrich.process import ProcessTree
from watchdogd.enrich.procfs import ProcReader
from watchdogd.ports import SystemClock
from watchdogd.stop_desk import StopDesk
from watchdogd.stop_signals import StopSignal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from watchdogd.last_words import Actor

BY_SYSTEMD = StopSignal("SIGTERM", 1, 0)


@pytest.fixture
def systemctl(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program of that name, which waits until the unit has stopped."""
    script = tmp_path / "systemctl"
    script.write_text("#!/bin/sh\necho waits\nread answer\n")
    script.chmod(0o755)
    pipe = subprocess.PIPE
    with subprocess.Popen([script, "stop", "watchdogd"], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waits\n"
        yield process
        process.kill()


def find_asker(since_ms: int) -> Actor | None:
    desk = StopDesk(asyncio.Event(), ProcReader(), {"INVOCATION_ID": "a"}, since_ms)
    desk._hear(BY_SYSTEMD)
    _, asker = asyncio.run(desk._identify(BY_SYSTEMD, ProcessTree(), SystemClock(), by_manager=True))
    return asker


def test_who_waits_for_the_stop_is_named_without_audit(systemctl: subprocess.Popen[bytes]) -> None:
    asker = find_asker(since_ms=0)
    assert asker is not None
    assert asker.process.pid == systemctl.pid
    assert asker.process.argv[2:] == ("stop", "watchdogd")
    assert asker.lineage[0].pid == os.getpid()


@pytest.mark.usefixtures("systemctl")
def test_who_asked_before_this_daemon_began_is_not_named() -> None:
    assert find_asker(since_ms=int(time.time() * 1000) + 60_000) is None
