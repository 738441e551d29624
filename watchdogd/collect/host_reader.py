"""What the host says of itself: raw figures, no arithmetic over time. Formats: proc(5), psi(7) of the kernel's docs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import msgspec
import psutil

_FULL_BY_NATURE = frozenset({"squashfs", "iso9660", "erofs", "udf", "cramfs", "romfs"})
_CPU_COLUMNS = 8


class CpuTimes(msgspec.Struct, frozen=True, gc=False):
    """CPU seconds since boot; waiting for a disk is not busy, and what a hypervisor gave to others is."""

    busy_s: float
    total_s: float
    iowait_s: float = 0.0
    steal_s: float = 0.0


class KernelFigures(msgspec.Struct, frozen=True, gc=False):
    """/proc/stat: all CPUs, each by its number, forks since boot, processes that run and that wait for disks."""

    cpu: CpuTimes
    cores: dict[int, CpuTimes]
    forks: int
    running: int
    blocked: int


class Load(msgspec.Struct, frozen=True, gc=False):
    """Load averages over 1, 5 and 15 minutes, and how many threads there are."""

    averages: tuple[float, float, float]
    threads: int


class Memory(msgspec.Struct, frozen=True, gc=False):
    """Shares in percent; swap is None where there is none."""

    used_percent: float
    swap_used_percent: float | None


class DiskUsage(msgspec.Struct, frozen=True, gc=False):
    """Shares in percent, as `df` computes them; inodes are None where the file system has no fixed number."""

    used_percent: float
    inodes_used_percent: float | None


class DiskCounters(msgspec.Struct, frozen=True, gc=False):
    """Since boot, of one device."""

    read_bytes: int
    write_bytes: int
    operations: int
    busy_s: float


class LinkCounters(msgspec.Struct, frozen=True, gc=False):
    """Since boot, of one interface."""

    received_bytes: int
    sent_bytes: int
    errors: int
    drops: int


class HostReader(Protocol):
    """The sensors. Each may raise OSError, ValueError or psutil.Error, or return None, where the host lacks it."""

    def read_kernel(self) -> KernelFigures | None:
        """CPU times and the kernel's counters."""

    def read_load(self) -> Load | None:
        """Load averages and threads."""

    def read_memory(self) -> Memory | None:
        """Memory and swap."""

    def read_pressure(self, resource: str) -> tuple[float, float | None] | None:
        """Shares of the last 10 s in which some, and all, tasks waited for `cpu`, `memory` or `io`."""

    def list_mounts(self) -> tuple[str, ...]:
        """Mount points of local file systems that can fill up, each file system once."""

    def read_disk_usage(self, mount: str) -> DiskUsage | None:
        """Fill of one file system."""

    def read_disks(self) -> dict[str, DiskCounters] | None:
        """Every disk by name."""

    def read_network(self) -> dict[str, LinkCounters] | None:
        """Interfaces to the outside by name."""

    def read_process_count(self) -> int | None:
        """Processes now."""

    def read_thread_limit(self) -> int | None:
        """How many threads there can be."""

    def read_open_files(self) -> tuple[int, int] | None:
        """Open files, and how many there can be, on the whole host."""


class SystemReader:
    """This host, or the container's view of it."""

    def __init__(self, proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> None:
        self._proc = str(proc)
        self._sys = sys
        self._ticks_per_s = os.sysconf("SC_CLK_TCK")
        self._is_hardware: dict[tuple[str, str], bool] = {}

    def read_kernel(self) -> KernelFigures:
        """One read of /proc/stat. Guest time is part of user time, so that it is not added again."""
        cpus: dict[bytes, CpuTimes] = {}
        rest: dict[bytes, int] = {}
        for line in read_bytes(f"{self._proc}/stat").splitlines():
            if line.startswith(b"cpu"):
                name, *columns = line.split()
                cpus[name] = self._read_cpu([int(column) for column in columns[:_CPU_COLUMNS]])
            elif line.startswith((b"processes", b"procs_")):
                name, value = line.split()[:2]
                rest[name] = int(value)
        cores = {int(name[3:]): times for name, times in cpus.items() if name != b"cpu"}
        return KernelFigures(cpus[b"cpu"], cores, rest[b"processes"], rest[b"procs_running"], rest[b"procs_blocked"])

    def _read_cpu(self, ticks: list[int]) -> CpuTimes:
        idle, iowait, steal = ticks[3], ticks[4], ticks[7]
        per_s = self._ticks_per_s
        total = sum(ticks)
        return CpuTimes((total - idle - iowait) / per_s, total / per_s, iowait / per_s, steal / per_s)

    def read_load(self) -> Load:
        """`0.1 0.2 0.3 2/345 6789`."""
        one, five, fifteen, tasks = read_bytes(f"{self._proc}/loadavg").split()[:4]
        return Load((float(one), float(five), float(fifteen)), int(tasks.partition(b"/")[2]))

    def read_memory(self) -> Memory:
        """Used is what is not available to programs: `(total - available) / total`."""
        kib: dict[bytes, int] = {}
        for line in read_bytes(f"{self._proc}/meminfo").splitlines():
            if line.startswith((b"MemTotal:", b"MemAvailable:", b"SwapTotal:", b"SwapFree:")):
                name, value = line.split()[:2]
                kib[name] = int(value)
        total, swap = kib[b"MemTotal:"], kib.get(b"SwapTotal:", 0)
        return Memory(
            100 * (total - kib[b"MemAvailable:"]) / total,
            100 * (swap - kib[b"SwapFree:"]) / swap if swap else None,
        )

    def read_pressure(self, resource: str) -> tuple[float, float | None]:
        """`some avg10=0.00 avg60=...`, and `full` likewise where the kernel tells it."""
        shares = {}
        for line in read_bytes(f"{self._proc}/pressure/{resource}").splitlines():
            kind, average = line.split()[:2]
            shares[kind] = float(average.partition(b"=")[2])
        return shares[b"some"], shares.get(b"full")

    def list_mounts(self) -> tuple[str, ...]:
        """Local file systems: those on a device, and always the root (an overlay in a container).

        Read-only formats are left out, and so are files that a container mounts. Of several mounts of one device the
        shortest path stands for all.
        """
        mounts = {"": "/"}
        by_length = sorted(psutil.disk_partitions(all=False), key=lambda part: (len(part.mountpoint), part.mountpoint))
        for part in by_length:
            if part.fstype not in _FULL_BY_NATURE and Path(part.mountpoint).is_dir():
                mounts.setdefault(part.device, part.mountpoint)
        return tuple(dict.fromkeys(mounts.values()))

    def read_disk_usage(self, mount: str) -> DiskUsage | None:
        """Fill as `df` shows it: reserved blocks count neither as used nor as free."""
        stats = os.statvfs(mount)
        used, usable = stats.f_blocks - stats.f_bfree, stats.f_blocks - stats.f_bfree + stats.f_bavail
        if usable <= 0:
            return None
        inodes = 100 * (stats.f_files - stats.f_ffree) / stats.f_files if stats.f_files else None
        return DiskUsage(100 * used / usable, inodes)

    def read_disks(self) -> dict[str, DiskCounters] | None:
        """Devices, not what is layered on them (LVM, RAID, loop), which would count twice; None where none is seen."""
        disks = psutil.disk_io_counters(perdisk=True, nowrap=False) or {}
        return {
            escape_bytes(name): DiskCounters(
                disk.read_bytes, disk.write_bytes, disk.read_count + disk.write_count, disk.busy_time / 1000
            )
            for name, disk in disks.items()
            if self._has_device("block", name)
        } or None

    def read_network(self) -> dict[str, LinkCounters] | None:
        """Hardware where there is any, else (in a container) everything but loopback."""
        links = psutil.net_io_counters(pernic=True, nowrap=False)
        outside = [name for name in links if name != "lo"]
        counted = [name for name in outside if self._has_device("class/net", name)] or outside
        return {
            escape_bytes(name): LinkCounters(
                links[name].bytes_recv,
                links[name].bytes_sent,
                links[name].errin + links[name].errout,
                links[name].dropin + links[name].dropout,
            )
            for name in counted
        } or None

    def _has_device(self, folder: str, name: str) -> bool:
        """Whether hardware stands behind a name; it is looked up once, as names come and go seldom."""
        known = self._is_hardware.get((folder, name))
        if known is None:
            if len(self._is_hardware) > 1024:  # noqa: PLR2004 - a container's host makes a new interface for each
                self._is_hardware.clear()
            known = self._is_hardware[folder, name] = (self._sys / folder / name / "device").exists()
        return known

    def read_process_count(self) -> int:
        """Processes now."""
        return sum(name.isdigit() for name in os.listdir(self._proc))  # noqa: PTH208 -- a third of the cost

    def read_thread_limit(self) -> int:
        """The smaller of the kernel's two limits; a cgroup's own may be smaller yet."""
        limits = (read_bytes(f"{self._proc}/sys/kernel/{name}") for name in ("pid_max", "threads-max"))
        return min(int(limit) for limit in limits)

    def read_open_files(self) -> tuple[int, int]:
        """/proc/sys/fs/file-nr: allocated, unused, most."""
        used, _, most = read_bytes(f"{self._proc}/sys/fs/file-nr").split()
        return int(used), int(most)


def read_bytes(path: str, limit: int = 1 << 20) -> bytes:
    """A file of /proc, at most `limit` bytes. Plain system calls: a third of what `open` costs. Raises OSError."""
    parts = []
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while limit > 0 and (part := os.read(file, min(limit, 1 << 16))):
            parts.append(part)
            limit -= len(part)
    finally:
        os.close(file)
    return b"".join(parts)


def escape_bytes(text: str) -> str:
    r"""Write bytes that are not UTF-8 (surrogates, as Python reads them from the system) as `\\xNN`."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")
