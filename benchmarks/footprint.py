"""`python -m benchmarks.footprint [RELEASE]`: what the service costs a host, as its package installs it.

A Debian is booted in systemd-nspawn, the package of this checkout installed, every packaged rule in force, all settings
as shipped but for a model (there is none). systemd tells how long a start takes, /proc the memory and CPU time of the
main process and of its children, journald when an alert's record came. Prints a table beside the goals and passes no
judgement.
Needs root, systemd-nspawn and mmdebstrap; six minutes. A busy machine makes every figure but memory worse.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.daemon import IMPLANT, RULE, RULE_ID, make_exec_lines
from tests.host import guard
from tests.host.machine import Machine, build_release
from tools.build_deb import build, build_wheel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
SUITES = {"debian12": "bookworm", "debian13": "trixie"}
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
IDLE_S = 60.0
BUSY_S = 60.0
LINES_A_SECOND = 100
ALERTS = 300
STARTS = 5
RELOADS = 3


class Sample(NamedTuple):
    """The service's processes at a moment: CPU time so far, and the main one's memory."""

    time_s: float
    main_s: float
    all_s: float
    rss_kib: int


def main() -> None:
    """Measure and print."""
    release = sys.argv[1] if len(sys.argv) > 1 else "debian12"
    missing = guard.find_missing("mmdebstrap", "systemd-nspawn")
    if os.geteuid() != 0 or missing:
        print(f"footprint: left out ({missing or 'needs root'})")
        return
    with tempfile.TemporaryDirectory(prefix="watchdogd-footprint-") as name, guard.hold_lock():
        folder = Path(name)
        for below in ("wheel", "packages", "audit"):
            (folder / below).mkdir()
        package = build(release, build_wheel(folder / "wheel"), folder / "packages")
        log = folder / "audit" / "audit.log"
        log.touch()
        binds = {"/packages": package.parent, "/var/log/audit": log.parent}
        with Machine(build_release(SUITES[release]), folder / "console", binds) as machine:
            prepare(machine, package)
            print(f"{'what':<52}{'measured':>22}{'goal':>12}")
            for what, measured, goal in measure(machine, log):
                print(f"{what:<52}{measured:>22}{goal:>12}", flush=True)


def prepare(machine: Machine, package: Path) -> None:
    """Install the package, add a rule whose alerts are told at once and one by one, and take the model away."""
    machine.run("apt-get", "install", "-y", "-qq", f"/packages/{package.name}", timeout_s=180)
    config = machine.run("cat", "/etc/watchdogd/config.yaml").stdout
    changed = re.sub(r"(\ntriage:\n(?:.*\n)*?  enabled: )true", r"\1false", config, count=1)
    if changed == config:
        sys.exit("footprint: config.yaml has changed, triage cannot be switched off in it")
    machine.write("/etc/watchdogd/config.yaml", changed)
    rule = RULE.format(level="critical").replace(
        "group_by: [command_line]", "group_by: [command_line]\n    cooldown: 0s"
    )
    machine.write("/etc/watchdogd/rules/implant.yml", rule)


def measure(machine: Machine, log: Path) -> Iterator[tuple[str, str, str]]:
    """Rows of the table: what, how much, what the goal is."""
    machine.run("systemctl", "start", "watchdogd", timeout_s=120)
    yield "first start, rules read anew", f"{read_start_s(machine):.2f} s", ""
    starts = []
    for _ in range(STARTS):
        machine.run("systemctl", "reset-failed", "watchdogd")
        machine.run("systemctl", "restart", "watchdogd", timeout_s=120)
        starts.append(read_start_s(machine))
    yield "start until READY (median, worst)", f"{statistics.median(starts):.2f} s, {max(starts):.2f} s", "1 s"
    status = json.loads(machine.run("watchdogd", "status", "--format", "json").stdout)
    yield "rules active", str(status["active"]), ""
    time.sleep(20)
    before, after = observe(machine, lambda: time.sleep(IDLE_S))
    yield "VmRSS of the main process, idle", f"{after.rss_kib / 1024:.1f} MiB", "64 MB"
    yield f"CPU of one core, idle for {IDLE_S:.0f} s", show_cpu(before, after), "0.3 %"
    yield "  with children (journalctl)", show_cpu(before, after, whole=True), ""
    alerts = count_alerts(machine)
    before, after = observe(machine, lambda: write_work(log))
    alerts = count_alerts(machine) - alerts
    yield f"CPU of one core at {LINES_A_SECOND} audit lines a second", show_cpu(before, after), "2 %"
    yield "  with children", show_cpu(before, after, whole=True), ""
    yield "  alerts a second in it, told or counted", f"{alerts / BUSY_S:.1f}", ""
    delays_ms = sorted(time_alerts(machine, log))
    yield (
        f"line written to journal record, {len(delays_ms)} alerts, p50",
        f"{delays_ms[len(delays_ms) // 2]:.0f} ms",
        "",
    )
    yield "  p99", f"{delays_ms[int(len(delays_ms) * 0.99)]:.0f} ms", "100 ms"
    yield "VmRSS of the main process afterwards", f"{take_sample(machine).rss_kib / 1024:.1f} MiB", "64 MB"
    for number in range(RELOADS):
        rule = RULE.format(level="low").replace(RULE_ID, f"{number:08d}-1111-4111-8111-111111111111")
        machine.write("/etc/watchdogd/rules/more.yml", rule.replace(IMPLANT, f"/opt/more/{number}"))
        machine.run("watchdogd", "reload", timeout_s=120)
    yield f"  after {RELOADS} reloads", f"{take_sample(machine).rss_kib / 1024:.1f} MiB", "64 MB"
    write_work(log)
    yield "  after as many lines again", f"{take_sample(machine).rss_kib / 1024:.1f} MiB", "64 MB"


def count_alerts(machine: Machine) -> int:
    """Alerts so far."""
    counters = json.loads(machine.run("watchdogd", "status", "--format", "json").stdout)["counters"]
    return int(counters.get("judge_alerts_total", 0))


def read_start_s(machine: Machine) -> float:
    """From the start of the process to its READY=1, as systemd noted it."""
    names = ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    began_us, ready_us = (int(machine.show("watchdogd", name)) for name in names)
    return (ready_us - began_us) / 1e6


def observe(machine: Machine, work: Callable[[], None]) -> tuple[Sample, Sample]:
    """Samples before and after."""
    before = take_sample(machine)
    work()
    return before, take_sample(machine)


def take_sample(machine: Machine) -> Sample:
    """Read /proc once."""
    main_pid = int(machine.show("watchdogd", "MainPID"))
    script = "cd /proc; for p in [0-9]*; do cat $p/stat 2>/dev/null; done; grep VmRSS $0/status"
    *lines, rss = machine.run("sh", "-c", script, str(main_pid)).stdout.splitlines()
    now_s = time.monotonic()
    parents: dict[int, int] = {}
    used_s: dict[int, float] = {}
    for line in lines:
        pid, rest = int(line.split()[0]), line.rpartition(")")[2].split()
        parents[pid], used_s[pid] = int(rest[1]), (int(rest[11]) + int(rest[12])) * TICK_S
    children_s = sum(used_s[pid] for pid, parent in parents.items() if parent == main_pid)
    return Sample(now_s, used_s[main_pid], used_s[main_pid] + children_s, int(rss.split()[1]))


def show_cpu(before: Sample, after: Sample, *, whole: bool = False) -> str:
    """Percent of one core between two samples."""
    used_s = after.all_s - before.all_s if whole else after.main_s - before.main_s
    return f"{100 * used_s / (after.time_s - before.time_s):.2f} %"


def write_work(log: Path) -> None:
    """A recorded morning of ordinary work, an attack in it, as if it happened now, evenly for BUSY_S."""
    events: list[list[str]] = []
    for line in (ROOT / "tests/data/demo.log").read_text(errors="surrogateescape").splitlines():
        found = re.search(r"msg=audit\([0-9.]+:(\d+)\)", line)
        if found is None:
            continue
        if not events or f":{found[1]})" not in events[-1][-1]:
            events.append([])
        events[-1].append(line)
    serial, written, began_s = 1_000_000, 0, time.monotonic()
    while (spent_s := time.monotonic() - began_s) < BUSY_S:
        with log.open("a", errors="surrogateescape") as file:
            while written < spent_s * LINES_A_SECOND:
                serial += 1
                stamp = f"msg=audit({time.time():.3f}:{serial})"
                lines = events[serial % len(events)]
                file.writelines(re.sub(r"msg=audit\([0-9.:]+\)", stamp, line, count=1) + "\n" for line in lines)
                written += len(lines)
        time.sleep(0.1)


def time_alerts(machine: Machine, log: Path) -> list[float]:
    """Milliseconds from the write of an event's last line to the time of its record in the journal, of each alert."""
    written_us: dict[str, int] = {}
    for number in range(ALERTS):
        serial = 2_000_000 + number
        with log.open("ab") as file:
            file.write(make_exec_lines(serial))
        written_us[f"{IMPLANT} {serial}"] = time.time_ns() // 1000
        time.sleep(0.05 + 0.013 * (number % 7))
    time.sleep(3)
    machine.run("journalctl", "--sync")
    shown = machine.run("journalctl", "-q", "--no-pager", "-o", "json", "-t", "watchdogd", timeout_s=120).stdout
    came_us: dict[str, int] = {}
    for line in shown.splitlines():
        entry = json.loads(line)
        came_us.setdefault(str(entry.get("WATCHDOGD_CMDLINE")), int(entry["__REALTIME_TIMESTAMP"]))
    missing = [name for name in written_us if name not in came_us]
    if missing:
        sys.exit(f"footprint: {len(missing)} of {ALERTS} alerts did not come, the first: {missing[0]}")
    return [(came_us[name] - written_us[name]) / 1000 for name in written_us]


if __name__ == "__main__":
    main()
