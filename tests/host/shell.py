"""What the tests' machines have in common, a container and a virtual one: a root shell inside."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path


class Shell(ABC):
    """Runs commands inside as root."""

    @abstractmethod
    def run(
        self, *command: str | Path, check: bool = True, stdin: str | None = None, timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside as root; RuntimeError where it fails and `check` is set."""

    def write(self, path: str, text: str) -> None:
        """Write a file inside."""
        self.run("sh", "-c", 'mkdir -p "$(dirname "$0")" && cat >"$0"', path, stdin=text)

    def show(self, unit: str, name: str) -> str:
        """One property of a unit, as `systemctl show` has it."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).stdout.strip()

    def read_journal(self, *matches: str) -> list[dict[str, Any]]:
        """The journal's entries that match, in journalctl's words."""
        self.run("journalctl", "--sync")
        shown = self.run("journalctl", "--quiet", "--no-pager", "-o", "json", *matches)
        return [json.loads(line) for line in shown.stdout.splitlines()]
