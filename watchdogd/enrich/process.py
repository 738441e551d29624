"""The process tree: who started what. Built from exec records, and from /proc for what was there before."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from msgspec.structs import replace

from watchdogd.entities import Process, ProcessKey

if TYPE_CHECKING:
    from watchdogd.enrich.procfs import ProcReader

LINEAGE_LIMIT = 32
"""Longest lineage kept; a deeper tree is cut at the old end."""

ARGV_LIMIT_CHARS = 4_096
"""How much of a command line is remembered for later events and descendants; an event keeps its own whole."""

_START_TOLERANCE_MS = 2_000


class _Node:
    """One image of one process: a further exec by the same process is a new node with the same parent."""

    __slots__ = ("parent", "process")

    def __init__(self, process: Process, parent: _Node | None) -> None:
        self.process = process
        self.parent = parent


class ProcessTree:
    """Processes by pid, bounded: the one that did nothing for longest goes first.

    Without a `/proc` reader (replay) the tree knows only what the log tells; keys then have an empty boot id and
    begin when the process was first seen.
    """

    def __init__(self, proc: ProcReader | None = None, *, limit: int = 4_096) -> None:
        self._proc = proc
        self._limit = limit
        self._nodes: OrderedDict[int, _Node] = OrderedDict()
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._nodes)

    def place(self, seen: Process, time_ms: int, *, is_exec: bool) -> tuple[Process, tuple[Process, ...]]:
        """Put what an event says of its process into the tree; return the process and its lineage, parent first."""
        known = self._nodes.get(seen.pid)
        if known is not None and not _is_same(known.process, seen, time_ms):
            known = None
        if is_exec or known is None:
            node = self._add(seen, known, time_ms)
        else:
            node = known
            self._nodes.move_to_end(seen.pid)
        return _complete(seen, node.process), _trace(node)

    def _add(self, seen: Process, known: _Node | None, time_ms: int) -> _Node:
        live = self._proc.read(seen.pid) if self._proc else None
        if live is not None and live.key.start_ms > time_ms + _START_TOLERANCE_MS:
            live = None  # the pid belongs to somebody else by now
        parent = known.parent if known else self._find_parent(seen.ppid, time_ms)
        # An exec without argv (its EXECVE record was lost) still replaces the image: argv stays empty, not guessed.
        process = seen
        if live is not None:
            process = replace(seen, key=live.key, unit=live.unit, container=live.container)
        elif known is not None:
            process = replace(seen, key=known.process.key, unit=known.process.unit)
        if process.container is None and parent is not None:
            process = replace(process, container=parent.process.container)
        return self._keep(_Node(process, parent))

    def _find_parent(self, ppid: int | None, time_ms: int, depth: int = 0) -> _Node | None:
        if not ppid or depth >= LINEAGE_LIMIT:
            return None
        known = self._nodes.get(ppid)
        if known is not None:
            self._nodes.move_to_end(ppid)
            return known
        live = self._proc.read(ppid) if self._proc else None
        if live is None or live.key.start_ms > time_ms + _START_TOLERANCE_MS:
            return None
        return self._keep(_Node(live, self._find_parent(live.ppid, time_ms, depth + 1)))

    def _keep(self, node: _Node) -> _Node:
        node.process = _cut_argv(node.process)
        self._nodes[node.process.pid] = node
        self._nodes.move_to_end(node.process.pid)
        while len(self._nodes) > self._limit:
            self._nodes.popitem(last=False)
            self.evicted += 1
        return node


def _is_same(known: Process, seen: Process, time_ms: int) -> bool:
    """Whether the event's process is the one that the tree has under this pid, not a later bearer of the number."""
    if known.ppid == seen.ppid:
        return True
    # A process whose parent died belongs to init or to a subreaper now; its session and login stay.
    return known.auid == seen.auid and known.session == seen.session and time_ms >= known.key.start_ms


def _cut_argv(process: Process) -> Process:
    """The process with an argv of bounded size: an attacker chooses how long it is."""
    if sum(map(len, process.argv)) <= ARGV_LIMIT_CHARS:
        return process
    kept, left = [], ARGV_LIMIT_CHARS
    for argument in process.argv:
        if len(argument) > left:
            kept.append(f"{argument[:left]}...[cut, {len(process.argv)} arguments in all]")
            break
        kept.append(argument)
        left -= len(argument)
    return replace(process, argv=tuple(kept))


def _complete(seen: Process, known: Process) -> Process:
    """What this event says, completed by what earlier events said of the same process."""
    return Process(
        key=known.key,
        pid=seen.pid,
        ppid=seen.ppid if seen.ppid is not None else known.ppid,
        exe=seen.exe or known.exe,
        comm=seen.comm or known.comm,
        argv=seen.argv or (known.argv if (seen.exe or known.exe) == known.exe else ()),
        cwd=seen.cwd or known.cwd,
        uid=seen.uid,
        user=seen.user,
        auid=seen.auid,
        login=seen.login,
        session=seen.session,
        tty=seen.tty,
        unit=known.unit,
        container=known.container,
    )


def _trace(node: _Node) -> tuple[Process, ...]:
    lineage: list[Process] = []
    seen: set[ProcessKey] = {node.process.key}
    parent = node.parent
    while parent is not None and len(lineage) < LINEAGE_LIMIT:
        if parent.process.key not in seen:  # several images of one process count once: the one that forked
            seen.add(parent.process.key)
            lineage.append(parent.process)
        parent = parent.parent
    return tuple(lineage)
