"""Tables are what tools/generate_tables.py prints. To make them anew: apt-get install auditd linux-libc-dev libc6-dev
and run the tool; another version of these packages may know more numbers, which is why the file names its source."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from watchdogd.decode import tables

TOOL = Path(__file__).parents[2] / "tools" / "generate_tables.py"


def run_tool(option: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(TOOL), option], capture_output=True, text=True, check=False)


def test_the_file_is_what_the_generator_prints() -> None:
    if shutil.which("ausyscall") is None or shutil.which("auditctl") is None:
        pytest.skip("auditd is not installed, so that nothing can be generated")
    source = run_tool("--source")
    if source.returncode != 0:
        pytest.skip(f"the generator lacks something: {source.stderr.strip()}")
    if source.stdout.strip() != tables.load_tables().source:
        pytest.skip(f"made from {tables.load_tables().source}, here is {source.stdout.strip()}")
    done = run_tool("--check")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("arch", "number", "name"),
    [
        ("c000003e", "59", "execve"),
        ("40000003", "11", "execve"),
        ("c00000b7", "221", "execve"),
        ("40000028", "11", "execve"),
        ("c000003e", "9999", None),
        ("deadbeef", "59", None),
        (None, "59", None),
        ("c000003e", None, None),
    ],
)
def test_syscalls_by_architecture(arch: str | None, number: str | None, name: str | None) -> None:
    assert tables.name_syscall(arch, number) == name


def test_types_by_name_number_and_unknown() -> None:
    assert tables.name_type("SYSCALL") == "SYSCALL"
    assert tables.name_type("1400") == "AVC"
    assert tables.name_type("UNKNOWN[1334]") == "BPF"
    assert tables.name_type("UNKNOWN[1999]") == "UNKNOWN[1999]"
    assert tables.name_type("99999999999999") == "UNKNOWN[999999999]"
    assert tables.number_type("UNKNOWN[1999]") == 1999


def test_which_types_stand_alone() -> None:
    assert all(map(tables.stands_alone, ("USER_CMD", "DAEMON_START", "KERNEL", "ANOM_LOGIN_FAILURES", "ADD_USER")))
    assert not any(map(tables.stands_alone, ("SYSCALL", "LOGIN", "PATH", "AVC", "CONFIG_CHANGE", "NO_SUCH_TYPE")))


def test_flags() -> None:
    flags = tables.load_tables().flags["open"]
    assert tables.name_flags(flags, 0o101) == "O_WRONLY|O_CREAT"
    assert tables.name_flags(flags, 1 << 40) == "0x10000000000"
