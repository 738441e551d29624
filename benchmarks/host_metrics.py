"""What the host's own figures cost in CPU time: a sample, one with a walk over processes, and the minute's rounds.

    python -m benchmarks.host_metrics [PROCESSES]

CPU time (user and system) of this process, not wall: other work on the machine does not count. With PROCESSES so many
sleeping children are there beside what runs. Also: memory that three hundred samples leave behind.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

import psutil

from watchdogd.collect.host_metrics import HostMetrics
from watchdogd.ports import SystemClock
from watchdogd.telemetry import Counters

ROUNDS = 50


class Clock:
    """One that this benchmark moves: ten seconds pass with each sample."""

    def __init__(self) -> None:
        self.passed_s = 0.0
        self._clock = SystemClock()

    def now_ms(self) -> int:
        """Wall clock."""
        return self._clock.now_ms() + round(1000 * self.passed_s)

    def monotonic_s(self) -> float:
        """The same hand."""
        return self._clock.monotonic_s() + self.passed_s


def main() -> None:
    """Print the table."""
    children = [subprocess.Popen(["sleep", "600"]) for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 0)]
    try:
        compare()
    finally:
        for child in children:
            child.kill()
            child.wait()


def compare() -> None:
    """Six samples a minute. A busy machine makes each sample walk, so that its figures are taken by themselves, too."""
    clock = Clock()
    metrics = HostMetrics(Counters(), clock)
    before = psutil.Process().memory_info().rss
    costs_ms: dict[str, list[float]] = {"figures of a sample": [], "with a walk": [], "once a minute": []}
    numbers = dict.fromkeys(costs_ms, 0)
    for number in range(6 * ROUNDS):
        clock.passed_s += 10
        began_s = time.process_time()
        events = metrics.sample()
        spent_ms = 1000 * (time.process_time() - began_s)
        has_walked = metrics._walked_s > clock.monotonic_s() - 5  # noqa: SLF001 - told to nobody else
        kind = "once a minute" if number % 6 == 0 else "with a walk" if has_walked else "figures of a sample"
        costs_ms[kind].append(spent_ms)
        numbers[kind] = max(numbers[kind], len(events))
    after = psutil.Process().memory_info().rss
    for _ in range(ROUNDS):
        clock.passed_s += 10
        began_s = time.process_time()
        figures = list(metrics._measure(clock.monotonic_s(), clock.now_ms(), is_slow=False))  # noqa: SLF001 - as above
        events = [metrics._build_event(figure, 0) for figure in figures]  # noqa: SLF001 - as above
        costs_ms["figures of a sample"].append(1000 * (time.process_time() - began_s))
        numbers["figures of a sample"] = len(events)
    print(f"{len(psutil.pids())} processes, {os.cpu_count()} CPUs")
    for kind, spent in costs_ms.items():
        if spent:
            told = f"median of {len(spent)}, most {max(spent):.2f}"
            print(f"{kind:20} {numbers[kind]:3} events {statistics.median(spent):6.2f} ms of CPU ({told})")
    print(f"memory {(after - before) / 1024:.0f} KiB after {6 * ROUNDS} samples")


if __name__ == "__main__":
    main()
