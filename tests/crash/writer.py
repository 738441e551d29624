"""Writes an audit log as auditd does: interleaved records, pauses inside events, rotation by rename.

Usage: writer.py LOG EXPECTED STOP. Appends to EXPECTED one line `time_ms serial` for each event that must become an
alert, once all its records are in the log. Ends when STOP exists.
"""

from __future__ import annotations

import itertools
import random
import sys
import time
from pathlib import Path
from typing import IO

ROTATE_BYTES = 60_000
NO_PIDS = 4_200_000  # beyond the most that a kernel gives: no process of this machine, ours least of all
FIRST_USER = 100_000
EVERY = 6
INTERLEAVED = 6
EVIL = "/opt/evil/implant"


def make_lines(serial: int, time_ms: int) -> list[str]:
    evil = serial % EVERY == 0
    exe = EVIL if evil else "/usr/bin/true"
    user = FIRST_USER + serial  # one of its own for each: no alert is the repeat of another
    stamp = f"msg=audit({time_ms // 1000}.{time_ms % 1000:03d}:{serial})"
    return [
        (
            f"type=SYSCALL {stamp}: arch=c000003e syscall=59 success=yes exit=0 a0=1 a1=2 a2=3 a3=4 items=1 "
            f"ppid=1 pid={NO_PIDS + serial} auid={user} uid={user} gid=1001 euid={user} suid=1001 fsuid=1001 "
            f'egid=1001 sgid=1001 fsgid=1001 tty=pts0 ses=3 comm="x" exe="{exe}" key="exec"'
        ),
        f'type=EXECVE {stamp}: argc=2 a0="{exe}" a1="{serial}"',
        f'type=CWD {stamp}: cwd="/"',
        f'type=PATH {stamp}: item=0 name="{exe}" inode=1 mode=0100755 ouid=0 ogid=0 nametype=NORMAL',
        f"type=PROCTITLE {stamp}: proctitle={exe.encode().hex().upper()}",
    ]


class Log:
    """The log file, renamed to .1, .2 ... when it is full."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] = path.open("ab", buffering=0)

    def write(self, line: str) -> None:
        self._file.write(line.encode() + b"\n")
        if self._file.tell() > ROTATE_BYTES:
            self._rotate()

    def _rotate(self) -> None:
        numbers = sorted((int(path.suffix[1:]) for path in self.path.parent.glob("audit.log.*")), reverse=True)
        for number in numbers:
            self.path.with_suffix(f".log.{number}").rename(self.path.with_suffix(f".log.{number + 1}"))
        self.path.rename(self.path.with_suffix(".log.1"))
        self._file.close()
        self._file = self.path.open("ab", buffering=0)


def main() -> None:
    log_path, expected_path, stop_path = map(Path, sys.argv[1:])
    chance = random.Random(7)
    log = Log(log_path)
    serials = itertools.count(1)
    waiting: list[tuple[int, int, list[str]]] = []
    with expected_path.open("a", buffering=1) as expected:
        while not stop_path.exists() or waiting:
            while len(waiting) < INTERLEAVED and not stop_path.exists():
                serial, time_ms = next(serials), time.time_ns() // 1_000_000
                waiting.append((serial, time_ms, make_lines(serial, time_ms)))
            serial, time_ms, lines = chance.choice(waiting)
            log.write(lines.pop(0))
            if not lines:
                waiting.remove((serial, time_ms, lines))
                if serial % EVERY == 0:
                    expected.write(f"{time_ms} {serial}\n")
            time.sleep(chance.choice((0.0, 0.001, 0.002, 0.004)))


main()
