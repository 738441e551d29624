from __future__ import annotations

import math
import os
from typing import Any

import psutil
import pytest

from watchdogd.collect.host_figures import METRICS
from watchdogd.collect.host_metrics import LIMITS, MANY_PROCESSES, HostMetrics, Readers
from watchdogd.collect.host_processes import ProcessSample
from watchdogd.collect.host_reader import CpuTimes, DiskCounters, DiskUsage, KernelFigures, LinkCounters, Load, Memory
from watchdogd.collect.host_sockets import Holder, Listener, SocketTable
from watchdogd.collect.host_upkeep import Gpu, Sessions
from watchdogd.collect.kernel_clock import ClockState
from watchdogd.ports import SystemClock
from watchdogd.telemetry import Counters


def make_process(
    pid: int,
    cpu_s: float = 0.0,
    *,
    memory: int = 1,
    start: int = 5,
    **more: Any,  # noqa: ANN401 - fields of any type
) -> ProcessSample:
    fields = {"ppid": 1, "group": pid, "is_zombie": False, "children_cpu_s": 0.0, "children_faults": 0, "io_bytes": 0}
    return ProcessSample(pid=pid, start_ticks=start, cpu_s=cpu_s, memory_bytes=memory, **{**fields, **more})


def make_kernel(busy_s: float, total_s: float, *, forks: int = 0, cores: int = 4) -> KernelFigures:
    each = {number: CpuTimes(busy_s / cores, total_s / cores) for number in range(cores)}
    return KernelFigures(CpuTimes(busy_s, total_s, 0.25 * total_s, 0.0), each, forks, 2, 1)


COUNTS = [name for name in METRICS if name.startswith("sockets.")]


def make_table(*ports: int) -> SocketTable:
    listeners = {Listener("tcp", "0.0.0.0", port): frozenset({Holder(1000 + port, 0)}) for port in ports}
    return SocketTable(dict.fromkeys(COUNTS, 3), listeners, is_cut=False)


class StepClock:
    def __init__(self) -> None:
        self.now_s = 1000.0
        self.apart_s = 1_700_000_000.0

    def now_ms(self) -> int:
        return round((self.apart_s + self.now_s) * 1000)

    def monotonic_s(self) -> float:
        return self.now_s


class ScriptedReader:
    """A host whose figures the test sets; a figure that is an exception is raised."""

    total_memory_bytes = 10_000

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {
            "kernel": make_kernel(0.0, 0.0),
            "load": Load((1.0, 2.0, 3.0), 100),
            "memory": Memory(40.0, 5.0),
            "pressure": (1.5, 0.5),
            "mounts": ("/", "/home"),
            "disk": DiskUsage(70.0, 10.0),
            "io": {"sda": DiskCounters(0, 0, 0, 0.0)},
            "network": {"eth0": LinkCounters(0, 0, 0, 0)},
            "count": 9,
            "limit": 1000,
            "files": (50, 200),
            "walk": [make_process(1, 1.0, memory=100), make_process(2, 1.0, memory=900)],
            "fullest": (2, 25.0),
            "owners": {1080: 2, 1022: 1},
            "sockets": make_table(22),
            "clock": ClockState(0.5, 1.0, is_synchronised=True),
            "units": 0,
            "unit names": (),
            "sessions": Sessions(1, 2),
            "heat": {"cpu/0": 45.0},
            "gpus": (Gpu("card0", 10.0, 20.0, 50.0),),
        }
        self.walks = 0
        self.asked_names = 0

    def get(self, name: str) -> Any:  # noqa: ANN401 - figures of any kind
        value = self.figures[name]
        if isinstance(value, Exception):
            raise value
        return value

    def read_kernel(self) -> Any:  # noqa: ANN401 - as `get`, and so below
        return self.get("kernel")

    def read_load(self) -> Any:  # noqa: ANN401
        return self.get("load")

    def read_memory(self) -> Any:  # noqa: ANN401
        return self.get("memory")

    def read_pressure(self, resource: str) -> Any:  # noqa: ANN401
        assert resource in {"cpu", "memory", "io"}
        return self.get("pressure")

    def list_mounts(self) -> Any:  # noqa: ANN401
        return self.get("mounts")

    def read_disk_usage(self, mount: str) -> Any:  # noqa: ANN401
        assert mount in self.figures["mounts"]
        return self.get("disk")

    def read_disks(self) -> Any:  # noqa: ANN401
        return self.get("io")

    def read_network(self) -> Any:  # noqa: ANN401
        return self.get("network")

    def read_process_count(self) -> Any:  # noqa: ANN401
        return self.get("count")

    def read_thread_limit(self) -> Any:  # noqa: ANN401
        return self.get("limit")

    def read_open_files(self) -> Any:  # noqa: ANN401
        return self.get("files")

    def list_pids(self) -> list[int]:
        return [sample.pid for sample in self.get("walk")]

    def walk(self, pids: Any) -> list[ProcessSample]:  # noqa: ANN401
        self.walks += 1
        return [sample for sample in self.get("walk") if sample.pid in pids]

    def describe(self, pid: int) -> Any:  # noqa: ANN401
        return {"ProcessId": pid, "Image": f"/bin/p{pid}", "ProcessName": f"p{pid}", "ParentProcessId": 1}

    def read_argv(self, pid: int) -> tuple[str, ...]:
        return (f"p{pid}", "--serve")

    def count_files(self, pid: int) -> int:
        return 10 * pid

    def find_fullest(self, pids: Any) -> Any:  # noqa: ANN401
        assert pids
        return self.get("fullest")

    def find_owners(self, inodes: frozenset[int], pids: Any) -> dict[int, int]:  # noqa: ANN401
        assert pids
        return {inode: pid for inode, pid in self.get("owners").items() if inode in inodes}

    def read_sockets(self) -> Any:  # noqa: ANN401
        return self.get("sockets")

    def read_clock(self) -> Any:  # noqa: ANN401
        return self.get("clock")

    def count_failed_units(self) -> Any:  # noqa: ANN401
        return self.get("units")

    def list_failed_units(self) -> Any:  # noqa: ANN401
        self.asked_names += 1
        return self.get("unit names")

    def read_sessions(self) -> Any:  # noqa: ANN401
        return self.get("sessions")

    def read_temperatures(self) -> Any:  # noqa: ANN401
        return self.get("heat")

    def read_gpus(self) -> Any:  # noqa: ANN401
        return self.get("gpus")


class Host:
    def __init__(self) -> None:
        self.counters, self.clock, self.reader = Counters(), StepClock(), ScriptedReader()
        readers = Readers(self.reader, self.reader, self.reader, self.reader)
        self.metrics = HostMetrics(self.counters, self.clock, readers=readers)

    def sample(self, step_s: float = 10.0, **figures: object) -> dict[str, dict[str, Any]]:
        """Fields by series of the next sample, `step_s` after the last one."""
        self.clock.now_s += step_s
        self.reader.figures.update({name.replace("_", " "): value for name, value in figures.items()})
        return {event.id.name: dict(event.views[0].fields) for event in self.metrics.sample()}


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
    assert view.fields == {"metric": "disk.used_percent", "value": 70.0, "unit": "percent", "mount": "/home"}
    assert len({event.id for event in events.values()}) == len(events)


def test_every_metric_is_measured_and_none_that_is_not_listed(host: Host) -> None:
    """Each with the field that tells its series apart, and in five minutes all of them."""
    seen: dict[str, dict[str, Any]] = {}
    for step in range(1, 33):
        seen |= host.sample(kernel=make_kernel(step, 10.0 * step, forks=step), walk=[make_process(3, float(step))])
    assert {fields["metric"] for fields in seen.values()} == set(METRICS)
    for series, fields in seen.items():
        metric = METRICS[fields["metric"]]
        assert fields["unit"] == metric.unit
        assert series == (f"{fields['metric']}:{fields[metric.of]}" if metric.of else fields["metric"])


def test_only_a_few_figures_are_measured_with_each_sample(host: Host) -> None:
    host.sample()
    seen = host.sample(kernel=make_kernel(1.0, 10.0))
    assert {fields["metric"] for fields in seen.values()} == {
        name for name, metric in METRICS.items() if not metric.slow and name != "cpu.percent_5m"
    }


def test_shares_and_rates_are_computed_over_the_time_between(host: Host) -> None:
    host.sample(
        kernel=make_kernel(100.0, 1000.0, forks=10),
        io={"a": DiskCounters(1000, 0, 5, 1.0), "b": DiskCounters(0, 0, 0, 0.0)},
        network={"e": LinkCounters(300, 200, 1, 4)},
    )
    fields = host.sample(
        step_s=5.0,
        kernel=make_kernel(115.0, 1020.0, forks=60),
        io={"a": DiskCounters(5000, 1000, 25, 3.0), "b": DiskCounters(0, 0, 0, 0.5)},
        network={"e": LinkCounters(5300, 5200, 3, 9)},
    )
    values = {series: fields["value"] for series, fields in fields.items()}
    assert values["cpu.percent"] == 75.0
    assert values["cpu.iowait_percent"] == 25.0
    assert values["processes.forks_per_s"] == 10.0
    assert values["disk.io_bytes_per_s"] == 1000.0
    assert values["disk.read_bytes_per_s"] == 800.0
    assert values["disk.write_bytes_per_s"] == 200.0
    assert values["disk.operations_per_s"] == 4.0
    assert values["disk.busy_percent"] == 40.0  # the busier of the two
    assert values["network.bytes_per_s"] == 2000.0
    assert values["network.sent_bytes_per_s"] == 1000.0
    assert values["network.errors_per_s"] == 0.4
    assert values["network.drops_per_s"] == 1.0
    assert values["load.per_cpu_5m"] == 0.5
    assert values["memory.available_percent"] == 60.0
    assert values["processes.threads_percent"] == 10.0
    assert values["files.open_percent"] == 25.0


def test_cpu_over_five_minutes_is_the_mean_of_exactly_those(host: Host) -> None:
    busy = total = 0.0
    seen = {}
    for step in range(1, 91):
        total += 10.0
        busy += 10.0 if step > 60 else 0.0
        fields = host.sample(kernel=make_kernel(busy, total))
        seen[step] = fields.get("cpu.percent_5m", {}).get("value")
    assert seen[30] is None  # 30 samples lie 29 intervals apart
    assert seen[31] == 0.0
    assert seen[75] == 50.0
    assert seen[90] == 100.0


def test_a_counter_that_falls_back_skips_one_rate(host: Host) -> None:
    host.sample(io={"a": DiskCounters(5000, 0, 0, 0.0)})
    assert "disk.io_bytes_per_s" not in host.sample(io={"a": DiskCounters(100, 0, 0, 0.0)})
    assert host.sample(io={"a": DiskCounters(300, 0, 0, 0.0)})["disk.io_bytes_per_s"]["value"] == 20.0


def test_a_clock_that_stands_still_divides_by_nothing(host: Host) -> None:
    host.sample()
    assert "network.bytes_per_s" not in host.sample(step_s=0.0, network={"e": LinkCounters(9, 9, 9, 9)})


def test_a_clock_that_is_set_shows_as_a_step(host: Host) -> None:
    host.sample()
    host.clock.apart_s -= 3600
    assert host.sample()["clock.step_seconds"]["value"] == -3600
    assert host.sample()["clock.step_seconds"]["value"] == 0


@pytest.mark.parametrize("failure", [None, OSError("gone"), psutil.AccessDenied(), NotImplementedError(), KeyError()])
def test_a_missing_sensor_is_left_out_and_counted_once(host: Host, failure: Exception | None) -> None:
    for _ in range(3):
        assert "processes.count" not in host.sample(count=failure)
    assert host.counters.get("collect_metric_sensors_missing_total") == 1
    assert host.metrics.missing == {"processes"}
    assert "processes.count" in host.sample(count=1)
    assert host.metrics.missing == frozenset()


def test_a_host_without_any_sensor_gives_nothing_and_does_not_crash(host: Host) -> None:
    host.reader.figures.update(dict.fromkeys(host.reader.figures, OSError("no /proc")))
    host.sample(step_s=60)
    for _ in range(3):
        assert set(host.sample(step_s=60)) == {"clock.step_seconds"}
    assert host.counters.get("collect_metric_sensors_missing_total") == len(host.metrics.missing) > 15


def test_the_heaviest_process_stands_behind_cpu_and_memory(host: Host) -> None:
    first = host.sample()
    assert first["memory.used_percent"]["Image"] == "/bin/p2"
    assert first["memory.used_percent"]["ProcessMemoryBytes"] == 900
    assert "Image" not in first["load.1m"]
    assert first["files.process_percent"]["ProcessFiles"] == 20
    walk = [make_process(1, 31.0, memory=100), make_process(2, 2.0, memory=900), make_process(3, 12.0)]
    second = host.sample(step_s=60.0, walk=walk)
    assert second["load.1m"]["ProcessId"] == 1
    assert second["load.1m"]["ProcessCpuPercent"] == 50.0
    assert second["processes.top_cpu_percent:2"]["value"] == 20.0
    assert second["processes.top_cpu_percent:2"]["Image"] == "/bin/p3"
    assert second["processes.top_memory_percent:1"]["value"] == 9.0
    assert "Image" not in second["disk.used_percent:/"]


def test_processes_are_walked_once_a_minute(host: Host) -> None:
    for _ in range(13):
        host.sample(step_s=10.0)
    assert host.reader.walks == 3


def test_a_jump_is_explained_at_once(host: Host) -> None:
    """Who came after the last walk is named, not who was heaviest before."""
    host.sample()
    host.sample(kernel=make_kernel(1.0, 40.0))
    assert host.reader.walks == 1
    burst = [*host.reader.figures["walk"], make_process(7, 8.0, start=9)]
    fields = host.sample(kernel=make_kernel(35.0, 80.0), walk=burst)
    assert host.reader.walks == 2
    assert fields["cpu.percent"]["Image"] == "/bin/p7"
    host.sample(kernel=make_kernel(62.0, 120.0))
    assert host.reader.walks == 2  # it goes on, and is not that high
    host.sample(kernel=make_kernel(100.0, 160.0))
    host.sample(kernel=make_kernel(140.0, 200.0))
    assert host.reader.walks == 4
    host.reader.figures["walk"] = [make_process(pid) for pid in range(1, MANY_PROCESSES + 2)]
    for step in range(1, 5):
        host.sample(kernel=make_kernel(140.0 + 40 * step, 200.0 + 40 * step))
    assert host.reader.walks == 5  # that of the minute, which sees that there are many


def test_mounts_come_and_go(host: Host) -> None:
    host.sample()
    fields = host.sample(step_s=60.0, mounts=("/", "/srv"))
    assert "disk.used_percent:/srv" in fields
    assert "disk.used_percent:/home" not in fields


def test_a_mounts_name_that_is_no_text_is_written_out(host: Host) -> None:
    fields = host.sample(mounts=("/\udcffx",))
    assert fields["disk.used_percent:/\\xffx"]["mount"] == "/\\xffx"


def test_series_are_bounded_and_what_is_cut_is_counted_once(host: Host) -> None:
    many = {f"i{number}": LinkCounters(0, 0, 0, 0) for number in range(50)}
    mounts = tuple(f"/m{number}" for number in range(50))
    for step in range(3):
        kernel = make_kernel(0.0, 100.0 * step, cores=200)
        fields = host.sample(step_s=60, network=many, mounts=mounts, kernel=kernel)
    for metric, of in (
        ("network.interface_bytes_per_s", "interface"),
        ("disk.used_percent", "mount"),
        ("cpu.core_percent", "core"),
    ):
        assert sum(one["metric"] == metric for one in fields.values()) == LIMITS[of]
    assert host.counters.get("collect_metric_series_cut_total") == 3
    host.sample(step_s=60, network={}, mounts=("/",))
    host.sample(step_s=60, network=many, mounts=("/",))
    assert host.counters.get("collect_metric_series_cut_total") == 4


def test_failed_units_are_named_when_there_are_more(host: Host) -> None:
    assert "Unit" not in host.sample()["services.failed"]
    fields = host.sample(step_s=60, units=2, unit_names=("a.service", "b.mount"))["services.failed"]
    assert (fields["value"], fields["Unit"]) == (2, ("a.service", "b.mount"))
    assert host.sample(step_s=60)["services.failed"]["Unit"] == ("a.service", "b.mount")
    assert host.reader.asked_names == 1
    assert "Unit" not in host.sample(step_s=60, units=0)["services.failed"]


def test_a_port_that_begins_to_listen_is_an_event_with_who_listens(host: Host) -> None:
    assert not [series for series in host.sample() if "listener" in series]
    assert not [series for series in host.sample(sockets=make_table(22, 80)) if "listener" in series]  # not yet
    host.clock.now_s += 60
    events = [event for event in host.metrics.sample() if "listener" in event.id.name]
    (event,) = events
    assert event.id.name == "sockets.listener_opened:tcp:0.0.0.0:80"
    (view,) = event.views
    assert (view.category, view.action) == ("host_metrics", "listen")
    assert view.fields == {
        "metric": "sockets.listener_opened",
        "DestinationIp": "0.0.0.0",
        "DestinationPort": 80,
        "Protocol": "tcp",
        "User": "root",
        "ProcessId": 2,
        "Image": "/bin/p2",
        "ProcessName": "p2",
        "ParentProcessId": 1,
    }
    assert event.process is not None
    assert (event.process.pid, event.process.ppid, event.process.exe, event.process.uid) == (2, 1, "/bin/p2", 0)
    assert event.process.argv == ("p2", "--serve")
    assert not [series for series in host.sample(step_s=60) if "listener" in series]


def test_a_port_whose_owner_is_not_found_is_told_with_its_user(host: Host) -> None:
    host.sample(owners=OSError("no /proc"))
    fields = host.sample(step_s=60, sockets=make_table(22, 81))["sockets.listener_opened:tcp:0.0.0.0:81"]
    assert fields["User"] == "root"
    assert "Image" not in fields


# This very host.


def test_this_host_can_be_read() -> None:
    metrics = HostMetrics(Counters(), SystemClock())
    first = {event.id.name: event.views[0].fields for event in metrics.sample()}
    total = sum(range(300_000))  # some CPU time between the samples
    second = {event.id.name: event.views[0].fields for event in metrics.sample()}
    assert total
    for metric in ("load.1m", "load.per_cpu_5m", "memory.used_percent", "disk.used_percent:/", "processes.count"):
        value = second[metric]["value"]
        assert isinstance(value, int | float)
        assert math.isfinite(value)
        assert value >= 0
    for fields in (first | second).values():
        if fields.get("unit") == "percent":
            assert isinstance(fields["value"], int | float)
            assert 0 <= fields["value"] <= 100 or fields["metric"] == "processes.top_cpu_percent"
    assert isinstance(second["memory.used_percent"]["ProcessId"], int)
    assert isinstance(first["sockets.listening"]["value"], int)
    assert "process walk" not in metrics.missing
    assert os.getpid() in metrics._readers.processes.list_pids()
