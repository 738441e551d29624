"""Figures that need an earlier reading: shares of CPU time, growth a second."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from watchdogd.collect.host_figures import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from watchdogd.collect.host_reader import CpuTimes, DiskCounters, LinkCounters

MEAN_WINDOW_S = 300.0
_TOTALS = 512
"""Names of interfaces may change for ever."""


class Rates:
    """Growth a second of totals that only grow; nothing after a reset (a device went, a counter wrapped)."""

    def __init__(self) -> None:
        self._totals: dict[str, tuple[float, float]] = {}

    def measure(self, name: str, total: float, now_s: float) -> float | None:
        """Since the call before with this name; None for the first."""
        before = self._totals.pop(name, None)
        self._totals[name] = (now_s, total)
        if len(self._totals) > _TOTALS:
            del self._totals[next(iter(self._totals))]
        if before is None or now_s <= before[0] or total < before[1]:
            return None
        return (total - before[1]) / (now_s - before[0])


class CpuShares:
    """Shares of CPU time since the sample before, and over five minutes."""

    def __init__(self) -> None:
        self._history: deque[tuple[float, CpuTimes]] = deque()
        self._cores: dict[int, CpuTimes] = {}

    def measure(self, times: CpuTimes, now_s: float) -> Iterator[Figure]:
        """All CPUs together."""
        history = self._history
        if history and (elapsed_s := times.total_s - history[-1][1].total_s) > 0:
            last = history[-1][1]
            yield Figure("cpu.percent", _share_busy(last, times))
            yield Figure("cpu.iowait_percent", _share(times.iowait_s - last.iowait_s, elapsed_s))
            yield Figure("cpu.steal_percent", _share(times.steal_s - last.steal_s, elapsed_s))
        history.append((now_s, times))
        while len(history) > 1 and now_s - history[1][0] >= MEAN_WINDOW_S:
            history.popleft()
        oldest_s, oldest = history[0]
        if now_s - oldest_s >= MEAN_WINDOW_S and times.total_s > oldest.total_s:
            yield Figure("cpu.percent_5m", _share_busy(oldest, times))

    def measure_cores(self, cores: Mapping[int, CpuTimes]) -> Iterator[Figure]:
        """Each CPU since the call before."""
        for number, times in cores.items():
            before = self._cores.get(number)
            if before is not None and times.total_s > before.total_s:
                yield Figure("cpu.core_percent", _share_busy(before, times), number)
        self._cores = dict(cores)


class DiskRates:
    """Disks: all together with each sample, each by itself more seldom."""

    def __init__(self, rates: Rates) -> None:
        self._rates = rates

    def measure(self, disks: Mapping[str, DiskCounters], now_s: float) -> Iterator[Figure]:
        """Sums, and how busy the busiest was."""
        read = sum(disk.read_bytes for disk in disks.values())
        written = sum(disk.write_bytes for disk in disks.values())
        operations = sum(disk.operations for disk in disks.values())
        for metric, total in (
            ("disk.io_bytes_per_s", read + written),
            ("disk.read_bytes_per_s", read),
            ("disk.write_bytes_per_s", written),
            ("disk.operations_per_s", operations),
        ):
            yield from self._tell(metric, total, now_s)
        busy = [self._rates.measure(f"busy {name}", disk.busy_s, now_s) for name, disk in disks.items()]
        if known := [share for share in busy if share is not None]:
            yield Figure("disk.busy_percent", min(100 * max(known), 100.0))

    def measure_devices(self, disks: Mapping[str, DiskCounters], now_s: float) -> Iterator[Figure]:
        """Each disk since the call before."""
        for name, disk in disks.items():
            yield from self._tell("disk.device_bytes_per_s", disk.read_bytes + disk.write_bytes, now_s, name)
            yield from self._tell("disk.device_operations_per_s", disk.operations, now_s, name)
            busy = self._rates.measure(f"device busy {name}", disk.busy_s, now_s)
            if busy is not None:
                yield Figure("disk.device_busy_percent", min(100 * busy, 100.0), name)

    def _tell(self, metric: str, total: float, now_s: float, part: str | None = None) -> Iterator[Figure]:
        yield from tell_rate(self._rates, metric, total, now_s, part)


def measure_network(rates: Rates, links: Mapping[str, LinkCounters], now_s: float) -> Iterator[Figure]:
    """Interfaces to the outside together."""
    received = sum(link.received_bytes for link in links.values())
    sent = sum(link.sent_bytes for link in links.values())
    for metric, total in (
        ("network.bytes_per_s", received + sent),
        ("network.received_bytes_per_s", received),
        ("network.sent_bytes_per_s", sent),
        ("network.errors_per_s", sum(link.errors for link in links.values())),
        ("network.drops_per_s", sum(link.drops for link in links.values())),
    ):
        yield from tell_rate(rates, metric, total, now_s)


def measure_interfaces(rates: Rates, links: Mapping[str, LinkCounters], now_s: float) -> Iterator[Figure]:
    """Each interface since the call before."""
    for name, link in links.items():
        traffic = link.received_bytes + link.sent_bytes
        yield from tell_rate(rates, "network.interface_bytes_per_s", traffic, now_s, name)
        yield from tell_rate(rates, "network.interface_errors_per_s", link.errors, now_s, name)
        yield from tell_rate(rates, "network.interface_drops_per_s", link.drops, now_s, name)


def tell_rate(rates: Rates, metric: str, total: float, now_s: float, part: str | None = None) -> Iterator[Figure]:
    """The growth a second of one metric, where it is known."""
    rate = rates.measure(metric if part is None else f"{metric}:{part}", total, now_s)
    if rate is not None:
        yield Figure(metric, rate, part)


class ClockSteps:
    """How far the wall clock left the monotonic one: set by somebody, or the host slept."""

    def __init__(self) -> None:
        self._before = math.nan

    def measure(self, now_s: float, now_ms: int) -> Iterator[Figure]:
        """Seconds since the call before, forward or back (negative)."""
        apart = now_ms / 1000 - now_s
        if not math.isnan(self._before):
            yield Figure("clock.step_seconds", apart - self._before)
        self._before = apart


def _share_busy(before: CpuTimes, after: CpuTimes) -> float:
    return _share(after.busy_s - before.busy_s, after.total_s - before.total_s)


def _share(part: float, whole: float) -> float:
    return 100 * min(max(part / whole, 0.0), 1.0)
