"""Runs the real daemon in a folder of its own, with a systemd that listens on NOTIFY_SOCKET."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

RULE_ID = "5d1f0a52-6f0c-4f0e-9a53-9a7f6a2c1e10"
IMPLANT = "/opt/evil/implant"
NO_PID = 4_200_000
"""Beyond the most that a kernel gives: no process of this machine."""
RULE = f"""\
title: Implant started
id: {RULE_ID}
status: test
description: The marked program of the tests.
level: {{level}}
logsource:
    product: linux
    category: process_creation
detection:
    selection:
        Image: {IMPLANT}
    condition: selection
watchdogd:
    group_by: [command_line]
"""


def make_exec_lines(
    serial: int, time_ms: int | None = None, exe: str = IMPLANT, pid: int = NO_PID, ppid: int = 1
) -> bytes:
    """The records of one exec, as auditd writes them."""
    time_ms = time.time_ns() // 1_000_000 if time_ms is None else time_ms
    stamp = f"msg=audit({time_ms // 1000}.{time_ms % 1000:03d}:{serial})"
    lines = (
        (
            f"type=SYSCALL {stamp}: arch=c000003e syscall=59 success=yes exit=0 a0=1 a1=2 a2=3 a3=4 items=1 "
            f"ppid={ppid} pid={pid} auid=1001 uid=1001 gid=1001 euid=1001 suid=1001 fsuid=1001 egid=1001 sgid=1001 "
            "fsgid=1001 "
            f'tty=pts0 ses=3 comm="x" exe="{exe}" key="exec"'
        ),
        f'type=EXECVE {stamp}: argc=2 a0="{exe}" a1="{serial}"',
        f'type=CWD {stamp}: cwd="/"',
        f'type=PATH {stamp}: item=0 name="{exe}" inode=1 mode=0100755 ouid=0 ogid=0 nametype=NORMAL',
        f"type=PROCTITLE {stamp}: proctitle={exe.encode().hex().upper()}",
    )
    return "".join(line + "\n" for line in lines).encode()


class Daemon:
    """`watchdogd run` below `folder`; `with` starts it and kills what is left of it."""

    def __init__(
        self,
        folder: Path,
        *,
        webhook_url: str | None = None,
        level: str = "high",
        extra: str = "",
        netlink: bool = False,
        journal: bool = False,
        files: str = "enabled: false",
    ) -> None:
        self.folder = folder
        self.log = folder / "audit.log"
        self.database = folder / "state" / "watchdogd.db"
        self.status = folder / "audit-status"
        self.config = folder / "config.yaml"
        self.control = folder / "control.sock"
        self.environ = {"PATH": os.environ["PATH"], "NOTIFY_SOCKET": str(folder / "notify.sock")}
        self.notes: list[str] = []
        (folder / "rules").mkdir(exist_ok=True)
        (folder / "rules" / "implant.yml").write_text(RULE.format(level=level))
        webhooks = f"webhooks:\n  - name: receiver\n    url: {webhook_url}\n" if webhook_url else ""
        triage = "" if "triage:" in extra else "triage:\n  enabled: false\n"
        journald = "" if "journald:" in extra else "journald:\n  enabled: false\n"
        # The events of these tests are written to files: what the kernel says meanwhile must not come between.
        sources = (
            f"sources:\n  audit_log:\n    path: {self.log}\n    status_path: {self.status}\n"
            f"  audit_netlink:\n    enabled: {'true' if netlink else 'false'}\n"
            f"  journal:\n    enabled: {'true' if journal else 'false'}\n"
            f"  file_integrity:\n    {files}\n  host_metrics:\n    enabled: false\n"
        )
        self.config.write_text(
            f"{sources}rules:\n  folders: [rules]\ncontrol:\n  path: {self.control}\n{triage}{journald}"
            f"store:\n  path: {self.database}\n{webhooks}{extra}"
        )
        self._stderr = folder / "stderr"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.environ["NOTIFY_SOCKET"])
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._socket.close()

    @property
    def pid(self) -> int:
        """Of the running daemon."""
        assert self._process is not None
        return self._process.pid

    @property
    def said(self) -> str:
        """What it wrote to stderr so far."""
        return self._stderr.read_text(errors="replace") if self._stderr.exists() else ""

    def start(self, *options: str, ready: bool = True, prefix: Sequence[str] = ()) -> None:
        """Start it, behind the words of `prefix`; with `ready` wait for its READY=1."""
        command = [*prefix, sys.executable, "-m", "watchdogd", "run", "--config", str(self.config), *options]
        with self._stderr.open("ab") as stderr:
            self._process = subprocess.Popen(command, stderr=stderr, env=self.environ, cwd=self.folder)
        if ready:
            self.wait_note("READY=1")

    def wait_note(self, note: str, timeout_s: float = 30) -> None:
        """Until systemd was told so; a daemon that ended instead fails with what it said."""
        self._socket.settimeout(0.2)
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            try:
                received = self._socket.recv(65536).decode().split("\n")
            except TimeoutError:
                assert self._process is not None
                assert self._process.poll() is None, f"ended with {self._process.returncode}: {self.said}"
                continue
            self.notes.extend(received)
            if note in received:
                return
        raise AssertionError(f"never said {note}; said {self.notes}; stderr: {self.said}")

    def read_notes(self) -> list[str]:
        """All that systemd was told so far. Where nobody reads them, the daemon waits at the eleventh or so."""
        self._socket.settimeout(0.01)
        try:
            while True:
                self.notes.extend(self._socket.recv(65536).decode().split("\n"))
        except TimeoutError:
            return self.notes

    def append(self, data: bytes) -> None:
        """Write to the audit log."""
        with self.log.open("ab") as file:
            file.write(data)

    def send_signal(self, number: signal.Signals) -> None:
        """Signal it."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and nothing of it is left."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self, timeout_s: float = 30) -> int:
        """SIGTERM, and the exit code."""
        self.send_signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 30) -> int:
        """The exit code."""
        assert self._process is not None
        return self._process.wait(timeout_s)


def wait_until(true: Callable[[], bool], daemon: Daemon, timeout_s: float = 30) -> None:
    """Until the condition holds; fails with what the daemon said."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if true():
            return
        time.sleep(0.05)
    raise AssertionError(f"waited {timeout_s} s in vain; the daemon said:\n{daemon.said}")
