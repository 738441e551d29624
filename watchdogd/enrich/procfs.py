"""/proc as a source of processes that were there before the audit log told of them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from watchdogd.entities import Process, ProcessKey

_CONTAINER = re.compile(
    r"(?:docker|libpod|crio|cri-containerd|lxc|machine)[-/.]([0-9a-zA-Z_.-]{8,64}?)(?:\.scope)?(?:/|$)"
)
_HEX_CONTAINER = re.compile(r"/([0-9a-f]{64})(?:/|$)")
_UNIT = re.compile(r"/([^/]+\.(?:service|scope|mount|socket))(?:/|$)")
_ARGV_LIMIT_BYTES = 64 << 10
_UNSET_ID = 4294967295


class ProcReader:
    """Reads processes below `root`, normally /proc. Everything may vanish between two reads: None then.

    Formats: proc(5). Start times are the boot time of /proc/stat plus the start ticks of /proc/PID/stat, so they
    agree with themselves across readings, within a second of the wall clock.
    """

    def __init__(self, root: Path = Path("/proc"), *, ticks_per_s: int | None = None) -> None:
        self._root = root
        self._ticks_per_s = ticks_per_s or os.sysconf("SC_CLK_TCK")
        self.boot_id = _read_text(root / "sys/kernel/random/boot_id").strip()
        self._boot_ms = 1000 * _find_boot_time_s(root)

    def read(self, pid: int) -> Process | None:
        """The process as it is now, None where it is gone."""
        folder = self._root / str(pid)
        stat = _read_text(folder / "stat")
        # comm stands in parentheses and may itself hold spaces and parentheses: cut at the last one.
        head, _, tail = stat.rpartition(")")
        values = tail.split()
        if len(values) < 20:  # noqa: PLR2004 -- field 22 (starttime) is the 20th after comm
            return None
        status = _read_status(folder / "status")
        uid = _to_int(status.get("Uid", "").split()[:1])
        unit, container = read_cgroup(_read_text(folder / "cgroup"))
        start_ms = self._boot_ms + int(values[19]) * 1000 // self._ticks_per_s
        return Process(
            key=ProcessKey(self.boot_id, pid, start_ms),
            pid=pid,
            ppid=int(values[1]),
            exe=_read_link(folder / "exe"),
            comm=head.partition("(")[2],
            argv=_read_argv(folder / "cmdline"),
            cwd=_read_link(folder / "cwd"),
            uid=uid,
            user=None,
            auid=_read_id(folder / "loginuid"),
            login=None,
            session=_to_session(_read_text(folder / "sessionid")),
            tty=None,
            unit=unit,
            container=container,
        )


def read_cgroup(text: str) -> tuple[str | None, str | None]:
    """Systemd unit and container id that a /proc/PID/cgroup names; the innermost unit counts."""
    unit = container = None
    for line in text.splitlines():
        path = line.split(":", 2)[-1]
        units = _UNIT.findall(path)
        unit = unit or (units[-1] if units else None)
        found = _HEX_CONTAINER.search(path) or _CONTAINER.search(path)
        container = container or (found.group(1) if found else None)
    return unit, container


def _read_text(path: Path, limit: int = 64 << 10) -> str:
    try:
        with path.open("rb") as file:
            return file.read(limit).decode("utf-8", "backslashreplace")
    except OSError:
        return ""


def _read_link(path: Path) -> str | None:
    try:
        target = os.fsencode(path.readlink()).decode("utf-8", "backslashreplace")
    except OSError:
        return None
    return target.removesuffix(" (deleted)")


def _read_argv(path: Path) -> tuple[str, ...]:
    text = _read_text(path, _ARGV_LIMIT_BYTES)
    return tuple(text.removesuffix("\0").split("\0")) if text else ()


def _read_status(path: Path) -> dict[str, str]:
    pairs = (line.partition(":") for line in _read_text(path).splitlines())
    return {key: value.strip() for key, _, value in pairs}


def _read_id(path: Path) -> int | None:
    value = _to_int([_read_text(path).strip()])
    return None if value == _UNSET_ID else value


def _to_session(text: str) -> str | None:
    value = text.strip()
    return value if value and value != str(_UNSET_ID) else None


def _to_int(values: list[str]) -> int | None:
    return int(values[0]) if values and values[0].isdigit() else None


def _find_boot_time_s(root: Path) -> int:
    for line in _read_text(root / "stat", 1 << 20).splitlines():
        if line.startswith("btime "):
            return int(line.split()[1])
    return 0
