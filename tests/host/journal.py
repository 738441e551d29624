"""A real journald, and nothing left of it afterwards."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Final, Self

from tests.host.auditing import DIE_WITH_US

JOURNALD: Final = "/lib/systemd/systemd-journald"
SOCKET: Final = Path("/run/systemd/journal/socket")
_RUNTIME: Final = (Path("/run/systemd/journal"), Path("/run/log/journal"), Path("/run/systemd/journald.conf.d"))
DEV_LOG: Final = Path("/dev/log")
"""Where programs that use syslog(3) write; systemd links it to journald's own socket."""
_DROP_IN: Final = """\
[Journal]
Storage=volatile
RateLimitIntervalSec=0
ReadKMsg=no
Audit=
ForwardToSyslog=no
ForwardToWall=no
"""


def is_listening() -> bool:
    """Whether some journald takes messages."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(str(SOCKET))
        except OSError:
            return False
        return True


class Journald:
    """A journald of our own, or, where the host has one, that one (and then it is left alone)."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._created: list[Path] = []

    def __enter__(self) -> Self:
        if is_listening():
            return self
        self._created = [path for path in _RUNTIME if not path.exists()]
        try:
            self._start()
            if not DEV_LOG.exists():
                self._created.append(DEV_LOG)
                DEV_LOG.unlink(missing_ok=True)
                DEV_LOG.symlink_to(SOCKET.parent / "dev-log")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for path in self._created:
            if path.is_symlink():
                path.unlink()
            else:
                shutil.rmtree(path, ignore_errors=True)

    def stop(self) -> None:
        """End it, as a host whose journald died. Only one that we started."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def freeze(self) -> None:
        """Make it hang."""
        assert self._process is not None, "never freeze the host's own journald"
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def entries(self, *matches: str) -> list[dict[str, Any]]:
        """Entries with these `FIELD=value`, exactly as `journalctl -o json` prints them."""
        subprocess.run(["journalctl", "--sync"], check=True, capture_output=True, timeout=60)
        command = ["journalctl", "--quiet", "--output=json", "--no-pager", *matches]
        done = subprocess.run(command, check=True, capture_output=True, timeout=60)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def text(self, *arguments: str) -> str:
        """What `journalctl` with these arguments shows a person."""
        command = ["journalctl", "--quiet", "--no-pager", *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        return done.stdout

    def _start(self) -> None:
        SOCKET.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _RUNTIME[2].mkdir(exist_ok=True)
        (_RUNTIME[2] / "zz-watchdogd-test.conf").write_text(_DROP_IN)
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen([*DIE_WITH_US, JOURNALD], stdin=quiet, stdout=quiet, stderr=quiet)
        deadline_s = time.monotonic() + 20
        while not is_listening():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError("journald does not start")
            time.sleep(0.02)
