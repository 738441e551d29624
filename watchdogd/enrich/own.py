"""Which events watchdogd caused itself: recognised by process and time, never by a name that others can take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from watchdogd.entities import Process

_GRACE_MS = 5_000


class Instance(msgspec.Struct, frozen=True):
    """One run of the daemon, now or before: its pid belonged to it from `start_ms` to `last_ms` (None: still)."""

    pid: int
    start_ms: int
    last_ms: int | None


class OwnProcesses:
    """The daemon's own process tree over its runs of this boot.

    A pid alone proves nothing, as numbers are used again; a pid within the lifetime of a run does.
    """

    def __init__(self, instances: Iterable[Instance]) -> None:
        self._instances: dict[int, list[Instance]] = {}
        for instance in instances:
            self._instances.setdefault(instance.pid, []).append(instance)

    def owns(self, process: Process | None, lineage: tuple[Process, ...], time_ms: int) -> bool:
        """Whether the process is the daemon or was started below it."""
        if process is None:
            return False
        pids = {process.pid, process.ppid or 0, *(ancestor.pid for ancestor in lineage)}
        return any(
            instance.start_ms <= time_ms and (instance.last_ms is None or time_ms <= instance.last_ms + _GRACE_MS)
            for pid in pids & self._instances.keys()
            for instance in self._instances[pid]
        )
