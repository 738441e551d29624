"""systemd/audit.rules on a real kernel: every line is taken, and those about devices and times record what they say."""

from __future__ import annotations

import re
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.host.auditing import auditctl
from watchdogd.resources import find_resource

if TYPE_CHECKING:
    from tests.host.auditing import Auditd

pytestmark = pytest.mark.host

LINES = [
    line
    for line in (find_resource("systemd") / "audit.rules").read_text(encoding="utf-8").splitlines()
    if line.startswith("-a ")
]


def is_there(line: str) -> bool:
    """Whether the folder or file that the line is about is on this host."""
    return all(Path(place).exists() for place in re.findall(r"-F (?:dir|path)=(\S+)", line))


def load(auditd: Auditd, lines: list[str]) -> None:
    for line in lines:
        auditd.add_rule(line)


def test_the_kernel_takes_every_line(auditd: Auditd) -> None:
    lines = [line for line in LINES if is_there(line)]
    assert len(lines) > len(LINES) / 2
    load(auditd, lines)
    loaded = [line for line in auditctl("-l").splitlines() if line.startswith("-a ")]
    assert len(loaded) == len(lines)


def test_times_set_and_disks_opened_are_recorded(auditd: Auditd, tmp_path: Path) -> None:
    disk = next((path for path in Path("/dev").iterdir() if stat.S_ISBLK(path.stat().st_mode)), None)
    if disk is None:
        pytest.skip("no block device on this machine")
    load(auditd, [line for line in LINES if re.search(r"-k (?:timestamp|raw_disk)$", line) and is_there(line)])
    script = tmp_path / "touch.py"
    script.write_text(
        "import os\n"
        "before = os.stat('/etc/hostname')\n"
        "os.utime('/etc/hostname', ns=(before.st_atime_ns, before.st_mtime_ns))\n"
        f"os.close(os.open({str(disk)!r}, os.O_WRONLY | os.O_NONBLOCK))\n"
    )
    done = auditd.run_audited([sys.executable, str(script)])
    assert done.returncode == 0, done.stderr
    assert " success=yes " in auditd.wait_for_line('^type=SYSCALL .* key="timestamp"')
    assert " success=yes " in auditd.wait_for_line('^type=SYSCALL .* key="raw_disk"')
