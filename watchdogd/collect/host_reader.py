"""What the host says of itself, through psutil: raw figures, no arithmetic over time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import msgspec
import psutil

MAX_MOUNTS = 64
_FULL_BY_NATURE = frozenset({"squashfs", "iso9660", "erofs", "udf", "cramfs", "romfs"})


class CpuTimes(msgspec.Struct, frozen=True):
    """CPU seconds since boot over all CPUs; waiting for a disk is not busy."""

    busy_s: float
    total_s: float


class DiskUsage(msgspec.Struct, frozen=True):
    """Shares in percent, as `df` computes them; inodes are None where the file system has no fixed number."""

    used_percent: float
    inodes_used_percent: float | None


class ProcessSample(msgspec.Struct, frozen=True):
    """One process of a walk: enough to find the heaviest."""

    pid: int
    start_s: float
    cpu_s: float
    memory_bytes: int


class HostReader(Protocol):
    """The sensors. Each may raise OSError or psutil.Error, or return None, where the host does not have it."""

    def read_cpu_times(self) -> CpuTimes | None:
        """CPU seconds since boot."""

    def read_cpu_count(self) -> int | None:
        """Logical CPUs."""

    def read_load(self) -> tuple[float, float, float] | None:
        """Load averages over 1, 5 and 15 minutes."""

    def read_memory_used_percent(self) -> float | None:
        """Share of memory that is not available to programs."""

    def read_swap_used_percent(self) -> float | None:
        """Share of swap in use, None where there is none."""

    def list_mounts(self) -> tuple[str, ...]:
        """Mount points of local file systems that can fill up, each file system once."""

    def read_disk_usage(self, mount: str) -> DiskUsage | None:
        """Fill of one file system."""

    def read_disk_bytes(self) -> int | None:
        """Bytes read and written since boot by all disks."""

    def read_network(self) -> tuple[int, int] | None:
        """Bytes sent and received, and errors, since boot over all interfaces to the outside."""

    def read_process_count(self) -> int | None:
        """Processes now."""

    def walk_processes(self) -> tuple[ProcessSample, ...]:
        """Every process; the dear one (14 ms for 270 processes)."""

    def describe_process(self, pid: int) -> dict[str, str | int]:
        """Return Sysmon's field names for one process, as far as they can be read; empty where it has ended."""


class PsutilReader:
    """This host, or the container's view of it."""

    def read_cpu_times(self) -> CpuTimes:
        """Guest time is part of user time, so that it is not added again (proc(5))."""
        times = psutil.cpu_times()
        total = sum(times) - times.guest - times.guest_nice
        return CpuTimes(total - times.idle - times.iowait, total)

    def read_cpu_count(self) -> int | None:
        """Logical CPUs."""
        return psutil.cpu_count()

    def read_load(self) -> tuple[float, float, float]:
        """Load averages over 1, 5 and 15 minutes."""
        return os.getloadavg()

    def read_memory_used_percent(self) -> float:
        """`(total - available) / total`."""
        memory = psutil.virtual_memory()
        return 100 * (memory.total - memory.available) / memory.total

    def read_swap_used_percent(self) -> float | None:
        """None where there is no swap."""
        swap = psutil.swap_memory()
        return 100 * swap.used / swap.total if swap.total else None

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
        return tuple(dict.fromkeys(mounts.values()))[:MAX_MOUNTS]

    def read_disk_usage(self, mount: str) -> DiskUsage | None:
        """Fill as `df` shows it: reserved blocks count neither as used nor as free."""
        stats = os.statvfs(mount)
        used, usable = stats.f_blocks - stats.f_bfree, stats.f_blocks - stats.f_bfree + stats.f_bavail
        if usable <= 0:
            return None
        inodes = 100 * (stats.f_files - stats.f_ffree) / stats.f_files if stats.f_files else None
        return DiskUsage(100 * used / usable, inodes)

    def read_disk_bytes(self) -> int | None:
        """Sum over devices, not over what is layered on them (LVM, RAID, loop), which would count twice."""
        disks = psutil.disk_io_counters(perdisk=True, nowrap=False) or {}
        whole = [disk for name, disk in disks.items() if Path("/sys/block", name, "device").exists()]
        return sum(disk.read_bytes + disk.write_bytes for disk in whole) if whole else None

    def read_network(self) -> tuple[int, int] | None:
        """Sum over hardware where there is any, else (in a container) over everything but loopback."""
        links = psutil.net_io_counters(pernic=True, nowrap=False)
        outside = {name: link for name, link in links.items() if name != "lo"}
        hardware = [link for name, link in outside.items() if Path("/sys/class/net", name, "device").exists()]
        counted = hardware or list(outside.values())
        if not counted:
            return None
        traffic = sum(link.bytes_sent + link.bytes_recv for link in counted)
        return traffic, sum(link.errin + link.errout for link in counted)

    def read_process_count(self) -> int:
        """Processes now."""
        return len(psutil.pids())

    def walk_processes(self) -> tuple[ProcessSample, ...]:
        """Every process that could be read before it ended."""
        samples = []
        for process in psutil.process_iter(["pid", "create_time", "cpu_times", "memory_info"]):
            info = process.info
            if info["cpu_times"] is None or info["memory_info"] is None:
                continue
            cpu_s = info["cpu_times"].user + info["cpu_times"].system
            samples.append(ProcessSample(info["pid"], info["create_time"] or 0.0, cpu_s, info["memory_info"].rss))
        return tuple(samples)

    def describe_process(self, pid: int) -> dict[str, str | int]:
        """`Image` is absent for kernel threads and where /proc/PID/exe may not be read; never guessed."""
        try:
            process = psutil.Process(pid)
            info = process.as_dict(["exe", "name", "cmdline", "username"])
        except psutil.Error:
            return {}
        fields: dict[str, str | int] = {"ProcessId": pid}
        texts = {
            "Image": info["exe"],
            "ProcessName": info["name"],
            "CommandLine": " ".join(info["cmdline"] or ()),
            "User": info["username"],
            "ParentImage": _find_parent_exe(process),
        }
        return fields | {name: escape_bytes(text) for name, text in texts.items() if text}


def _find_parent_exe(process: psutil.Process) -> str | None:
    try:
        parent = process.parent()
        return parent.exe() or None if parent is not None else None
    except psutil.Error:
        return None


def escape_bytes(text: str) -> str:
    r"""Write bytes that are not UTF-8 (surrogates, as Python reads them from the system) as `\\xNN`."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")
