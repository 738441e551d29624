"""Which events watchdogd caused itself: recognised by process and time, never by a name that others can take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from watchdogd.entities import Process

_GRACE_MS = 2_000
"""A run says every second that it lives; what it did after it last said so is still its own."""
_STARTING_MS = 10_000
"""The daemon's own exec belongs to its start. Whoever executes a program under its number later is somebody else."""


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

    def owns(
        self, process: Process | None, lineage: tuple[Process, ...], time_ms: int, *, is_exec: bool = False
    ) -> bool:
        """Whether the process is the daemon or was started below it; `is_exec`: the event is a program's start."""
        if process is None:
            return False
        instances = self._instances
        if process.ppid is not None and process.ppid in instances and self._was_running(process.ppid, time_ms):
            return True
        for ancestor in lineage:
            if ancestor.pid in instances and self._was_running(ancestor.pid, time_ms):
                return True
        return self._was_running(process.pid, time_ms, _STARTING_MS if is_exec else None)

    def _was_running(self, pid: int, time_ms: int, within_ms: int | None = None) -> bool:
        instances = self._instances.get(pid)
        return instances is not None and any(
            instance.start_ms <= time_ms
            and (instance.last_ms is None or time_ms <= instance.last_ms + _GRACE_MS)
            and (within_ms is None or time_ms <= instance.start_ms + within_ms)
            for instance in instances
        )
