"""Which process weighs most: two walks over all processes, compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from watchdogd.collect.host_processes import ProcessSample
    from watchdogd.entities import FieldValue

KINDS: Final = ("cpu", "memory", "io", "forks", "group", "zombies")
TOP: Final = 3
"""So many are told of, by CPU and by memory."""

_Key = tuple[int, int]


class Heavy(NamedTuple):
    """A process that weighs, and its weight as the event's fields say it."""

    pid: int
    weight: float
    fields: dict[str, FieldValue]


class _Past(NamedTuple):
    """What is remembered of a process until the next walk."""

    ppid: int
    cpu_s: float
    children_cpu_s: float
    children_faults: int
    io_bytes: int | None


class Weights:
    """Remembers one walk: some 300 bytes for each process."""

    def __init__(self) -> None:
        self._past: dict[_Key, _Past] = {}

    def forget(self) -> None:
        """Begin anew: the last walk failed."""
        self._past = {}

    def weigh(self, samples: Sequence[ProcessSample], elapsed_s: float) -> dict[str, list[Heavy]]:
        """The heaviest by kind, heaviest first; `elapsed_s` since the last walk. Growth needs a walk before.

        `cpu` counts a process's own time and that of its children that came and went between the walks, so that a
        shell that starts thousands of short programs is named. `forks` goes by those children's page faults. `group` is
        the largest process group, by its oldest member; `zombies` who does not wait for most dead children.
        """
        found = {"memory": _pick(samples, lambda sample: sample.memory_bytes, TOP, "ProcessMemoryBytes")}
        found["group"] = self._find_group(samples)
        found["zombies"] = _find_zombies(samples)
        if self._past and elapsed_s > 0:
            inherited = self._list_inherited(samples)
            spent = self._measure_cpu(samples, inherited)
            found["cpu"] = [
                heavy._replace(weight=percent, fields={"ProcessCpuPercent": percent})
                for heavy in _pick(samples, lambda sample: spent[sample.pid], TOP, "")
                if (percent := round(100 * heavy.weight / elapsed_s, 1))
            ]
            found["forks"] = _pick(samples, self._measure_forks, 1, "")
            found["io"] = [
                heavy._replace(fields={"ProcessIoBytesPerSecond": round(heavy.weight / elapsed_s)})
                for heavy in _pick(samples, lambda sample: self._measure_io(sample, inherited), 1, "")
            ]
        self._past = {
            (sample.pid, sample.start_ticks): _Past(
                sample.ppid, sample.cpu_s, sample.children_cpu_s, sample.children_faults, sample.io_bytes
            )
            for sample in samples
        }
        return found

    def _list_inherited(self, samples: Sequence[ProcessSample]) -> dict[int, tuple[float, int]]:
        """By ancestor, what those who have ended since had spent before the last walk: CPU seconds, bytes.

        It is in the parent's figures now, but not of this time.
        """
        here = {(sample.pid, sample.start_ticks) for sample in samples}
        ended = {key[0]: past for key, past in self._past.items() if key not in here}
        inherited: dict[int, tuple[float, int]] = {}
        for past in ended.values():
            heir, generations = past.ppid, 0
            while heir in ended and generations < len(ended):  # who ended, too, handed it on
                heir, generations = ended[heir].ppid, generations + 1
            cpu_s, io_bytes = inherited.get(heir, (0.0, 0))
            inherited[heir] = cpu_s + past.cpu_s + past.children_cpu_s, io_bytes + (past.io_bytes or 0)
        return inherited

    def _measure_cpu(
        self, samples: Sequence[ProcessSample], inherited: dict[int, tuple[float, int]]
    ) -> dict[int, float]:
        """Seconds since the last walk, by pid. Who was not there before has spent all its time since."""
        spent = {}
        for sample in samples:
            past = self._past.get((sample.pid, sample.start_ticks))
            own, children = sample.cpu_s, sample.children_cpu_s
            if past is not None:
                own -= past.cpu_s
                children -= past.children_cpu_s + inherited.get(sample.pid, (0.0, 0))[0]
            spent[sample.pid] = max(own, 0.0) + max(children, 0.0)
        return spent

    def _measure_forks(self, sample: ProcessSample) -> float:
        past = self._past.get((sample.pid, sample.start_ticks))
        return sample.children_faults - (past.children_faults if past else 0)

    def _measure_io(self, sample: ProcessSample, inherited: dict[int, tuple[float, int]]) -> float:
        past = self._past.get((sample.pid, sample.start_ticks))
        before = 0 if past is None else (past.io_bytes or 0) + inherited.get(sample.pid, (0.0, 0))[1]
        return (sample.io_bytes or 0) - before

    def _find_group(self, samples: Sequence[ProcessSample]) -> list[Heavy]:
        members: dict[int, list[ProcessSample]] = {}
        for sample in samples:
            if sample.group:  # threads of the kernel are in none
                members.setdefault(sample.group, []).append(sample)
        if not members:
            return []
        largest = max(members.values(), key=len)
        oldest = min(largest, key=lambda sample: (sample.start_ticks, sample.pid))
        return [Heavy(oldest.pid, len(largest), {"ProcessCount": len(largest)})]


def _find_zombies(samples: Iterable[ProcessSample]) -> list[Heavy]:
    counts: dict[int, int] = {}
    for sample in samples:
        if sample.is_zombie:
            counts[sample.ppid] = counts.get(sample.ppid, 0) + 1
    if not counts:
        return []
    parent = max(counts, key=lambda pid: counts[pid])
    return [Heavy(parent, counts[parent], {"ProcessCount": counts[parent]})]


def _pick(
    samples: Sequence[ProcessSample], weigh: Callable[[ProcessSample], float], most: int, field: str
) -> list[Heavy]:
    weighed = sorted(((weigh(sample), sample.pid) for sample in samples), reverse=True)[:most]
    return [Heavy(pid, weight, {field: weight} if field else {}) for weight, pid in weighed if weight > 0]
