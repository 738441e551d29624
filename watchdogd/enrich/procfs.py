"""/proc as a source of processes that were there before the audit log told of them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from watchdogd.entities import Process, ProcessKey

if TYPE_CHECKING:
    from collections.abc import Iterator

_UNIT = re.compile(r"[^/]+\.(?:service|scope|socket|mount|swap)")
_CONTAINER = re.compile(
    r"(?:docker|podman|nerdctl|containerd|libpod(?:-payload)?|crio|cri-containerd)-([0-9a-f]{12,64})(?:\.scope)?"
    r"|(?:.*:)?(?:cri-containerd|crio|docker):([0-9a-f]{12,64})"
    r"|([0-9a-f]{64})"
    r"|lxc\.payload\.(.+)"
)
"""One component of a path, as Docker, Podman, nerdctl, CRI-O, containerd and LXC name it. Their monitors on the host
(`libpod-conmon-...`, `lxc.monitor...`) are in no container."""

_MACHINE = re.compile(r"systemd-nspawn@(.+)\.service|machine-(?!qemu)(.+)\.scope")
_LXC_FOLDERS = frozenset({"lxc", "lxc.payload"})
_SYSTEMD_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")
_ARGV_LIMIT_BYTES = 64 << 10
_UNSET_ID = 4294967295
_CGROUPS_LIMIT = 128


class Whereabouts(NamedTuple):
    """What /proc knows better than the log: when a process started, who its parent is now, and where it runs."""

    start_ms: int
    ppid: int
    unit: str | None
    container: str | None


class ProcReader:
    """Reads processes below `root`, normally /proc. Everything may vanish between two reads: None then.

    Formats: proc(5). Start times are the boot time of /proc/stat plus the start ticks of /proc/PID/stat, so they
    agree with themselves across readings, within a second of the wall clock.
    """

    def __init__(self, root: Path = Path("/proc"), *, ticks_per_s: int | None = None) -> None:
        self._root = str(root)
        self._ticks_per_s = ticks_per_s or os.sysconf("SC_CLK_TCK")
        self._cgroups: dict[str, tuple[str | None, str | None]] = {}
        self.boot_id = _read_text(f"{root}/sys/kernel/random/boot_id").strip()
        self.boot_ms = 1000 * _find_boot_time_s(f"{root}/stat")
        """When this boot began; 0 where /proc/stat does not say."""

    def read(self, pid: int) -> Process | None:
        """The process as it is now, None where it is gone."""
        values, comm = self._read_stat(pid)
        if not values:
            return None
        folder = f"{self._root}/{pid}"
        status = _read_status(f"{folder}/status")
        uid = _to_int(status.get("Uid", "").split()[:1])
        unit, container = read_cgroup(_read_text(f"{folder}/cgroup"))
        return Process(
            key=ProcessKey(self.boot_id, pid, self._find_start_ms(values)),
            pid=pid,
            ppid=int(values[1]),
            exe=_read_link(f"{folder}/exe"),
            comm=comm,
            argv=_read_argv(f"{folder}/cmdline"),
            cwd=_read_link(f"{folder}/cwd"),
            uid=uid,
            user=None,
            auid=_read_id(f"{folder}/loginuid"),
            login=None,
            session=_to_session(_read_text(f"{folder}/sessionid")),
            tty=None,
            unit=unit,
            container=container,
        )

    def list_argv(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Every process with its arguments, the newest pids first; kernel threads have none."""
        try:
            names = os.listdir(self._root)  # noqa: PTH208 -- as _read_text
        except OSError:
            return
        for pid in sorted((int(name) for name in names if name.isdigit()), reverse=True):
            yield pid, _read_argv(f"{self._root}/{pid}/cmdline")

    def locate(self, pid: int) -> Whereabouts | None:
        """Start, parent, unit and container alone: two files instead of seven."""
        values, _ = self._read_stat(pid)
        if not values:
            return None
        text = _read_text(f"{self._root}/{pid}/cgroup")
        cgroup = self._cgroups.get(text)
        if cgroup is None:
            if len(self._cgroups) >= _CGROUPS_LIMIT:
                self._cgroups.clear()
            cgroup = self._cgroups[text] = read_cgroup(text)
        return Whereabouts(self._find_start_ms(values), int(values[1]), *cgroup)

    def read_start_ms(self, pid: int) -> int | None:
        """When the bearer of this pid started, None where there is none."""
        values, _ = self._read_stat(pid)
        return self._find_start_ms(values) if values else None

    def is_thread(self, pid: int) -> bool:
        """Whether this number is that of a further thread: /proc has those, too, and does not list them."""
        owner = _read_status(f"{self._root}/{pid}/status").get("Tgid", "")
        return owner.isdigit() and int(owner) != pid

    def _read_stat(self, pid: int) -> tuple[list[str], str]:
        stat = _read_text(f"{self._root}/{pid}/stat")
        # comm stands in parentheses and may itself hold spaces and parentheses: cut at the last one.
        head, _, tail = stat.rpartition(")")
        values = tail.split()
        if len(values) < 20:  # noqa: PLR2004 -- field 22 (starttime) is the 20th after comm
            return [], ""
        return values, head.partition("(")[2]

    def _find_start_ms(self, values: list[str]) -> int:
        return self.boot_ms + int(values[19]) * 1000 // self._ticks_per_s


def read_cgroup(text: str) -> tuple[str | None, str | None]:
    """Systemd unit and container that a /proc/PID/cgroup names (cgroups(7); v1 has a line for each controller).

    The outermost of each counts: what lies below it is in the hands of those who run there. The unit is the one that
    `ps -o unit` shows. The container is the id of Docker, Podman and Kubernetes, the name of LXC and systemd-nspawn.
    """
    paths = [line.split(":", 2) for line in text.splitlines()]
    paths = [parts for parts in paths if len(parts) == 3]  # noqa: PLR2004 -- hierarchy:controllers:path
    paths.sort(key=lambda parts: parts[1] != "name=systemd" and parts[0] != "0")
    unit = next(filter(None, (_find_unit(path) for *_, path in paths)), None)
    container = next(filter(None, (_find_container(path) for *_, path in paths)), None)
    return unit, container


def _find_unit(path: str) -> str | None:
    for part in path.split("/"):
        if _UNIT.fullmatch(part):
            return part
    return None


def _find_container(path: str) -> str | None:
    parts = path.split("/")
    for part, inner in zip(parts, [*parts[1:], ""], strict=True):
        if part in _LXC_FOLDERS and inner:
            return inner
        if found := _CONTAINER.fullmatch(part):
            return str(found[found.lastindex or 0])
        if (found := _MACHINE.fullmatch(part)) and inner != "supervisor":
            return _SYSTEMD_ESCAPE.sub(lambda escaped: chr(int(escaped[1], 16)), str(found[found.lastindex or 0]))
    return None


def _read_text(path: str, limit: int = 64 << 10) -> str:
    """Plain system calls: this is done for every program that starts, and costs a third of `open`."""
    parts = []
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while limit > 0 and (part := os.read(file, limit)):
                parts.append(part)
                limit -= len(part)
        finally:
            os.close(file)
    except OSError:
        return ""
    return b"".join(parts).decode("utf-8", "backslashreplace")


def _read_link(path: str) -> str | None:
    try:
        target = os.fsencode(os.readlink(path)).decode("utf-8", "backslashreplace")  # noqa: PTH115 -- as _read_text
    except OSError:
        return None
    return target.removesuffix(" (deleted)")


def _read_argv(path: str) -> tuple[str, ...]:
    text = _read_text(path, _ARGV_LIMIT_BYTES)
    return tuple(text.removesuffix("\0").split("\0")) if text else ()


def _read_status(path: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in _read_text(path).splitlines())
    return {key: value.strip() for key, _, value in pairs}


def _read_id(path: str) -> int | None:
    value = _to_int([_read_text(path).strip()])
    return None if value == _UNSET_ID else value


def _to_session(text: str) -> str | None:
    value = text.strip()
    return value if value and value != str(_UNSET_ID) else None


def _to_int(values: list[str]) -> int | None:
    return int(values[0]) if values and values[0].isdigit() else None


def _find_boot_time_s(path: str) -> int:
    for line in _read_text(path, 1 << 20).splitlines():
        if line.startswith("btime "):
            return int(line.split()[1])
    return 0
