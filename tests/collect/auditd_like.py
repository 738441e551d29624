"""Writes a log as auditd does, one line an event, rotating by rename. Arguments: log, lines, lines per file."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


def shift(log: Path) -> None:
    """auditd's order: the highest number first, the log itself last."""
    number = 1
    while Path(f"{log}.{number}").exists():
        number += 1
    for older in range(number, 1, -1):
        Path(f"{log}.{older - 1}").rename(f"{log}.{older}")
    log.rename(f"{log}.1")


def write(log: Path, lines: int, per_file: int) -> None:
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for number in range(lines):
        if number and number % per_file == 0:
            shift(log)
            os.close(fd)
            fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        line = b"type=SYSCALL msg=audit(1700000000.000:%d): %s\n" % (number, b"x" * (number % 300))
        os.write(fd, line[: len(line) // 2])
        os.write(fd, line[len(line) // 2 :])
        if number % 50 == 0:
            time.sleep(0.001)
    os.close(fd)


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
