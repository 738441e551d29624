"""A real auditd on this kernel, scoped to one login uid, and everything restored afterwards."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_LOGIN_UIDS = itertools.count(0x4000_0000 + (os.getpid() % 0x10_0000) * 0x100)
"""Login uids that nobody has: each auditd of each session audits its own processes only."""

DIE_WITH_US: Final = ("setpriv", "--pdeathsig", "TERM")
"""Put before a command: it ends even where the tests are killed, so that the next run finds a clean machine."""

_CONFIG = """\
local_events = yes
write_logs = yes
log_file = {folder}/audit.log
log_group = root
log_format = {log_format}
flush = NONE
freq = 0
priority_boost = 4
name_format = NONE
max_log_file = {max_log_file_mb}
num_logs = {num_logs}
max_log_file_action = {max_log_file_action}
space_left = 2
space_left_action = IGNORE
admin_space_left = 1
admin_space_left_action = IGNORE
verify_email = no
disk_full_action = IGNORE
disk_error_action = IGNORE
distribute_network = no
q_depth = 2000
overflow_action = IGNORE
max_restarts = 10
plugin_dir = {conf}/plugins.d
end_of_event_timeout = 2
"""


def auditctl(*arguments: str) -> str:
    """Run auditctl and return what it says; RuntimeError where it refuses."""
    done = subprocess.run(["auditctl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"auditctl {shlex.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def read_status() -> dict[str, int]:
    """`auditctl -s` as numbers."""
    return {name: int(value) for name, value in re.findall(r"^(\w+) (\d+)", auditctl("-s"), re.MULTILINE)}


@contextlib.contextmanager
def restored_audit() -> Iterator[None]:
    """Put the kernel's audit back as it was: rules, backlog, what happens on failure, enabled or not."""
    before = read_status()
    rules = [line for line in auditctl("-l").splitlines() if line.startswith("-")]
    try:
        yield
    finally:
        auditctl("-D")
        for rule in rules:
            auditctl(*shlex.split(rule))
        auditctl("-b", str(before["backlog_limit"]))
        auditctl("--backlog_wait_time", str(before["backlog_wait_time"]))
        auditctl("-f", str(before["failure"]))
        auditctl("-r", str(before["rate_limit"]))
        auditctl("--reset-lost")
        auditctl("-e", str(before["enabled"]))


class Auditd:
    """One run of auditd: writes `log` in `folder`, and sees only what `run_audited` starts."""

    def __init__(
        self,
        folder: Path,
        *,
        log_format: str = "RAW",
        max_log_file_mb: int = 0,
        num_logs: int = 5,
    ) -> None:
        """`log_format` is RAW or ENRICHED; with `max_log_file_mb` auditd rotates by size."""
        self.folder = folder / "log"
        self.log = self.folder / "audit.log"
        self.login_uid = next(_LOGIN_UIDS)
        self._conf = folder / "conf"
        self._settings = {
            "folder": str(self.folder),
            "conf": str(self._conf),
            "log_format": log_format,
            "max_log_file_mb": str(max_log_file_mb),
            "num_logs": str(num_logs),
            "max_log_file_action": "ROTATE" if max_log_file_mb else "IGNORE",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(restored_audit())
            stack.callback(self._stop)
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add_rule(self, rule: str) -> None:
        """Load a rule in auditctl's words, scoped to this instance's login uid whatever it says."""
        words = shlex.split(rule)
        place = words.index("-k") if "-k" in words else len(words)
        auditctl(*words[:place], "-F", f"auid={self.login_uid}", *words[place:])

    def run_audited(
        self, command: Sequence[str], *, timeout_s: float = 60.0, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command whose whole process tree is audited."""
        words = self.audited_command(command)
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=timeout_s, cwd=cwd)

    def audited_command(self, command: Sequence[str]) -> list[str]:
        """The words that start a command inside the audited tree, for use with Popen."""
        return ["bash", "-c", 'echo "$0" >/proc/self/loginuid && exec "$@"', str(self.login_uid), *command]

    def lines(self) -> list[str]:
        """Complete lines of the present log. (`str.splitlines` would split enriched ones at their 0x1d.)"""
        return self.log.read_text(errors="surrogateescape").split("\n")[:-1]

    def rotate(self) -> None:
        """Make auditd rotate its log now."""
        assert self._process is not None
        before = self.log.stat().st_ino
        self._process.send_signal(signal.SIGUSR1)
        _wait_until(lambda: self.log.exists() and self.log.stat().st_ino != before, "auditd rotated its log")

    def wait_for_line(self, pattern: str, timeout_s: float = 20.0) -> str:
        """The first line of the log that the pattern is found in."""
        found: list[str] = []

        def look() -> bool:
            found[:] = [line for line in self.lines() if re.search(pattern, line)]
            return bool(found)

        _wait_until(look, f"a line with {pattern!r} in {self.log}", timeout_s)
        return found[0]

    def _start(self) -> None:
        self.folder.mkdir(mode=0o700)
        (self._conf / "plugins.d").mkdir(mode=0o750, parents=True)
        (self._conf / "auditd.conf").write_text(_CONFIG.format(**self._settings))
        output = (self._conf / "output").open("wb")
        with output:
            self._process = subprocess.Popen(
                [*DIE_WITH_US, "auditd", "-n", "-c", str(self._conf)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        process = self._process
        _wait_until(
            lambda: process.poll() is not None or read_status()["pid"] == process.pid, "auditd is registered", 20.0
        )
        if process.poll() is not None:
            said = (self._conf / "output").read_text(errors="replace")
            raise RuntimeError(f"auditd ended with {process.returncode}: {said.strip()}")
        auditctl("-D")
        auditctl("-b", "8192")
        auditctl("-e", "1")

    def _stop(self) -> None:
        """End auditd; rules go first, so that it has nothing left to write."""
        with contextlib.suppress(RuntimeError):
            auditctl("-D")
        if self._process is None:
            return
        self._process.terminate()  # takes about 2 s
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _wait_until(lambda: read_status()["pid"] == 0, "the kernel forgot auditd")


def _wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.02)
