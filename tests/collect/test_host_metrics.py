from __future__ import annotations

import math
import os
import statistics
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.collect.host_metrics import BASELINE_SAMPLES, WARM_UP_SAMPLES, Baseline, HostMetrics
from watchdogd.collect.host_reader import CpuTimes, DiskUsage, ProcessSample, PsutilReader, escape_bytes
from watchdogd.ports import SystemClock
from watchdogd.telemetry import Counters


class StepClock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def now_ms(self) -> int:
        return 1_700_000_000_000 + round(self.now_s * 1000)

    def monotonic_s(self) -> float:
        return self.now_s


class ScriptedReader:
    """A host whose figures the test sets; a figure that is an exception is raised."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {
            "cpu": CpuTimes(0.0, 0.0),
            "cpus": 4,
            "load": (1.0, 2.0, 3.0),
            "memory": 40.0,
            "swap": 5.0,
            "mounts": ("/", "/home"),
            "disk": DiskUsage(70.0, 10.0),
            "io": 0,
            "network": (0, 0),
            "count": 9,
            "walk": (ProcessSample(1, 5.0, 1.0, 100), ProcessSample(2, 6.0, 1.0, 900)),
        }
        self.walks = 0

    def get(self, name: str) -> Any:  # noqa: ANN401 - figures of any kind
        value = self.figures[name]
        if isinstance(value, Exception):
            raise value
        return value

    def read_cpu_times(self) -> CpuTimes | None:
        return self.get("cpu")  # type: ignore[no-any-return]

    def read_cpu_count(self) -> int | None:
        return self.get("cpus")  # type: ignore[no-any-return]

    def read_load(self) -> tuple[float, float, float] | None:
        return self.get("load")  # type: ignore[no-any-return]

    def read_memory_used_percent(self) -> float | None:
        return self.get("memory")  # type: ignore[no-any-return]

    def read_swap_used_percent(self) -> float | None:
        return self.get("swap")  # type: ignore[no-any-return]

    def list_mounts(self) -> tuple[str, ...]:
        return self.get("mounts")  # type: ignore[no-any-return]

    def read_disk_usage(self, mount: str) -> DiskUsage | None:
        assert mount in self.figures["mounts"]
        return self.get("disk")  # type: ignore[no-any-return]

    def read_disk_bytes(self) -> int | None:
        return self.get("io")  # type: ignore[no-any-return]

    def read_network(self) -> tuple[int, int] | None:
        return self.get("network")  # type: ignore[no-any-return]

    def read_process_count(self) -> int | None:
        return self.get("count")  # type: ignore[no-any-return]

    def walk_processes(self) -> tuple[ProcessSample, ...]:
        self.walks += 1
        return self.get("walk")  # type: ignore[no-any-return]

    def describe_process(self, pid: int) -> dict[str, str | int]:
        return {"ProcessId": pid, "Image": f"/bin/p{pid}"}


class Host:
    def __init__(self) -> None:
        self.counters, self.clock, self.reader = Counters(), StepClock(), ScriptedReader()
        self.metrics = HostMetrics(self.counters, self.clock, reader=self.reader)

    def sample(self, step_s: float = 10.0, **figures: object) -> dict[str, dict[str, Any]]:
        """Fields by series of the next sample, `step_s` after the last one."""
        self.clock.now_s += step_s
        self.reader.figures.update(figures)
        return {event.id.name: event.views[0].fields for event in self.metrics.sample()}


@pytest.fixture
def host() -> Host:
    return Host()


def test_an_event_is_what_rules_judge(host: Host) -> None:
    host.clock.now_s = 0.0
    events = {event.id.name: event for event in host.metrics.sample()}
    event = events["disk.used_percent:/home"]
    assert event.source == event.id.source == "host_metrics"
    assert event.id.text() == "host_metrics||1700000000000|0|disk.used_percent:/home"
    (view,) = event.views
    assert (view.category, view.action, view.outcome) == ("host_metrics", "sample", "success")
    assert view.fields == {
        "metric": "disk.used_percent",
        "value": 70.0,
        "unit": "percent",
        "baseline": None,
        "zscore": None,
        "mount": "/home",
    }
    assert len({event.id for event in events.values()}) == len(events)


def test_the_first_sample_holds_what_needs_no_second(host: Host) -> None:
    assert set(host.sample()) == {
        "load.1m",
        "load.5m",
        "load.15m",
        "load.per_cpu_5m",
        "memory.used_percent",
        "memory.available_percent",
        "swap.used_percent",
        "disk.used_percent:/",
        "disk.used_percent:/home",
        "disk.inodes_used_percent:/",
        "disk.inodes_used_percent:/home",
        "processes.count",
    }


def test_shares_and_rates_are_computed_over_the_time_between(host: Host) -> None:
    host.sample(cpu=CpuTimes(100.0, 1000.0), io=1000, network=(500, 1))
    fields = host.sample(step_s=5.0, cpu=CpuTimes(115.0, 1020.0), io=6000, network=(10_500, 3))
    assert fields["cpu.percent"]["value"] == 75.0
    assert fields["disk.io_bytes_per_s"]["value"] == 1000.0
    assert fields["network.bytes_per_s"]["value"] == 2000.0
    assert fields["network.errors_per_s"]["value"] == 0.4
    assert fields["load.per_cpu_5m"]["value"] == 0.5
    assert fields["memory.available_percent"]["value"] == 60.0


def test_cpu_over_five_minutes_is_the_mean_of_exactly_those(host: Host) -> None:
    busy = total = 0.0
    seen = {}
    for step in range(1, 91):
        total += 10.0
        busy += 10.0 if step > 60 else 0.0
        fields = host.sample(cpu=CpuTimes(busy, total))
        seen[step] = fields.get("cpu.percent_5m", {}).get("value")
    assert seen[30] is None  # 30 samples lie 29 intervals apart
    assert seen[31] == 0.0
    assert seen[75] == 50.0
    assert seen[90] == 100.0


def test_a_counter_that_falls_back_skips_one_rate(host: Host) -> None:
    host.sample(io=5000)
    assert "disk.io_bytes_per_s" not in host.sample(io=100)
    assert host.sample(io=300)["disk.io_bytes_per_s"]["value"] == 20.0


def test_a_clock_that_stands_still_divides_by_nothing(host: Host) -> None:
    host.sample(cpu=CpuTimes(1.0, 2.0))
    assert "network.bytes_per_s" not in host.sample(step_s=0.0, network=(9, 9))


@pytest.mark.parametrize("failure", [None, OSError("gone"), psutil.AccessDenied(), NotImplementedError()])
def test_a_missing_sensor_is_left_out_and_counted_once(host: Host, failure: Exception | None) -> None:
    for _ in range(3):
        assert "swap.used_percent" not in host.sample(swap=failure)
    assert host.counters.get("collect_metric_sensors_missing_total") == 1
    assert host.metrics.missing == {"swap"}
    assert "swap.used_percent" in host.sample(swap=1.0)
    assert host.metrics.missing == frozenset()


def test_a_host_without_any_sensor_gives_nothing_and_does_not_crash(host: Host) -> None:
    everything: dict[str, object] = dict.fromkeys(host.reader.figures, OSError("no /proc"))
    host.reader.figures.update(everything)
    for _ in range(3):
        host.clock.now_s += 60
        assert host.metrics.sample() == []
    assert host.counters.get("collect_metric_sensors_missing_total") == 9


def test_the_heaviest_process_stands_behind_cpu_and_memory(host: Host) -> None:
    first = host.sample()
    assert first["memory.used_percent"]["Image"] == "/bin/p2"
    assert first["memory.used_percent"]["ProcessMemoryBytes"] == 900
    assert "Image" not in first["load.1m"]
    walk = (ProcessSample(1, 5.0, 31.0, 100), ProcessSample(2, 6.0, 2.0, 900), ProcessSample(3, 7.0, 12.0, 1))
    second = host.sample(step_s=60.0, walk=walk)
    assert second["load.1m"]["ProcessId"] == 1
    assert second["load.1m"]["ProcessCpuPercent"] == 50.0
    assert "Image" not in second["processes.count"]


def test_a_reused_pid_is_another_process(host: Host) -> None:
    host.sample(walk=(ProcessSample(1, 5.0, 100.0, 1), ProcessSample(2, 5.0, 0.0, 1)))
    fields = host.sample(step_s=60.0, walk=(ProcessSample(1, 900.0, 3.0, 1), ProcessSample(2, 5.0, 6.0, 1)))
    assert fields["load.1m"]["ProcessId"] == 2
    assert fields["load.1m"]["ProcessCpuPercent"] == 10.0


def test_processes_are_walked_once_a_minute_at_most(host: Host) -> None:
    for _ in range(13):
        host.sample(step_s=10.0)
    assert host.reader.walks == 3


def test_mounts_come_and_go_and_take_their_baseline_along(host: Host) -> None:
    host.sample()
    fields = host.sample(step_s=60.0, mounts=("/", "/srv"))
    assert "disk.used_percent:/srv" in fields
    assert "disk.used_percent:/home" not in fields
    assert not any(series.endswith(":/home") for series in host.metrics._baselines)


def test_a_mounts_name_that_is_no_text_is_written_out(host: Host) -> None:
    fields = host.sample(mounts=("/\udcffx",))
    assert fields["disk.used_percent:/\\xffx"]["mount"] == "/\\xffx"
    assert escape_bytes("/plain-ä") == "/plain-ä"


# Baselines.


def test_a_baseline_says_nothing_while_it_warms_up(host: Host) -> None:
    for _ in range(WARM_UP_SAMPLES):
        assert host.sample(memory=40.0)["memory.used_percent"]["zscore"] is None
    fields = host.sample(memory=90.0)["memory.used_percent"]
    assert fields["baseline"] == 40.0
    assert fields["zscore"] == 100.0  # 50 points over a spread of at least half a point


def test_a_spike_does_not_move_what_it_is_measured_against() -> None:
    baseline = Baseline()
    for value in [10.0, 12.0, 14.0] * 20:
        baseline.add(value)
    assert baseline.judge(12.0, 0.1) == (12.0, 0.0)
    _, zscore = baseline.judge(100.0, 0.1)
    assert zscore == pytest.approx(88 / (1.4826 * 2))


def test_slow_drift_is_followed_and_memory_stays_bounded() -> None:
    baseline = Baseline()
    for step in range(5000):
        baseline.add(step / 10)
    assert len(baseline._in_time) == len(baseline._in_order) == BASELINE_SAMPLES
    median, _ = baseline.judge(0.0, 0.1)
    assert median == pytest.approx((4999 - (BASELINE_SAMPLES - 1) / 2) / 10)


@given(
    st.lists(st.integers(-50, 50).map(lambda n: n / 4), min_size=WARM_UP_SAMPLES, max_size=500), st.floats(-100, 100)
)
def test_the_baseline_is_median_and_mad_of_the_last_values(values: list[float], value: float) -> None:
    baseline = Baseline()
    for known in values:
        baseline.add(known)
    last = values[-BASELINE_SAMPLES:]
    expected = statistics.median(last)
    mad = statistics.median(abs(known - expected) for known in last)
    median, zscore = baseline.judge(value, 0.5)
    assert median == expected
    assert zscore is not None
    assert zscore == pytest.approx((value - expected) / max(1.4826 * mad, 0.5))


# This very host.


def test_this_host_can_be_read() -> None:
    counters = Counters()
    metrics = HostMetrics(counters, SystemClock())
    first = {event.id.name: event.views[0].fields for event in metrics.sample()}
    total = sum(range(300_000))  # some CPU time between the samples
    second = {event.id.name: event.views[0].fields for event in metrics.sample()}
    assert total
    assert first.keys() <= second.keys()
    for metric in ("load.1m", "load.per_cpu_5m", "memory.used_percent", "disk.used_percent:/", "processes.count"):
        value = second[metric]["value"]
        assert isinstance(value, int | float)
        assert math.isfinite(value)
        assert value >= 0
    for fields in second.values():
        if fields["unit"] == "percent":
            assert isinstance(fields["value"], int | float)
            assert 0 <= fields["value"] <= 100
    assert isinstance(second["memory.used_percent"]["ProcessId"], int)


def test_what_psutil_reads_agrees_with_the_system() -> None:
    reader = PsutilReader()
    usage = reader.read_disk_usage("/")
    assert usage is not None
    assert usage.used_percent == pytest.approx(psutil.disk_usage("/").percent, abs=0.5)
    assert "/" in reader.list_mounts()
    before, after = reader.read_cpu_times(), reader.read_cpu_times()
    assert 0 <= before.busy_s <= before.total_s <= after.total_s
    assert any(sample.pid == os.getpid() for sample in reader.walk_processes())
    own = reader.describe_process(os.getpid())
    assert own["ProcessId"] == os.getpid()
    assert own["ParentImage"] == str(Path(f"/proc/{os.getppid()}/exe").readlink())
    assert "ParentImage" not in reader.describe_process(1)
    assert reader.describe_process(2**22 + 1) == {}
