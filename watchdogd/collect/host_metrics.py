"""The host's figures as events: what is measured, how unusual it is here, and which process weighs most."""

from __future__ import annotations

import bisect
import functools
import math
from collections import deque
from typing import TYPE_CHECKING

import msgspec
import psutil

from watchdogd.collect.host_reader import HostReader, PsutilReader, escape_bytes
from watchdogd.entities import Event, EventId, FieldValue, View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import TypeVar

    from watchdogd.collect.host_reader import CpuTimes, ProcessSample
    from watchdogd.ports import Clock
    from watchdogd.telemetry import Counters

    ValueT = TypeVar("ValueT")

SOURCE = "host_metrics"
BASELINE_SAMPLES = 360
"""An hour at one sample every 10 s."""
WARM_UP_SAMPLES = 30
MEAN_WINDOW_S = 300.0
WALK_INTERVAL_S = 60.0

_MAD_TO_SIGMA = 1.4826
"""1 / (the normal distribution's 75 % quantile): makes the MAD of normal noise its standard deviation."""
_RESOLUTION = {"percent": 0.5, "load": 0.05, "bytes/s": 1024.0, "errors/s": 0.1, "processes": 1.0}
"""Least spread by unit: a figure that never moved must not turn its first small step into a huge z-score."""


class Figure(msgspec.Struct, frozen=True):
    """One measured value. `behind` names the kind of heaviest process that explains it: `cpu`, `memory` or none."""

    metric: str
    value: float
    unit: str
    behind: str = ""
    mount: str | None = None

    @property
    def series(self) -> str:
        """What tells figures of one sample apart: `disk.used_percent:/home`."""
        return self.metric if self.mount is None else f"{self.metric}:{self.mount}"


class Baseline:
    """Median and spread of the last BASELINE_SAMPLES values of one series; memory is bounded by them."""

    def __init__(self) -> None:
        self._in_time: deque[float] = deque()
        self._in_order: list[float] = []

    def judge(self, value: float, resolution: float) -> tuple[float | None, float | None]:
        """Median and z-score of a value against the values before it; None, None in the warm-up.

        The z-score is robust (Iglewicz and Hoaglin 1993): distance from the median in units of 1.4826 MAD, or of
        `resolution` where that is more.
        """
        if len(self._in_order) < WARM_UP_SAMPLES:
            return None, None
        median = _take_median(self._in_order)
        mad = _take_median(sorted([abs(known - median) for known in self._in_order]))
        return median, (value - median) / max(_MAD_TO_SIGMA * mad, resolution)

    def add(self, value: float) -> None:
        """Remember a value, and forget the oldest beyond the window."""
        if len(self._in_time) >= BASELINE_SAMPLES:
            oldest = self._in_time.popleft()
            del self._in_order[bisect.bisect_left(self._in_order, oldest)]
        self._in_time.append(value)
        bisect.insort(self._in_order, value)


class HostMetrics:
    """Samples the host: one event for each figure, in the view `category: host_metrics`.

    Rates (CPU, disk, network) need two samples and appear from the second on, `cpu.percent_5m` after five minutes.
    What the host lacks is left out, and counted once as `collect_metric_sensors_missing_total`.
    """

    def __init__(self, counters: Counters, clock: Clock, *, reader: HostReader | None = None) -> None:
        self._counters = counters
        self._clock = clock
        self._reader: HostReader = reader or PsutilReader()
        self._missing: set[str] = set()
        self._baselines: dict[str, Baseline] = {}
        self._cpu_history: deque[tuple[float, CpuTimes]] = deque()
        self._totals: dict[str, tuple[float, float]] = {}
        self._mounts: tuple[str, ...] = ()
        self._walked_s = -math.inf
        self._walk: dict[tuple[int, float], ProcessSample] = {}
        self._heaviest: dict[str, dict[str, FieldValue]] = {}

    @property
    def missing(self) -> frozenset[str]:
        """Sensors that gave nothing when they were last read."""
        return frozenset(self._missing)

    def sample(self) -> list[Event]:
        """Observe once. Never raises for a sensor; costs 1-2 ms, and once a minute a walk over all processes."""
        now_s, now_ms = self._clock.monotonic_s(), self._clock.now_ms()
        if now_s - self._walked_s >= WALK_INTERVAL_S:
            self._walk_processes(now_s)
            self._refresh_mounts()
        return [self._build_event(figure, now_ms) for figure in self._measure(now_s)]

    def _measure(self, now_s: float) -> Iterator[Figure]:
        yield from self._measure_cpu(now_s)
        yield from self._measure_load()
        used = self._read("memory", self._reader.read_memory_used_percent)
        if used is not None:
            yield Figure("memory.used_percent", used, "percent", "memory")
            yield Figure("memory.available_percent", 100 - used, "percent", "memory")
        swap = self._read("swap", self._reader.read_swap_used_percent)
        if swap is not None:
            yield Figure("swap.used_percent", swap, "percent", "memory")
        yield from self._measure_disks()
        disk_bytes = self._read("disk.io", self._reader.read_disk_bytes)
        yield from self._measure_rate("disk.io_bytes_per_s", disk_bytes, "bytes/s", now_s)
        traffic, errors = self._read("network", self._reader.read_network) or (None, None)
        yield from self._measure_rate("network.bytes_per_s", traffic, "bytes/s", now_s)
        yield from self._measure_rate("network.errors_per_s", errors, "errors/s", now_s)
        count = self._read("processes", self._reader.read_process_count)
        if count is not None:
            yield Figure("processes.count", count, "processes")

    def _measure_cpu(self, now_s: float) -> Iterator[Figure]:
        times = self._read("cpu", self._reader.read_cpu_times)
        if times is None:
            return
        history = self._cpu_history
        if history and times.total_s > history[-1][1].total_s:
            yield Figure("cpu.percent", _share_busy(history[-1][1], times), "percent", "cpu")
        history.append((now_s, times))
        while len(history) > 1 and now_s - history[1][0] >= MEAN_WINDOW_S:
            history.popleft()
        oldest_s, oldest = history[0]
        if now_s - oldest_s >= MEAN_WINDOW_S and times.total_s > oldest.total_s:
            yield Figure("cpu.percent_5m", _share_busy(oldest, times), "percent", "cpu")

    def _measure_load(self) -> Iterator[Figure]:
        load = self._read("load", self._reader.read_load)
        if load is None:
            return
        for name, value in zip(("load.1m", "load.5m", "load.15m"), load, strict=True):
            yield Figure(name, value, "load", "cpu")
        count = self._read("cpu.count", self._reader.read_cpu_count)
        if count:
            yield Figure("load.per_cpu_5m", load[1] / count, "load", "cpu")

    def _measure_disks(self) -> Iterator[Figure]:
        for mount in self._mounts:
            usage = self._read(f"disk:{mount}", functools.partial(self._reader.read_disk_usage, mount))
            if usage is None:
                continue
            shown = escape_bytes(mount)
            yield Figure("disk.used_percent", usage.used_percent, "percent", mount=shown)
            if usage.inodes_used_percent is not None:
                yield Figure("disk.inodes_used_percent", usage.inodes_used_percent, "percent", mount=shown)

    def _measure_rate(self, metric: str, total: float | None, unit: str, now_s: float) -> Iterator[Figure]:
        """Growth a second since the sample before; nothing after a reset (a device went, a counter wrapped)."""
        if total is None:
            self._totals.pop(metric, None)
            return
        before = self._totals.get(metric)
        self._totals[metric] = (now_s, total)
        if before is not None and now_s > before[0] and total >= before[1]:
            yield Figure(metric, (total - before[1]) / (now_s - before[0]), unit)

    def _build_event(self, figure: Figure, now_ms: int) -> Event:
        baseline = self._baselines.setdefault(figure.series, Baseline())
        value = round(figure.value, 3)
        median, zscore = baseline.judge(value, _RESOLUTION[figure.unit])
        baseline.add(value)
        fields: dict[str, FieldValue | tuple[FieldValue, ...]] = {
            "metric": figure.metric,
            "value": value,
            "unit": figure.unit,
            "baseline": None if median is None else round(median, 3),
            "zscore": None if zscore is None else round(zscore, 2),
        }
        if figure.mount is not None:
            fields["mount"] = figure.mount
        fields.update(self._heaviest.get(figure.behind, {}))
        view = View(category=SOURCE, action="sample", outcome="success", fields=fields)
        return Event(id=EventId(SOURCE, None, now_ms, 0, figure.series), source=SOURCE, views=(view,))

    def _walk_processes(self, now_s: float) -> None:
        samples = self._read("process walk", self._reader.walk_processes)
        if samples is None:
            self._walked_s, self._walk, self._heaviest = now_s, {}, {}
            return
        elapsed_s = now_s - self._walked_s
        fresh = {(sample.pid, sample.start_s): sample for sample in samples}
        # A process that was not there before has spent all its time since: its start is the walk before.
        used = {
            key: sample.cpu_s - self._walk[key].cpu_s if key in self._walk else sample.cpu_s
            for key, sample in fresh.items()
        }
        self._heaviest = {}
        if self._walk and used:
            key = max(used, key=lambda key: used[key])
            percent = round(100 * used[key] / elapsed_s, 1)
            self._heaviest["cpu"] = self._describe(key[0], {"ProcessCpuPercent": percent})
        if fresh:
            largest = max(fresh.values(), key=lambda sample: sample.memory_bytes)
            self._heaviest["memory"] = self._describe(largest.pid, {"ProcessMemoryBytes": largest.memory_bytes})
        self._walked_s, self._walk = now_s, fresh

    def _describe(self, pid: int, weight: Mapping[str, FieldValue]) -> dict[str, FieldValue]:
        fields = self._read("process", functools.partial(self._reader.describe_process, pid))
        return {**fields, **weight} if fields else {}

    def _refresh_mounts(self) -> None:
        self._mounts = self._read("mounts", self._reader.list_mounts) or ()
        known = {escape_bytes(mount) for mount in self._mounts}
        gone = [series for series in self._baselines if ":" in series and series.split(":", 1)[1] not in known]
        for series in gone:
            del self._baselines[series]

    def _read(self, sensor: str, read: Callable[[], ValueT | None]) -> ValueT | None:
        """Read a sensor; None where it is not there or gives nothing, counted when that begins."""
        try:
            value = read()
        except (OSError, ValueError, AttributeError, ZeroDivisionError, NotImplementedError, psutil.Error):
            value = None
        if value is not None:
            self._missing.discard(sensor)
        elif sensor not in self._missing:
            self._missing.add(sensor)
            self._counters.add("collect_metric_sensors_missing_total")
        return value


def _share_busy(before: CpuTimes, after: CpuTimes) -> float:
    share = (after.busy_s - before.busy_s) / (after.total_s - before.total_s)
    return 100 * min(max(share, 0.0), 1.0)


def _take_median(ordered: list[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
