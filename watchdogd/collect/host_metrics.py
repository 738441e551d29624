"""The host's figures as events: what is measured, and who weighs most; `enrich/norms` says how unusual a figure is."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.collect.host_figures import LISTENER, METRICS, Figure
from watchdogd.collect.host_listeners import Listeners
from watchdogd.collect.host_processes import ProcProcesses, choose_pids, name_user
from watchdogd.collect.host_rates import (
    ClockSteps,
    CpuShares,
    DiskRates,
    Rates,
    measure_interfaces,
    measure_network,
    tell_rate,
)
from watchdogd.collect.host_reader import SystemReader, escape_bytes
from watchdogd.collect.host_rounds import Rounds
from watchdogd.collect.host_sensing import Sensing
from watchdogd.collect.host_sockets import ProcSockets
from watchdogd.collect.host_upkeep import SystemUpkeep
from watchdogd.collect.host_weights import KINDS, Weights
from watchdogd.entities import Event, EventId, Process, ProcessKey, View

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from watchdogd.collect.host_listeners import Opened
    from watchdogd.collect.host_processes import ProcessReader
    from watchdogd.collect.host_reader import DiskCounters, HostReader, LinkCounters
    from watchdogd.collect.host_sockets import SocketReader
    from watchdogd.collect.host_upkeep import UpkeepReader
    from watchdogd.collect.host_weights import Heavy
    from watchdogd.entities import FieldMap
    from watchdogd.ports import Clock
    from watchdogd.telemetry import Counters

SOURCE = "host_metrics"
WALK_INTERVAL_S = 60.0
LIMITS: Final = {"core": 32, "mount": 32, "device": 8, "interface": 8}
"""So many series of one metric at most, by what they are of; what is left out is counted."""

_JUMPS: Final = {
    "cpu.percent": (1.25, 20.0, 80.0),
    "memory.used_percent": (1.0, 5.0, math.inf),
    "disk.io_bytes_per_s": (1.5, 1e7, 1e8),
    "processes.forks_per_s": (1.5, 50.0, 500.0),
    "processes.count": (1.1, 50.0, math.inf),
}
"""A figure above `factor * what it was at the last walk + addend` asks for a walk at once, as who does it is there now;
above the third number each sample walks, while there are no more than MANY_PROCESSES."""
MANY_PROCESSES = 512


class Readers(msgspec.Struct, frozen=True):
    """Where the figures come from."""

    host: HostReader
    processes: ProcessReader
    sockets: SocketReader
    upkeep: UpkeepReader


class HostMetrics:
    """Samples the host: one event for each figure, in the view `category: host_metrics`, and one for each new listener.

    Rates (CPU, disk, network) need two samples and appear from the second on, `cpu.percent_5m` after five minutes.
    What the host lacks is left out, and counted once as `collect_metric_sensors_missing_total`.
    """

    def __init__(self, counters: Counters, clock: Clock, *, readers: Readers | None = None) -> None:
        self._clock = clock
        self._readers = readers or Readers(SystemReader(), ProcProcesses(), ProcSockets(), SystemUpkeep())
        self._sensing = Sensing(counters)
        self._cpu = CpuShares()
        self._rates = Rates()
        self._disk_rates = DiskRates(self._rates)
        self._steps = ClockSteps()
        self._weights = Weights()
        self._listeners = Listeners(self._find_owners, self._readers.processes.describe)
        self._mounts: Sequence[str] = ()
        self._walked_s = -math.inf
        self._slow_s = -math.inf
        self._at_walk: dict[str, float] = {}
        self._behind: dict[str, FieldMap] = {}
        self._top: dict[str, list[tuple[float, FieldMap]]] = {}
        self._zombies: int | None = None
        self._walked = 0
        self._rounds = Rounds(self._readers.upkeep, self._sensing)

    @property
    def missing(self) -> frozenset[str]:
        """Sensors that gave nothing when they were last read."""
        return self._sensing.missing

    def sample(self) -> list[Event]:
        """Observe once. Never raises for a sensor.

        Costs half a millisecond; once a minute all processes and sockets are looked at, too, and whenever a figure
        jumps all processes.
        """
        now_s, now_ms = self._clock.monotonic_s(), self._clock.now_ms()
        is_slow = now_s - self._slow_s >= WALK_INTERVAL_S
        if is_slow:
            mounts = self._sensing.read("mounts", self._readers.host.list_mounts) or ()
            self._mounts = self._sensing.limit("mount", mounts, LIMITS["mount"])
        figures = list(self._measure(now_s, now_ms, is_slow=is_slow))
        if is_slow or self._is_jump(figures):
            self._walk(now_s, figures, is_slow=is_slow)
        events = []
        if is_slow:
            self._slow_s = now_s
            figures += self._measure_slow()
            events = [self._build_opened(opened, now_ms) for opened in self._look_at_sockets(figures)]
        return [self._build_event(figure, now_ms) for figure in figures] + events

    # --- with each sample ---------------------------------------------------------------------------------------

    def _measure(self, now_s: float, now_ms: int, *, is_slow: bool) -> Iterator[Figure]:
        yield from self._steps.measure(now_s, now_ms)
        yield from self._measure_kernel(now_s, is_slow=is_slow)
        memory = self._sensing.read("memory", self._readers.host.read_memory)
        if memory is not None:
            yield Figure("memory.used_percent", memory.used_percent)
            yield Figure("memory.available_percent", 100 - memory.used_percent)
        swap = self._sensing.read("swap", lambda: None if memory is None else memory.swap_used_percent)
        if swap is not None:
            yield Figure("swap.used_percent", swap)
        yield from self._measure_pressure()
        yield from self._measure_mounts()
        yield from self._measure_disks(now_s, is_slow=is_slow)
        yield from self._measure_network(now_s, is_slow=is_slow)
        yield from self._measure_tables()

    def _measure_kernel(self, now_s: float, *, is_slow: bool) -> Iterator[Figure]:
        kernel = self._sensing.read("cpu", self._readers.host.read_kernel)
        cores = 0
        if kernel is not None:
            cores = len(kernel.cores)
            yield from self._cpu.measure(kernel.cpu, now_s)
            if is_slow:
                told = self._sensing.limit("core", list(kernel.cores.items()), LIMITS["core"])
                yield from self._cpu.measure_cores(dict(told))
            yield Figure("processes.running", kernel.running)
            yield Figure("processes.blocked", kernel.blocked)
            yield from tell_rate(self._rates, "processes.forks_per_s", kernel.forks, now_s)
        load = self._sensing.read("load", self._readers.host.read_load)
        if load is None:
            return
        for name, value in zip(("load.1m", "load.5m", "load.15m"), load.averages, strict=True):
            yield Figure(name, value)
        if cores:
            yield Figure("load.per_cpu_5m", load.averages[1] / cores)
        yield Figure("processes.threads", load.threads)
        limit = self._sensing.read("thread limit", self._readers.host.read_thread_limit)
        if limit:
            yield Figure("processes.threads_percent", 100 * load.threads / limit)

    def _measure_pressure(self) -> Iterator[Figure]:
        for resource in ("cpu", "memory", "io"):
            read = functools.partial(self._readers.host.read_pressure, resource)
            shares = self._sensing.read(f"pressure of {resource}", read)
            if shares is None:
                continue
            yield Figure(f"pressure.{resource}_some_percent", shares[0])
            if shares[1] is not None and resource != "cpu":  # of a whole host always 0
                yield Figure(f"pressure.{resource}_full_percent", shares[1])

    def _measure_mounts(self) -> Iterator[Figure]:
        for mount in self._mounts:
            usage = self._sensing.read(f"disk:{mount}", functools.partial(self._readers.host.read_disk_usage, mount))
            if usage is None:
                continue
            shown = escape_bytes(mount)
            yield Figure("disk.used_percent", usage.used_percent, shown)
            if usage.inodes_used_percent is not None:
                yield Figure("disk.inodes_used_percent", usage.inodes_used_percent, shown)

    def _measure_disks(self, now_s: float, *, is_slow: bool) -> Iterator[Figure]:
        disks = self._sensing.read("disk.io", self._readers.host.read_disks)
        if disks is None:
            return
        yield from self._disk_rates.measure(disks, now_s)
        if is_slow:
            told: Sequence[tuple[str, DiskCounters]] = self._sensing.limit(
                "device", sorted(disks.items()), LIMITS["device"]
            )
            yield from self._disk_rates.measure_devices(dict(told), now_s)

    def _measure_network(self, now_s: float, *, is_slow: bool) -> Iterator[Figure]:
        links = self._sensing.read("network", self._readers.host.read_network)
        if links is None:
            return
        yield from measure_network(self._rates, links, now_s)
        if is_slow:
            told: Sequence[tuple[str, LinkCounters]] = self._sensing.limit(
                "interface", sorted(links.items()), LIMITS["interface"]
            )
            yield from measure_interfaces(self._rates, dict(told), now_s)

    def _measure_tables(self) -> Iterator[Figure]:
        count = self._sensing.read("processes", self._readers.host.read_process_count)
        if count is not None:
            yield Figure("processes.count", count)
        files = self._sensing.read("open files", self._readers.host.read_open_files)
        if files is not None:
            yield Figure("files.open", files[0])
            yield Figure("files.open_percent", 100 * files[0] / files[1] if files[1] else 0.0)

    # --- once a minute ------------------------------------------------------------------------------------------

    def _measure_slow(self) -> Iterator[Figure]:
        if self._zombies is not None:
            yield Figure("processes.zombies", self._zombies)
        for name, ranks in self._top.items():
            for rank, (weight, _) in enumerate(ranks, 1):
                yield Figure(f"processes.top_{name}_percent", weight, rank)
        fullest = self._sensing.read("files of processes", self._find_fullest)
        if fullest is not None:
            yield Figure("files.process_percent", fullest)
        yield from self._rounds.measure()

    def _find_fullest(self) -> float | None:
        processes = self._readers.processes
        found = processes.find_fullest(choose_pids(processes.list_pids()))
        if found is None:
            return None
        pid, percent = found
        files = processes.count_files(pid)
        self._behind["files"] = processes.describe(pid) | ({} if files is None else {"ProcessFiles": files})
        return percent

    def _look_at_sockets(self, figures: list[Figure]) -> Iterable[Opened]:
        """Adds the figures of sockets; returns what began to listen."""
        table = self._sensing.read("sockets", self._readers.sockets.read_sockets)
        if table is None:
            return ()
        self._sensing.note_cut("sockets", is_cut=table.is_cut)
        figures += [Figure(metric, count) for metric, count in table.counts.items()]
        return self._listeners.note(table)

    def _find_owners(self, inodes: frozenset[int]) -> dict[int, int]:
        processes = self._readers.processes
        found = self._sensing.read(
            "owners of sockets", lambda: processes.find_owners(inodes, choose_pids(processes.list_pids()))
        )
        return found or {}

    # --- who weighs most ----------------------------------------------------------------------------------------

    def _is_jump(self, figures: Iterable[Figure]) -> bool:
        for figure in figures:
            if figure.metric in _JUMPS:
                factor, addend, always = _JUMPS[figure.metric]
                if figure.value > factor * self._at_walk.get(figure.metric, 0.0) + addend:
                    return True
                if figure.value >= always and self._walked <= MANY_PROCESSES:
                    return True
        return False

    def _walk(self, now_s: float, figures: Iterable[Figure], *, is_slow: bool) -> None:
        processes = self._readers.processes
        self._at_walk = {figure.metric: figure.value for figure in figures if figure.metric in _JUMPS}
        pids = self._sensing.read("process walk", processes.list_pids)
        self._top = {}
        for kind in KINDS:
            self._behind.pop(kind, None)
        if pids is None:
            self._weights.forget()
            self._zombies, self._walked_s = None, now_s
            return
        chosen = choose_pids(pids)
        self._sensing.note_cut("process", is_cut=len(chosen) < len(pids))
        samples = processes.walk(chosen)
        self._walked = len(samples)
        self._zombies = sum(sample.is_zombie for sample in samples)
        heavy = self._weights.weigh(samples, now_s - self._walked_s)
        self._walked_s = now_s
        describe = functools.cache(processes.describe)
        self._behind |= {kind: _tell(ranks[0], describe) for kind, ranks in heavy.items() if ranks}
        if is_slow:
            total = processes.total_memory_bytes
            self._top["cpu"] = [(one.weight, _tell(one, describe)) for one in heavy.get("cpu", ())]
            self._top["memory"] = [(100 * one.weight / total, _tell(one, describe)) for one in heavy["memory"]]

    # --- events -------------------------------------------------------------------------------------------------

    def _build_event(self, figure: Figure, now_ms: int) -> Event:
        metric = METRICS[figure.metric]
        fields: FieldMap = {"metric": figure.metric, "value": round(figure.value, 3), "unit": metric.unit}
        if figure.part is not None:
            fields[metric.of] = figure.part
        if metric.of == "rank" and isinstance(figure.part, int):
            name = "cpu" if figure.metric == "processes.top_cpu_percent" else "memory"
            fields.update(self._top[name][figure.part - 1][1])
        elif metric.behind:
            fields.update(self._behind.get(metric.behind, {}))
        elif figure.metric == "services.failed" and self._rounds.failed_units:
            fields["Unit"] = self._rounds.failed_units
        view = View(category=SOURCE, action="sample", outcome="success", fields=fields)
        return Event(id=EventId(SOURCE, None, now_ms, 0, figure.series), source=SOURCE, views=(view,))

    def _build_opened(self, opened: Opened, now_ms: int) -> Event:
        """`DestinationIp` and `DestinationPort` as in a network_connection of `bind`: where one connects to."""
        protocol, address, port = opened.listener
        fields: FieldMap = {
            "metric": LISTENER,
            "DestinationIp": address,
            "DestinationPort": port,
            "Protocol": protocol,
            "User": name_user(opened.holder.uid),
        }
        fields.update(opened.process)
        pid, image, name = (opened.process.get(field) for field in ("ProcessId", "Image", "ProcessName"))
        process = None
        if isinstance(pid, int):
            exe, comm = (value if isinstance(value, str) else None for value in (image, name))
            argv = self._readers.processes.read_argv(pid)
            process = _make_process(ProcessKey("", pid, now_ms), exe, comm, argv, opened)
        view = View(category=SOURCE, action="listen", outcome="success", fields=fields)
        series = f"{LISTENER}:{protocol}:{address}:{port}"
        return Event(EventId(SOURCE, None, now_ms, 0, series), SOURCE, views=(view,), process=process)


def _tell(heavy: Heavy, describe: functools._lru_cache_wrapper[FieldMap]) -> FieldMap:
    return {**describe(heavy.pid), **heavy.fields}


def _make_process(key: ProcessKey, exe: str | None, comm: str | None, argv: tuple[str, ...], opened: Opened) -> Process:
    """As an audit record would tell of it: the tree knows the rest, and the start time is provisional."""
    ppid = opened.process.get("ParentProcessId")
    return Process(
        key=key,
        pid=key.pid,
        ppid=ppid if isinstance(ppid, int) else None,
        exe=exe,
        comm=comm,
        argv=argv,
        cwd=None,
        uid=opened.holder.uid,
        user=None,
        auid=None,
        login=None,
        session=None,
        tty=None,
    )
