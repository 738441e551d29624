"""Whether this machine may be used for tests that touch the kernel's audit, /run/systemd or loginuid.

On a real host they would do harm: they flush audit rules and start a second journald. So they refuse where PID 1 is
systemd or an auditd is registered, unless WATCHDOGD_TEST_HOST=1.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

PERMISSION = "WATCHDOGD_TEST_HOST"
LOCK_PATHS = (Path("/run/lock"), Path("/tmp"))
LOCK_NAME = "watchdogd-host-tests.lock"

APT_PACKAGES = {
    "auditctl": "auditd",
    "auditd": "auditd",
    "bsdtar": "libarchive-tools",
    "cpio": "cpio",
    "dpkg-deb": "dpkg",
    "journalctl": "systemd",
    "makepkg": "makepkg",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "pacman": "pacman-package-manager",
    "qemu-system-x86_64": "qemu-system-x86",
    "rpm": "rpm",
    "rpmbuild": "rpm",
    "setcap": "libcap2-bin",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "sshd": "openssh-server",
    "sshpass": "sshpass",
    "systemd-nspawn": "systemd-container",
    "/bin/busybox": "busybox-static",
    "zstd": "zstd",
    "/lib/systemd/systemd-journald": "systemd",
}


class Machine(msgspec.Struct, frozen=True):
    """What the guard looks at."""

    euid: int
    init: str
    """Name of PID 1."""
    auditd_pid: int
    """0 where none is registered with the kernel, or the kernel cannot be asked."""


def look_at_machine() -> Machine:
    """This machine, as it is now."""
    try:
        init = Path("/proc/1/comm").read_text().strip()
    except OSError:
        init = "unknown"
    return Machine(euid=os.geteuid(), init=init, auditd_pid=read_auditd_pid())


def read_auditd_pid() -> int:
    """Pid of the auditd that the kernel knows, 0 for none."""
    program = shutil.which("auditctl")
    if program is None:
        return 0
    status = subprocess.run([program, "-s"], capture_output=True, text=True, check=False)
    found = re.search(r"^pid (\d+)$", status.stdout, re.MULTILINE)
    return int(found.group(1)) if found else 0


def find_refusal(machine: Machine, environ: Mapping[str, str]) -> str | None:
    """Why tests must not touch this machine, None where they may."""
    if machine.euid != 0:
        return "needs root"
    if environ.get(PERMISSION) == "1":
        return None
    if machine.init == "systemd":
        return f"PID 1 is systemd: this may be a real host ({PERMISSION}=1 if it is one to break)"
    if machine.auditd_pid:
        return f"an auditd is registered with the kernel (pid {machine.auditd_pid}): this may be a real host"
    return None


def find_missing(*programs: str, which: Callable[[str], str | None] = shutil.which) -> str | None:
    """The apt line that installs what is missing, None where all is there."""
    missing = sorted({APT_PACKAGES[program] for program in programs if which(program) is None})
    return f"needs: apt-get install -y --no-install-recommends {' '.join(missing)}" if missing else None


def skip_or_fail(reason: str, environ: Mapping[str, str] | None = None) -> NoReturn:
    """Skip on a developer's machine; fail in CI, where a skipped test is a test that is not run."""
    if (os.environ if environ is None else environ).get("CI") == "true":
        pytest.fail(f"CI must run this: {reason}", pytrace=False)
    pytest.skip(reason)


def require_programs(*programs: str) -> None:
    """Skip or fail where a program is missing."""
    missing = find_missing(*programs)
    if missing:
        skip_or_fail(missing)


@contextlib.contextmanager
def hold_lock(folders: tuple[Path, ...] = LOCK_PATHS, timeout_s: float = 900.0) -> Iterator[Path]:
    """Hold the one lock that guards kernel audit and journal; other sessions wait. TimeoutError after `timeout_s`."""
    folder = next(folder for folder in folders if folder.is_dir())
    path = folder / LOCK_NAME
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise TimeoutError(f"{path} has been held by another test run for {timeout_s:g} s") from None
                time.sleep(0.1)
        yield path
    finally:
        os.close(descriptor)
