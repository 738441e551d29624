"""The doctor on the host itself: room on the disks, memory, and a clock that can be believed."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Final

from watchdogd.cli.doctor_findings import error, ok, unknown, warning
from watchdogd.collect.host_upkeep import SystemUpkeep
from watchdogd.quantities import show_size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from watchdogd.cli.doctor_findings import Finding
    from watchdogd.cli.doctor_site import Site

LITTLE_BYTES: Final = 512 << 20
HARDLY_BYTES: Final = 64 << 20
FEW_FILES: Final = 1000
LITTLE_MEMORY_BYTES: Final = 256 << 20


def check_disks(site: Site) -> Iterator[Finding]:
    """Whether there is room for the log, the database and the journal."""
    config = site.config
    places = {"the database": config.store.path, "the audit log": config.sources.audit_log.path}
    if config.journald.enabled:
        places["the journal"] = "/var/log/journal/x"
    devices: dict[int, list[str]] = {}
    folders: dict[int, Path] = {}
    for what, name in places.items():
        folder = site.path(name).parent
        while not _is_there(folder) and folder != folder.parent:
            folder = folder.parent
        device = folder.stat().st_dev
        devices.setdefault(device, []).append(what)
        folders.setdefault(device, folder)
    for device, whats in devices.items():
        named = " and ".join(part for part in (", ".join(whats[:-1]), whats[-1]) if part)
        yield _judge_disk(site, folders[device], named)


def _is_there(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except PermissionError:
        return False


def _judge_disk(site: Site, folder: Path, what: str) -> Finding:
    room = os.statvfs(folder)
    free = room.f_bavail * room.f_frsize
    name = "/" / folder.relative_to(site.root) if folder.is_relative_to(site.root) else folder
    look = f"du -xh --max-depth=2 {shlex.quote(str(name))} | sort -h | tail; journalctl --vacuum-size=500M"
    if free < HARDLY_BYTES:
        return error("disk", f"{show_size(free)} are left for {what} ({name}): nothing more can be kept.", look)
    if room.f_files and room.f_favail < FEW_FILES:
        return error(
            "disk",
            f"{what} ({name}) has room for {room.f_favail} more files only.",
            f"df -i {shlex.quote(str(name))}",
        )
    if free < LITTLE_BYTES:
        return warning("disk", f"{show_size(free)} are left for {what} ({name}).", look)
    return ok("disk", f"{show_size(free)} are free for {what} ({name}).")


def check_memory(site: Site) -> Iterator[Finding]:
    """Whether the host has memory to spare, and the daemon takes what it should."""
    figures = dict(line.split(":", 1) for line in site.read("/proc/meminfo").splitlines() if ":" in line)
    free = int(figures["MemAvailable"].split()[0]) * 1024
    if free < LITTLE_MEMORY_BYTES:
        yield warning(
            "memory",
            f"{show_size(free)} of memory are left: the kernel may soon end processes.",
            "ps -eo rss,pid,args --sort=-rss | head",
        )
    else:
        yield ok("memory", f"{show_size(free)} of memory are available.")


def check_clock(site: Site) -> Iterator[Finding]:
    """Whether the clock is kept right: times of alerts are evidence."""
    if site.is_container:
        yield unknown("clock", "This is a container: the clock is set by the host around it.")
        return
    synchronised = read_synchronised()
    if synchronised is None:
        yield unknown("clock", "The kernel does not tell whether its clock is synchronised.", "timedatectl")
    elif synchronised:
        yield ok("clock", "The clock is synchronised.")
    else:
        yield warning(
            "clock",
            "The clock is not synchronised: times of alerts may not fit those of other hosts.",
            "timedatectl set-ntp true    # with systemd-timesyncd or chrony installed",
        )


def read_synchronised() -> bool | None:
    """Whether something keeps the kernel's clock, which everybody may ask; None where it does not say."""
    try:
        return SystemUpkeep().read_clock().is_synchronised
    except (OSError, AttributeError):
        return None
