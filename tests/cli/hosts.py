"""A host to look at: files below a folder, and the host's tools as small programs that say what the real ones say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watchdogd.cli.doctor_site import Site
from watchdogd.config import Config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from watchdogd.cli.doctor_findings import Finding, Severity

NOW_MS = 1_795_000_000_000


class Host:
    """Built up by a test, then looked at by `look`."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self._tools = folder / "tools"
        self._tools.mkdir()
        (self.root / "proc").mkdir(parents=True)

    def file(self, name: str, text: str = "", mode: int = 0o644) -> Path:
        """A file of the host."""
        path = self.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def folder(self, name: str) -> Path:
        """A folder of the host."""
        path = self.root / name.lstrip("/")
        path.mkdir(parents=True, exist_ok=True)
        return path

    def process(
        self, pid: int, name: str, *argv: str, cgroup: str = "0::/system.slice/x.service", status: str = ""
    ) -> None:
        """A running process."""
        self.file(f"/proc/{pid}/comm", f"{name}\n")
        self.file(f"/proc/{pid}/cmdline", "\0".join(argv or (name,)) + "\0")
        self.file(f"/proc/{pid}/cgroup", f"{cgroup}\n")
        self.file(f"/proc/{pid}/status", status)

    def tool(self, name: str, script: str) -> None:
        """A tool of the host, as a shell script."""
        path = self._tools / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def says(self, name: str, text: str, code: int = 0) -> None:
        """A tool that says the same whatever it is asked."""
        said = self._tools / f".{name}"
        said.write_text(text)
        self.tool(name, f"/bin/cat {said}\nexit {code}")

    def systemd(self, **properties: object) -> None:
        """A booted systemd whose `systemctl show` has these properties, whichever unit is asked about."""
        self.folder("/run/systemd/system")
        self.says("systemctl", "".join(f"{name}={value}\n" for name, value in properties.items()))

    def site(self, config: Config | None = None, *, euid: int = 0, send: bool = False) -> Site:
        """To be looked at."""
        return Site(
            config or Config(), root=self.root, tools=str(self._tools), euid=euid, environ={}, now_ms=NOW_MS, send=send
        )


def look(check: Callable[[Site], Iterable[Finding]], site: Site) -> dict[str, Finding]:
    """The worst finding of each name. Whatever is wrong must say how it is mended."""
    order: list[Severity] = ["ok", "unknown", "warning", "error"]
    found: dict[str, Finding] = {}
    for finding in check(site):
        assert finding.mend or finding.level in {"ok", "unknown"}, finding
        assert finding.text.endswith((".", ")", "?")) or "mistake" in finding.text or "warning" in finding.text, finding
        before = found.get(finding.check)
        if before is None or order.index(finding.level) > order.index(before.level):
            found[finding.check] = finding
    return found


def levels(found: dict[str, Finding]) -> dict[str, Severity]:
    """How bad each is."""
    return {name: finding.level for name, finding in found.items()}
