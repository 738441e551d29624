"""What file integrity costs: `python -m benchmarks.file_integrity [FILES]`, 100,000 by default.

Makes so many files of 1 to 8 KB in 1,000 folders, has the real daemon watch them, and prints what its scanning process
took for the first scan (every file read), for one at a start (nothing has changed) and for one that reads all again;
beside it the daemon's own memory and CPU time with and without file integrity, and how long after a change its event is
there. Needs 1 GB of room in the temporary folder; root is not needed. Passes no judgement.
"""

from __future__ import annotations

import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDERS = 1_000
CHANGED = 50
SCANNED = re.compile(r"file integrity: ([a-z ,]+?): (\d+) files in ([\d.]+) s, ([\d.]+) s of CPU time, (\d+) MB")
RULE = """\
title: Watched file changed
id: 9d1f0a52-6f0c-4f0e-9a53-9a7f6a2c1e11
level: low
logsource: {product: linux, category: file_integrity}
detection:
    changed: {Action: modified}
    condition: changed
watchdogd: {group_by: [TargetFilename], cooldown: 0s}
"""


def make_files(root: Path, count: int) -> list[Path]:
    """Write files of random content, the same each time."""
    chance = random.Random(1)  # noqa: S311 - content, no secret
    files = []
    for number in range(count):
        folder = root / f"{number % FOLDERS:03d}"
        folder.mkdir(exist_ok=True, parents=True)
        path = folder / f"file{number}"
        path.write_bytes(chance.randbytes(chance.randint(1_000, 8_000)))
        files.append(path)
    return files


class Daemon:
    """One life of the daemon; `files` are lines for `sources.file_integrity`."""

    def __init__(self, folder: Path, files: Sequence[str]) -> None:
        self.folder = folder
        (folder / "rules").mkdir(exist_ok=True)
        (folder / "rules" / "changed.yml").write_text(RULE)
        (folder / "audit.log").touch()
        lines = "".join(f"    {line}\n" for line in files)
        (folder / "config.yaml").write_text(
            f"sources:\n  audit_log:\n    path: {folder}/audit.log\n  audit_netlink:\n    enabled: false\n"
            f"  journal:\n    enabled: false\n  host_metrics:\n    enabled: false\n  file_integrity:\n{lines}"
            f"triage:\n  enabled: false\njournald:\n  enabled: false\nrules:\n  folders: [rules]\n"
            f"store:\n  path: {folder}/watchdogd.db\ncontrol:\n  path: {folder}/control.sock\nlog:\n  level: debug\n"
        )
        self.said = folder / "stderr"
        with self.said.open("wb") as stderr:
            command = [sys.executable, "-m", "watchdogd", "run", "--config", str(folder / "config.yaml")]
            self.process = psutil.Popen(command, stderr=stderr)

    def wait_for(self, pattern: str | re.Pattern[str], timeout_s: float = 3600) -> re.Match[str]:
        """Wait until the daemon has said so."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            if found := re.search(pattern, self.said.read_text()):
                return found
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        sys.exit(f"waited in vain for {pattern}:\n{self.said.read_text()}")

    def stop(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def measure(self) -> str:
        """Memory and CPU time of the daemon itself, its children left out."""
        cpu = self.process.cpu_times()
        peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8"))
        peak_mb = int(peak[1]) / 1024 if peak else 0
        memory_mb = self.process.memory_info().rss / 2**20
        return f"{memory_mb:5.1f} MB now, {peak_mb:5.1f} MB at most, {cpu.user + cpu.system:6.2f} s of CPU time"


def report(name: str, daemon: Daemon, found: re.Match[str]) -> None:
    """Print one scan."""
    _, files, elapsed_s, cpu_s, memory_mb = found.groups()
    print(f"{name:28} {files:>7} files {elapsed_s:>7} s elapsed {cpu_s:>6} s CPU {memory_mb:>3} MB; {daemon.measure()}")


def measure_delays(folder: Path, files: list[Path]) -> list[float]:
    """How long after a change its alert is in the database, in seconds."""
    delays = []
    with sqlite3.connect(f"file:{folder}/watchdogd.db?mode=ro", uri=True) as database:
        for number, path in enumerate(files, 1):
            path.write_bytes(b"changed")
            began_s = time.monotonic()
            while database.execute("SELECT count(*) FROM alerts").fetchone()[0] < number:
                time.sleep(0.01)
            delays.append(time.monotonic() - began_s)
    return sorted(delays)


def main() -> None:
    """Run it all."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    settings = ("special_folders: []", "who_wait_s: 0")
    with tempfile.TemporaryDirectory() as place:
        folder, root = Path(place).resolve(), Path(place).resolve() / "root"
        files = make_files(root, count)
        subprocess.run(["sync"], check=True)
        without = Daemon(folder, ("enabled: false",))
        without.wait_for("ready:")
        time.sleep(2)
        print(f"{'without file integrity':28} {without.measure()}")
        without.stop()
        watched = (f"paths: [{root}]", *settings)
        runs = (
            ("first scan, a whole core", (*watched, "cpu_share: 1")),
            ("a start, nothing changed", (*watched, "cpu_share: 1")),
            ("a start, share 0.2", watched),
            ("all read again, share 0.2", (*watched, "read_interval_s: 60")),
        )
        for name, lines in runs:
            if "read_interval_s: 60" in lines:
                time.sleep(61)
            daemon = Daemon(folder, lines)
            report(name, daemon, daemon.wait_for(SCANNED))
            if name == runs[1][0]:
                delays = measure_delays(folder, files[:CHANGED])
                print(f"{'':28} change to alert: {delays[CHANGED // 2]:.2f} s (median), {delays[-1]:.2f} s at most")
            daemon.stop()
        print(f"{'database':28} {(folder / 'watchdogd.db').stat().st_size / 2**20:.0f} MB")


if __name__ == "__main__":
    main()
