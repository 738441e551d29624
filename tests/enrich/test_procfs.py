"""/proc as a source, against the real one and against nasty made-up ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from watchdogd.enrich.procfs import ProcReader, read_cgroup


def test_own_process() -> None:
    process = ProcReader().read(os.getpid())
    assert process is not None
    assert process.ppid == os.getppid()
    assert process.uid == os.getuid()
    assert process.cwd == str(Path.cwd())


def test_gone_process() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    assert ProcReader().read(child.pid) is None


def write_proc(root: Path, comm: str, cmdline: bytes = b"a\0\0b\0") -> ProcReader:
    folder = root / "42"
    folder.mkdir()
    (root / "stat").write_text("cpu 1\nbtime 1000\n")
    tail = " ".join(str(number) for number in range(23, 52))
    (folder / "stat").write_bytes(f"42 ({comm}) S 7 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 500 {tail}\n".encode())
    (folder / "cmdline").write_bytes(cmdline)
    (folder / "status").write_text("Name:\tx\nUid:\t33\t33\t33\t33\n")
    (folder / "cgroup").write_text("0::/system.slice/nginx.service\n")
    (folder / "loginuid").write_text("4294967295")
    return ProcReader(root, ticks_per_s=100)


@pytest.mark.parametrize("comm", ["x", "a b", "evil) S 1 (", ") (", "\x1b[31m"])
def test_comm_cannot_forge_fields(tmp_path: Path, comm: str) -> None:
    process = write_proc(tmp_path, comm).read(42)
    assert process is not None
    assert process.ppid == 7
    assert process.comm == comm
    assert process.key.start_ms == 1_000_000 + 5_000
    assert process.auid is None
    assert process.unit == "nginx.service"


def test_empty_arguments_stay(tmp_path: Path) -> None:
    process = write_proc(tmp_path, "x").read(42)
    assert process is not None
    assert process.argv == ("a", "", "b")


def test_bytes_that_are_no_text_are_escaped(tmp_path: Path) -> None:
    process = write_proc(tmp_path, "x", b"\xff\xfe\0").read(42)
    assert process is not None
    assert process.argv == ("\\xff\\xfe",)


@pytest.mark.parametrize(
    ("text", "unit", "container"),
    [
        ("0::/system.slice/cron.service\n", "cron.service", None),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", "session-3.scope", None),
        (f"0::/system.slice/docker-{'a' * 64}.scope\n", f"docker-{'a' * 64}.scope", "a" * 64),
        (f"12:pids:/docker/{'b' * 64}\n0::/\n", None, "b" * 64),
        ("0::/\n", None, None),
        ("", None, None),
    ],
)
def test_cgroup(text: str, unit: str | None, container: str | None) -> None:
    assert read_cgroup(text) == (unit, container)
