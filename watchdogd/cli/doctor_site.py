"""What the doctor's checks look at: this host's files and tools, the settings, and the running daemon's own report."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from watchdogd.config import Config

TOOL_S: Final = 8.0
"""For each tool of the host. One that hangs leaves a finding, not a hanging doctor."""

READ_BYTES: Final = 1 << 20
TOOL_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CONTAINER_MARKS: Final = ("/run/systemd/container", "/.dockerenv", "/run/.containerenv")


class Answer(msgspec.Struct, frozen=True):
    """What a tool said."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """Its last words on what went wrong."""
        lines = (self.err.strip() or self.out.strip()).splitlines()
        return lines[-1].strip()[:200] if lines else f"exit code {self.code}"


class Process(msgspec.Struct, frozen=True):
    """A process as everybody may see it."""

    pid: int
    name: str


class Site:
    """One host. Tests give another `root`, other `tools` and another `euid`."""

    def __init__(
        self,
        config: Config,
        *,
        root: Path = Path("/"),
        tools: str = TOOL_PATH,
        euid: int | None = None,
        environ: Mapping[str, str] | None = None,
        now_ms: int = 0,
        send: bool = False,
    ) -> None:
        """`tools` is a search path; `send` allows a test message to the webhooks."""
        self.config = config
        self.root = root
        self.tools = tools
        self.euid = os.geteuid() if euid is None else euid
        self.environ: Mapping[str, str] = dict(os.environ) if environ is None else environ
        self.now_ms = now_ms
        self.send = send

    @property
    def is_root(self) -> bool:
        """Whether everything may be seen."""
        return self.euid == 0

    def path(self, name: str | Path) -> Path:
        """Where an absolute path of the host is."""
        return self.root / str(name).lstrip("/")

    def read(self, name: str | Path) -> str:
        """A file as text, its first MiB. Raises OSError."""
        with self.path(name).open("rb") as file:
            return file.read(READ_BYTES).decode("utf-8", "replace")

    def exists(self, name: str | Path) -> bool:
        """Whether it is there; what may not be looked at is not."""
        try:
            return self.path(name).exists()
        except OSError:
            return False

    def has(self, tool: str) -> bool:
        """Whether a tool is installed."""
        return shutil.which(tool, path=self.tools) is not None

    def ask(self, tool: str, *arguments: str) -> Answer | None:
        """What a tool of the host says, None where it is not installed. Raises OSError, subprocess.TimeoutExpired."""
        program = shutil.which(tool, path=self.tools)
        if program is None:
            return None
        done = subprocess.run(  # noqa: S603 - a fixed name from the administrator's folders, no shell
            [program, *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=TOOL_S,
            check=False,
            env={"PATH": self.tools, "LC_ALL": "C", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""},
        )
        return Answer(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))

    def list_processes(self, *names: str) -> Iterator[Process]:
        """Running processes with one of these names (comm, 15 characters)."""
        wanted = {name[:15] for name in names}
        try:
            pids = sorted(int(entry) for entry in os.listdir(self.path("/proc")) if entry.isdigit())  # noqa: PTH208 - names
        except OSError:
            return
        for pid in pids:
            name = self.name_process(pid)
            if name in wanted:
                yield Process(pid, name)

    def name_process(self, pid: int) -> str:
        """The name of a process, empty where it is gone or hidden."""
        try:
            return self.read(f"/proc/{pid}/comm").strip()
        except OSError:
            return ""

    @property
    def is_container(self) -> bool:
        """Whether this is a container: the kernel, its audit and its clock belong to the host around it."""
        return any(self.exists(mark) for mark in _CONTAINER_MARKS)

    @property
    def has_systemd(self) -> bool:
        """As sd_booted(3) tells."""
        return self.exists("/run/systemd/system") and self.has("systemctl")

    def show_unit(self, *properties: str, unit: str = "watchdogd.service") -> dict[str, str]:
        """Properties of a unit (systemctl show); empty where no systemd can be asked."""
        if not self.has_systemd:
            return {}
        answer = self.ask("systemctl", "show", unit, f"--property={','.join(properties)}")
        if answer is None or answer.code != 0:
            return {}
        return dict(line.split("=", 1) for line in answer.out.splitlines() if "=" in line)
