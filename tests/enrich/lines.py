"""Audit lines as the kernel and auditd write them, for hand-made stories."""

from __future__ import annotations

from itertools import count
from typing import Final

BASE_MS: Final = 1_795_000_000_000
NUMBERS: Final = {
    "execve": 59,
    "fork": 57,
    "vfork": 58,
    "clone": 56,
    "clone3": 435,
    "exit": 60,
    "exit_group": 231,
    "connect": 42,
}
_serials = count(1)


def write_syscall(
    name: str,
    pid: int,
    ppid: int,
    exe: str = "/usr/bin/bash",
    *,
    at_ms: int = 0,
    code: int | None = 0,
    a0: str = "0",
    auid: int = 1001,
    session: int = 3,
    node: str = "",
    argv: tuple[str, ...] = (),
) -> list[str]:
    """One event; `code` None is a call that never returned. An execve has the EXECVE record that goes with it."""
    time_ms = at_ms if at_ms >= BASE_MS // 2 else BASE_MS + at_ms
    stamp = f"msg=audit({time_ms // 1000}.{time_ms % 1000:03d}:{next(_serials)})"
    start = f"node={node} " if node else ""
    done = "" if code is None else f"success={'yes' if code >= 0 else 'no'} exit={code} "
    lines = [
        (
            f"{start}type=SYSCALL {stamp}: arch=c000003e syscall={NUMBERS[name]} {done}a0={a0} a1=0 a2=0 a3=0 items=0 "
            f"ppid={ppid} pid={pid} auid={auid} uid=1001 gid=1001 euid=1001 suid=1001 fsuid=1001 egid=1001 sgid=1001 "
            f'fsgid=1001 tty=pts0 ses={session} comm="{exe.rpartition("/")[2]}" exe="{exe}" key="x"'
        )
    ]
    if name == "execve":
        argv = argv or (exe,)
        arguments = " ".join(f'a{number}="{argument}"' for number, argument in enumerate(argv))
        lines.append(f"{start}type=EXECVE {stamp}: argc={len(argv)} {arguments}")
    lines.append(f"{start}type=EOE {stamp}: ")
    return lines
