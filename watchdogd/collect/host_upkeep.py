"""How the host is kept: its clock, its failed units, who is logged in, temperatures and graphics cards."""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final, Protocol

import msgspec
import psutil

from watchdogd.collect.host_reader import escape_bytes
from watchdogd.collect.kernel_clock import ClockState, ask_kernel, parse

CLOCK_NAME: Final = "watchdogd-audit/clock"
"""Below /run: what `kernel_clock` wrote outside of our sandbox, every two minutes."""
_CLOCK_BYTES: Final = 200
_CLOCK_STALE_S: Final = 600.0
_CALL_TIMEOUT_US: Final = 2_000_000
_TIMEOUT_S: Final = 5.0
_MAX_UNITS: Final = 20
_UNIT: Final = re.compile(r"[^/\s]{1,255}\.[a-z]{4,9}")


class Sessions(msgspec.Struct, frozen=True, gc=False):
    """Who is logged in: accounts, and their sessions."""

    users: int
    sessions: int


class Gpu(msgspec.Struct, frozen=True, gc=False):
    """One graphics card; what it does not tell is None."""

    name: str
    busy_percent: float | None
    memory_percent: float | None
    celsius: float | None


class UpkeepReader(Protocol):
    """The sensors. Each may raise OSError or ValueError, or return None, where the host lacks it."""

    def read_clock(self) -> ClockState | None:
        """The kernel's view of its clock."""

    def count_failed_units(self) -> int | None:
        """Units of systemd that have failed."""

    def list_failed_units(self) -> tuple[str, ...] | None:
        """Their names; dear, so only asked when there are more than before."""

    def read_sessions(self) -> Sessions | None:
        """Logins."""

    def read_temperatures(self) -> dict[str, float] | None:
        """Degrees Celsius by chip and label."""

    def read_gpus(self) -> tuple[Gpu, ...] | None:
        """Every graphics card that tells anything."""


class SystemUpkeep:
    """This host."""

    def __init__(self, sys: Path = Path("/sys"), proc: Path = Path("/proc"), run: Path = Path("/run")) -> None:
        self._sys = sys
        self._proc = proc
        self._run = run

    def read_clock(self) -> ClockState:
        """What the kernel says; where a sandbox bars the question, what a unit beside us wrote of it lately."""
        try:
            return ask_kernel()
        except PermissionError:
            path = self._run / CLOCK_NAME
            with path.open("rb") as file:
                if time.time() - os.fstat(file.fileno()).st_mtime > _CLOCK_STALE_S:
                    raise
                return parse(file.read(_CLOCK_BYTES).decode("ascii"))

    def count_failed_units(self) -> int | None:
        """The manager's property NFailedUnits over the system bus, by libsystemd: 0.3 ms, where systemctl takes 10."""
        if not (self._run / "systemd/system").is_dir():
            return None
        library = ctypes.CDLL("libsystemd.so.0")
        bus = ctypes.c_void_p()
        _check(library.sd_bus_open_system(ctypes.byref(bus)))
        try:
            library.sd_bus_set_method_call_timeout(bus, ctypes.c_uint64(_CALL_TIMEOUT_US))
            count = ctypes.c_uint32()
            name = b"org.freedesktop.systemd1"
            of = (name, b"/org/freedesktop/systemd1", name + b".Manager", b"NFailedUnits")
            asked = library.sd_bus_get_property_trivial(bus, *of, None, ctypes.c_char(b"u"), ctypes.byref(count))
            _check(asked)
        finally:
            library.sd_bus_flush_close_unref.restype = None
            library.sd_bus_flush_close_unref(bus)
        return count.value

    def list_failed_units(self) -> tuple[str, ...]:
        """At most 20."""
        names = _run("systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager").splitlines()
        units = [line.split()[0] for line in names if line.split()]
        return tuple(unit for unit in units if _UNIT.fullmatch(unit))[:_MAX_UNITS]

    def read_sessions(self) -> Sessions:
        """utmp, and where a release has none any more, logind."""
        if (self._run / "utmp").exists():
            users = psutil.users()
            return Sessions(len({user.name for user in users}), len(users))
        if not (self._run / "systemd/sessions").is_dir():
            raise FileNotFoundError("neither utmp nor logind")
        login = importlib.import_module("systemd.login")  # here: memory only where it is used
        return Sessions(len(login.uids()), len(login.sessions()))

    def read_temperatures(self) -> dict[str, float] | None:
        """From hwmon and thermal zones; sensors that read nothing sensible are left out."""
        found: dict[str, float] = {}
        for chip, sensors in psutil.sensors_temperatures().items():
            for number, sensor in enumerate(sensors):
                if -100 < sensor.current < 200:  # noqa: PLR2004 - unconnected ones tell -128 or 255
                    found.setdefault(escape_bytes(f"{chip}/{sensor.label or number}"), sensor.current)
        return found or None

    def read_gpus(self) -> tuple[Gpu, ...] | None:
        """AMD's by /sys, NVIDIA's by its own program where its driver is loaded."""
        return (*self._read_amd(), *self._read_nvidia()) or None

    def _read_amd(self) -> list[Gpu]:
        gpus = []
        for folder in sorted((self._sys / "class/drm").glob("card[0-9]*/device")):
            busy = _read_number(folder / "gpu_busy_percent")
            used, total = (_read_number(folder / f"mem_info_vram_{name}") for name in ("used", "total"))
            if busy is None and not total:
                continue
            heat = next((found for path in folder.glob("hwmon/*/temp1_input") if (found := _read_number(path))), None)
            share = 100 * used / total if total and used is not None else None
            gpus.append(Gpu(folder.parent.name, busy, share, None if heat is None else heat / 1000))
        return gpus

    def _read_nvidia(self) -> list[Gpu]:
        if not (self._proc / "driver/nvidia/version").exists() or shutil.which("nvidia-smi") is None:
            return []
        asked = "index,utilization.gpu,memory.used,memory.total,temperature.gpu"
        return parse_nvidia(_run("nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader,nounits"))


def parse_nvidia(text: str) -> list[Gpu]:
    """`0, 37, 1024, 8192, 61` a line; `[N/A]` where a card does not tell."""
    gpus = []
    for line in text.splitlines():
        index, *values = (value.strip() for value in line.split(","))
        busy, used, total, heat = (float(value) if _is_number(value) else None for value in values)
        share = 100 * used / total if total and used is not None else None
        gpus.append(Gpu(f"nvidia{index}", busy, share, heat))
    return gpus


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text) is not None


def _read_number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None


def _run(*command: str) -> str:
    """What a program of the host says. Raises OSError where it fails."""
    try:
        return subprocess.run(  # noqa: S603 - constant words
            command, capture_output=True, text=True, errors="backslashreplace", check=True, timeout=_TIMEOUT_S
        ).stdout
    except subprocess.SubprocessError as error:
        raise OSError(str(error)) from error


def _check(result: int) -> None:
    """A function of libsystemd gives an errno below zero."""
    if result < 0:
        raise OSError(-result, os.strerror(-result))
