"""Against `ausearch -i` of this machine, over the recorded logs. The differences are listed in docs/decoding.md."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.decode.ausearch import compare_opinions
from watchdogd.decode import tables

if TYPE_CHECKING:
    from pathlib import Path

LISTED = {
    ("SYSCALL", "a0"),  # clock_adjtime
    ("SYSCALL", "a1"),  # chown: owner
    ("SYSCALL", "a2"),  # chown: group, fchownat: owner
    ("SYSCALL", "a3"),  # openat: mode of a new file, fchownat: group
    ("PATH", "cap_fp"),
    ("PATH", "cap_fi"),
    ("OBJ_PID", "oauid"),
    ("OBJ_PID", "oses"),
}


@pytest.fixture
def _ausearch() -> None:
    if shutil.which("ausearch") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("ausearch is missing, and CI needs it: apt-get install auditd")
        pytest.skip("ausearch is not installed (apt-get install auditd)")


@pytest.mark.slow
@pytest.mark.usefixtures("_ausearch")
def test_values_are_those_of_ausearch(corpora: Path, tmp_path: Path) -> None:
    recorded = corpora / "recorded"
    log = tmp_path / "all.log"
    with log.open("wb") as target:  # serials go on over all recordings, so that one file can hold them
        for part in [
            *sorted((recorded / "logs").glob("*.log")),
            recorded / "mixed.log",
            recorded / "lossy" / "lossy.log",
        ]:
            target.write(part.read_bytes())
    result = compare_opinions(log)
    assert result.records > 50_000
    assert not result.missing
    assert 1 - len(result.differences) / result.fields >= 0.99
    assert {(each.type, each.name) for each in result.differences} <= LISTED


CALLS = {
    "ptrace a0": "0 1 4 5 7 8 10 11 4200 4206 420e",
    "mmap a2": "0 1 3 5 7",
    "mmap a3": "1 2 22 32 812 20022",
    "mprotect a2": "0 1 3 7",
    "mount a3": "1 2 7 20 1000 100000",
    "umount2 a1": "1 2 4",
    "open a1": "0 1 2 241 441 80000 90800",
    "openat a2": "0 241 80000 90800",
    "openat a0": "ffffff9c 3",
    "chmod a1": "1ed 1a4 9ed 5ed",
    "mkdirat a2": "1ed 3ff",
    "mknod a1": "21b6 61b6 11b6",
    "access a1": "0 1 2 4 6",
    "kill a1": "0 1 9 f",
    "tgkill a2": "6 9",
    "rt_sigaction a0": "2 f",
    "socket a0": "1 2 a 10 11",
    "socket a1": "1 2 3 5",
    "socket a2": "0 1 6 11",
    "sendto a3": "0 1 40 4000",
    "recvmsg a2": "0 2 40",
    "prctl a0": "1 4 8 f 16 26",
    "bpf a0": "0 1 5 6 8",
    "setrlimit a0": "0 4 7 8",
    "clock_settime a0": "0 1",
    "fcntl a1": "0 1 2 4 406",
    "epoll_ctl a1": "1 2 3",
    "lseek a2": "0 1 2",
    "personality a0": "0 8",
    "setns a1": "20000 40000000",
    "unshare a0": "20000 10000000",
    "setuid a0": "ffffffff",
}
"""Syscall and argument: values that are asked for, in hex."""


@pytest.mark.usefixtures("_ausearch")
def test_arguments_are_those_of_ausearch(tmp_path: Path) -> None:
    numbers = {name: number for number, name in tables.load_tables().syscalls["x86_64"].items()}
    lines: list[str] = []
    for asked, values in CALLS.items():
        call, _, argument = asked.partition(" ")
        for value in values.split():
            others = " ".join(f"{name}={value if name == argument else 'f0f0f0'}" for name in ("a0", "a1", "a2", "a3"))
            lines.append(
                f"type=SYSCALL msg=audit(1700000000.000:{len(lines) + 1}): arch=c000003e syscall={numbers[call]} "
                f"success=yes exit=0 {others} items=0 ppid=1 pid=2 key=(null)"
            )
    log = tmp_path / "calls.log"
    log.write_text("\n".join(lines) + "\n")
    result = compare_opinions(log)
    wrong = [each for each in result.differences if each.raw != "f0f0f0"]
    assert result.records == len(lines)
    assert wrong == []
