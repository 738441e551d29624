"""Every process of the host at one moment, and who one of them is. Formats: proc(5)."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from watchdogd.collect.host_reader import escape_bytes, read_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watchdogd.entities import FieldMap

MAX_PROCESSES = 8192
"""A walk looks at so many at most: the quarter with the lowest numbers, and the rest with the highest."""
_ANCESTORS = 16
_COMMAND_CHARS = 2048
_ARGV_BYTES = 64 << 10
_LEAST_FILES = 256
"""Below this nobody comes near any usual limit (1,024), so that the limit is not read."""


class ProcessSample(msgspec.Struct, frozen=True, gc=False):
    """One process of a walk: enough to say who weighs most."""

    pid: int
    start_ticks: int
    ppid: int
    group: int
    """Process group: what a shell started as one job, 0 for threads of the kernel."""
    is_zombie: bool
    cpu_s: float
    children_cpu_s: float
    """Of those children that ended and were waited for."""
    children_faults: int
    """Page faults of those children: even the shortest has some dozens, so that they tell who forks."""
    memory_bytes: int
    io_bytes: int | None
    """Bytes that it read from disks and had written to them; None where that may not be read."""


class ProcessReader(Protocol):
    """Where processes are read."""

    def list_pids(self) -> list[int]:
        """All of them, ascending. Raises OSError."""

    def walk(self, pids: Sequence[int]) -> list[ProcessSample]:
        """Those of them that could be read before they ended."""

    def describe(self, pid: int) -> FieldMap:
        """Sigma's field names for one process and its ancestors, as far as they can be read; empty where it ended."""

    def read_argv(self, pid: int) -> tuple[str, ...]:
        """The words that it was started with; empty where it ended."""

    def count_files(self, pid: int) -> int | None:
        """Open files of a process, None where nobody says."""

    def find_fullest(self, pids: Sequence[int]) -> tuple[int, float] | None:
        """Who has opened the greatest share of the files that it may open, and that share in percent."""

    def find_owners(self, inodes: frozenset[int], pids: Sequence[int]) -> dict[int, int]:
        """Who holds each of these sockets, by inode: the first of those that do, but pid 1 only where it is alone."""

    @property
    def total_memory_bytes(self) -> int:
        """Of the host."""


class ProcProcesses:
    """The processes below `root`, normally /proc. Everything may vanish between two reads, and is left out then."""

    def __init__(self, root: Path = Path("/proc")) -> None:
        self._root = str(root)
        self._ticks_per_s = os.sysconf("SC_CLK_TCK")
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._names: dict[int, str] = {}
        self.total_memory_bytes = os.sysconf("SC_PHYS_PAGES") * self._page_bytes

    def list_pids(self) -> list[int]:
        """All of them, ascending. Accounts' names are asked for anew from here on."""
        self._names.clear()
        return sorted(int(name) for name in os.listdir(self._root) if name.isdigit())  # noqa: PTH208 -- a third of the cost

    def walk(self, pids: Sequence[int]) -> list[ProcessSample]:
        """Two files each, 25 microseconds."""
        samples = (self._read_sample(pid) for pid in pids)
        return [sample for sample in samples if sample is not None]

    def _read_sample(self, pid: int) -> ProcessSample | None:
        try:
            values = read_bytes(f"{self._root}/{pid}/stat").rpartition(b")")[2].split()
        except OSError:
            return None
        if len(values) < 22:  # noqa: PLR2004 -- field 24 (rss) is the 22nd after comm
            return None
        per_s = self._ticks_per_s
        group = int(values[2])
        return ProcessSample(
            pid,
            int(values[19]),
            int(values[1]),
            group,
            values[0] == b"Z",
            (int(values[11]) + int(values[12])) / per_s,
            (int(values[13]) + int(values[14])) / per_s,
            int(values[8]),
            int(values[21]) * self._page_bytes,
            self._read_io(pid) if group else None,
        )

    def _read_io(self, pid: int) -> int | None:
        try:
            lines = read_bytes(f"{self._root}/{pid}/io").splitlines()
        except OSError:  # other users' processes without CAP_SYS_PTRACE
            return None
        return sum(int(line.split()[1]) for line in lines if line.startswith((b"read_bytes", b"write_bytes")))

    def describe(self, pid: int) -> FieldMap:
        """`Image` is absent for kernel threads and where /proc/PID/exe may not be read; never guessed."""
        own = self._read_person(pid)
        if own is None:
            return {}
        fields: FieldMap = {"ProcessId": pid, "ProcessName": own.name}
        fields |= _drop_empty({"Image": own.image, "CommandLine": own.command, "User": own.user})
        ancestors = self._trace(own)
        if ancestors:
            parent = ancestors[0]
            fields["ParentProcessId"] = parent.pid
            fields |= _drop_empty(
                {"ParentImage": parent.image, "ParentCommandLine": parent.command, "ParentUser": parent.user}
            )
        if images := tuple(ancestor.image for ancestor in ancestors if ancestor.image):
            fields["AncestorImages"] = images
        return fields

    def read_argv(self, pid: int) -> tuple[str, ...]:
        """The first 64 KiB of them, as the process tree keeps them."""
        try:
            text = _show(read_bytes(f"{self._root}/{pid}/cmdline", _ARGV_BYTES))
        except OSError:
            return ()
        return tuple(text.removesuffix("\0").split("\0")) if text else ()

    def _trace(self, person: _Person) -> list[_Person]:
        found: list[_Person] = []
        while person.ppid > 0 and len(found) < _ANCESTORS:
            parent = self._read_person(person.ppid)
            if parent is None:
                break
            found.append(parent)
            person = parent
        return found

    def _read_person(self, pid: int) -> _Person | None:
        folder = f"{self._root}/{pid}"
        try:
            lines = read_bytes(f"{folder}/status").splitlines()
        except OSError:
            return None
        status = {name: value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        uid = status.get(b"Uid", b"").split()[1:2]
        return _Person(
            pid,
            int(status.get(b"PPid") or 0),
            _show(status.get(b"Name", b"")),
            _read_link(f"{folder}/exe"),
            _read_command(f"{folder}/cmdline"),
            self._name(int(uid[0])) if uid else "",
        )

    def _name(self, uid: int) -> str:
        """Once for each walk: who asks a directory of accounts over the network waits for it."""
        name = self._names.get(uid)
        if name is None:
            name = self._names[uid] = name_user(uid)
        return name

    def count_files(self, pid: int) -> int | None:
        """The kernel says it as the size of /proc/PID/fd since 6.2; before, those that may list the folder count."""
        folder = f"{self._root}/{pid}/fd"
        try:
            return os.stat(folder).st_size or len(os.listdir(folder))  # noqa: PTH116, PTH208 -- for every process
        except OSError:
            return None

    def find_fullest(self, pids: Sequence[int]) -> tuple[int, float] | None:
        """Limits are read only of those that have opened many."""
        best: tuple[int, float] | None = None
        for pid in pids:
            count = self.count_files(pid)
            if count is None:
                continue
            limit = self._read_file_limit(pid) if count >= _LEAST_FILES else 4 * _LEAST_FILES
            if limit and (best is None or 100 * count / limit > best[1]):
                best = pid, 100 * count / limit
        return best

    def _read_file_limit(self, pid: int) -> int | None:
        try:
            text = read_bytes(f"{self._root}/{pid}/limits")
        except OSError:
            return None
        line = next((line for line in text.splitlines() if line.startswith(b"Max open files")), b"")
        soft = line.split()[3:4]
        return int(soft[0]) if soft and soft[0].isdigit() else None

    def find_owners(self, inodes: frozenset[int], pids: Sequence[int]) -> dict[int, int]:
        """Reads the links below /proc/PID/fd, for which other users' processes need CAP_SYS_PTRACE."""
        wanted = {f"socket:[{inode}]": inode for inode in inodes}
        owners: dict[int, int] = {}
        for pid in [*(pid for pid in pids if pid != 1), 1]:
            for target in self._list_targets(pid):
                if target in wanted:
                    owners.setdefault(wanted[target], pid)
            if len(owners) == len(wanted):
                break
        return owners

    def _list_targets(self, pid: int) -> list[str]:
        folder = f"{self._root}/{pid}/fd"
        try:
            names = os.listdir(folder)  # noqa: PTH208 -- as above
        except OSError:
            return []
        targets = []
        for name in names:
            try:
                targets.append(os.readlink(f"{folder}/{name}"))  # noqa: PTH115 -- done for every file of the host
            except OSError:
                continue
        return targets


class _Person(msgspec.Struct, frozen=True):
    """Who a process is; what may not be read is empty."""

    pid: int
    ppid: int
    name: str
    image: str
    command: str
    user: str


def choose_pids(pids: Sequence[int]) -> Sequence[int]:
    """At most MAX_PROCESSES: services are among the first, and what floods the host is among the last."""
    if len(pids) <= MAX_PROCESSES:
        return pids
    first = MAX_PROCESSES // 4
    return [*pids[:first], *pids[first - MAX_PROCESSES :]]


def name_user(uid: int) -> str:
    """The account's name on this host, else its number."""
    try:
        return escape_bytes(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return str(uid)


def _drop_empty(texts: dict[str, str]) -> FieldMap:
    return {name: text for name, text in texts.items() if text}


def _read_link(path: str) -> str:
    try:
        return escape_bytes(os.readlink(path)).removesuffix(" (deleted)")  # noqa: PTH115 -- a link of the kernel's
    except OSError:
        return ""


def _read_command(path: str) -> str:
    try:
        text = read_bytes(path, 4 * _COMMAND_CHARS)
    except OSError:
        return ""
    return _show(text.rstrip(b"\0").replace(b"\0", b" "))[:_COMMAND_CHARS]


def _show(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
