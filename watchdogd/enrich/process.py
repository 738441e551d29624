"""The process tree: who started what. Built from exec, fork and exit records, and from /proc for what was there before.

Where nothing is known a lineage ends; nobody becomes a parent because of a shared session or terminal.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from msgspec.structs import replace

from watchdogd.enrich.retention import LINEAGE_LIMIT, Node, Shelf
from watchdogd.entities import Process, ProcessKey
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from watchdogd.enrich.procfs import ProcReader, Whereabouts

ARGV_LIMIT_CHARS = 4_096
ARGV_LIMIT_BYTES = 16_384
"""How much of a command line is remembered for later events and descendants; an event keeps its own whole.

Bytes are those of memory: an empty argument takes 49, a character up to 4.
"""

_ARGUMENT_BYTES = 80
_START_TOLERANCE_MS = 2_000
"""/proc tells start times by a boot time in whole seconds."""

_CHECK_EVERY_MS = 2_000
_EXIT_GRACE_MS = 500
"""Records are stamped when a syscall begins: others of a process may be a little younger than its exit."""

_KEEP_ENDED_MS = 10_000
_DELETED = " (deleted)"
"""What the kernel appends to the path of a running program that was removed."""

_MOVERS = frozenset({"systemd", "systemd-executor", "sshd", "sshd-session", "runc", "crun", "conmon"})
_MOVERS_LIKE = "containerd-shim"
"""Programs that put their children into cgroups of their own."""


class ProcessTree:
    """Processes by pid, bounded in number (`retention` says who goes first).

    A pid belongs to somebody else where /proc says that its bearer started later, where it exited before, or where
    another login has it. A process that was given to a reaper keeps its lineage. What remains: a pid used again for a
    child of the same parent, without /proc and without an audited exit. It looks like a further exec of the same
    process; its parent is right all the same, and its command line is always that of its own exec.

    Without a `/proc` reader (replay) the tree knows only what the log tells; keys then have an empty boot id and
    begin when the process was first seen. With one, what happened before this boot stays apart: /proc is not asked
    about it, and the first event of this boot finds an empty tree.
    """

    def __init__(self, proc: ProcReader | None = None, *, limit: int = 4_096, counters: Counters | None = None) -> None:
        self._proc = proc
        self._live: ProcReader | None = None
        self.limit = limit
        """How many images are kept."""
        self._counters = counters or Counters()
        self._nodes: dict[int, Node] = {}
        self._shelf = Shelf(limit, None if proc is None else self._is_gone)
        self._counters.add("enrich_evicted_processes_total", 0)

    def __len__(self) -> int:
        return len(self._shelf)

    @property
    def hermetic(self) -> bool:
        """Whether the tree knows nothing but the log."""
        return self._proc is None

    def make_sibling(self) -> ProcessTree:
        """An empty tree of the same size for another host's processes, which this host's /proc knows nothing of."""
        return ProcessTree(limit=self.limit, counters=self._counters)

    def resize(self, limit: int) -> None:
        """Keep so many images from now on."""
        self.limit = limit
        self._shelf.resize(limit)
        self._make_room()

    def clear(self) -> None:
        """Believe nothing of what was: the host was started anew."""
        self._nodes.clear()
        self._shelf.clear()

    def place(self, seen: Process, time_ms: int, *, is_exec: bool) -> tuple[Process, tuple[Process, ...]]:
        """Put what an event says of its process into the tree; return the process and its lineage, parent first."""
        self._advance(time_ms)
        node = self._find(seen, time_ms)
        if node is None or (is_exec and time_ms >= node.since_ms) or _is_new_image(node, seen, time_ms):
            process, node = self._add(seen, node, time_ms)
            return process, _trace(node)
        self._shelf.touch(node)
        if time_ms >= node.since_ms:  # else it comes late: the process is past it
            _update_login(node, seen)
        return _complete(seen, node), _trace(node)

    def fork(self, pid: int, child_pid: int, time_ms: int, *, sibling: bool = False) -> None:
        """Process `pid` was told `child_pid` by a fork: the child runs the same image until it execs.

        `sibling` is CLONE_PARENT: the child hangs beside its maker. In a container the kernel tells a number of the
        container's own pid namespace, and a thread's number is no process: /proc is asked where it can be; otherwise
        the number is believed only where nobody living has it, or once its bearer is seen below this very parent.
        """
        maker = self._nodes.get(pid)
        if maker is None or child_pid <= 0 or child_pid == pid:
            return
        parent = maker.parent if sibling else maker
        ppid = maker.process.ppid if sibling else pid
        known = self._nodes.get(child_pid)
        if known is not None and known.process.ppid == ppid and known.since_ms >= time_ms:
            return  # its exec was logged first: a vfork returns when its child has another image
        live = self._live.locate(child_pid) if self._live else None
        if live is not None and live.start_ms > time_ms + _START_TOLERANCE_MS:
            live = None  # the child is gone, and its number is somebody else's by now
        if live is not None and self._live is not None and self._live.is_thread(child_pid):
            return
        if not _believes(maker, ppid, live, time_ms):
            return
        process = replace(maker.process, key=self._make_key(child_pid, live, time_ms), pid=child_pid, ppid=ppid)
        if live is not None:
            process = replace(process, unit=live.unit, container=live.container or process.container)
        child = Node(process, parent, time_ms)
        if known is not None and known.ended_ms is None and live is None:
            known.heir = child
        else:
            self._install(child)

    def end(self, pid: int, time_ms: int) -> None:
        """The process exited. It stays as an ancestor while others descend from it; its pid may be used again."""
        node = self._nodes.get(pid)
        if node is not None and node.ended_ms is None:
            node.ended_ms = time_ms
            self._shelf.end(node)

    def recall(self, pid: int) -> tuple[Process, tuple[Process, ...]] | None:
        """What is known of the last bearer of a pid, with its lineage."""
        node = self._nodes.get(pid)
        return None if node is None else (node.process, _trace(node))

    def list_since(self, time_ms: int) -> list[tuple[Process, tuple[Process, ...]]]:
        """Images that began since then and were not followed by another, the newest first, each with its lineage."""
        found = [node for node in self._nodes.values() if node.since_ms >= time_ms and not node.from_proc]
        return [(node.process, _trace(node)) for node in sorted(found, key=lambda node: -node.since_ms)]

    # --- time ---------------------------------------------------------------------------------------------------

    def _advance(self, time_ms: int) -> None:
        if self._live is None and self._proc is not None and time_ms >= self._proc.boot_ms:
            self.clear()
            self._live = self._proc
        while (ended := self._shelf.take_ended(time_ms - _KEEP_ENDED_MS)) is not None:
            self._forget(ended)

    def _is_gone(self, process: Process) -> bool:
        if self._live is None:
            return False
        start_ms = self._live.read_start_ms(process.pid)
        return start_ms is None or start_ms > process.key.start_ms + _START_TOLERANCE_MS

    def _is_used_again(self, node: Node, time_ms: int) -> bool:
        """Whether at the time of the event another process had this pid; asked of /proc now and then."""
        if node.ended_ms is not None and time_ms > node.ended_ms + _EXIT_GRACE_MS:
            return True
        if self._live is None or time_ms - node.checked_ms < _CHECK_EVERY_MS:
            return False
        node.checked_ms = time_ms
        start_ms = self._live.read_start_ms(node.process.pid)
        if start_ms is None:
            return False
        return node.process.key.start_ms + _START_TOLERANCE_MS < start_ms <= time_ms + _START_TOLERANCE_MS

    # --- who is who ---------------------------------------------------------------------------------------------

    def _find(self, seen: Process, time_ms: int) -> Node | None:
        """The node of the process that an event speaks of; None where it is not in the tree."""
        node = self._nodes.get(seen.pid)
        if node is None:
            return None
        heir = node.heir
        if heir is not None and seen.ppid == heir.process.ppid and time_ms >= heir.since_ms:
            self._install(heir)
            return heir
        if not _is_same(node, seen, time_ms) or self._is_used_again(node, time_ms):
            return None
        return node

    def _find_parent(self, ppid: int | None, pid: int, time_ms: int, depth: int = 0) -> Node | None:
        if not ppid or ppid == pid or depth >= LINEAGE_LIMIT:
            return None
        known = self._nodes.get(ppid)
        if known is not None and not self._is_used_again(known, time_ms):
            self._shelf.touch(known)
            return known
        live = self._live.read(ppid) if self._live else None
        if live is None or live.key.start_ms > time_ms + _START_TOLERANCE_MS:
            return None
        parent = self._find_parent(live.ppid, ppid, time_ms, depth + 1)
        if live.container is None and parent is not None and parent.process.container is not None:
            live = replace(live, container=parent.process.container)
        return self._install(Node(live, parent, time_ms, from_proc=True))

    # --- nodes --------------------------------------------------------------------------------------------------

    def _add(self, seen: Process, known: Node | None, time_ms: int) -> tuple[Process, Node]:
        """A new image, and its process with the whole argv.

        An exec without argv (its EXECVE record was lost) replaces the image, too: argv stays empty, not guessed.
        """
        live = self._live.locate(seen.pid) if self._live else None
        if live is not None and live.start_ms > time_ms + _START_TOLERANCE_MS:
            live = None  # the pid belongs to somebody else by now
        parent = known.parent if known else None
        if parent is None:
            ppid = seen.ppid if seen.ppid is not None or live is None else live.ppid
            parent = self._find_parent(ppid, seen.pid, time_ms)
        unit = live.unit if live else (known.process.unit if known else _inherit_unit(seen, parent))
        container = live.container if live else None
        if container is None and known is not None:
            container = known.process.container
        if container is None and parent is not None:
            container = parent.process.container
        key = known.process.key if known else self._make_key(seen.pid, live, time_ms)
        process = replace(seen, key=key, unit=unit, container=container)
        node = self._install(Node(_cut_argv(process), parent, time_ms))
        if known is not None and known.ended_ms is not None:
            self.end(seen.pid, known.ended_ms)
        return process, node

    def _make_key(self, pid: int, live: Whereabouts | None, time_ms: int) -> ProcessKey:
        if self._live is None:
            return ProcessKey("", pid, time_ms)
        begun = live is not None and live.start_ms <= time_ms + _START_TOLERANCE_MS
        return ProcessKey(self._live.boot_id, pid, live.start_ms if begun and live is not None else time_ms)

    def _install(self, node: Node) -> Node:
        """Make the node its pid's image, and room for it."""
        before = self._nodes.get(node.process.pid)
        self._nodes[node.process.pid] = node
        self._shelf.add(node)
        if before is not None:
            self._shelf.retire(before)
        self._make_room()
        return node

    def _make_room(self) -> None:
        while (victim := self._shelf.evict()) is not None:
            self._counters.add("enrich_evicted_processes_total")
            self._forget(victim)

    def _forget(self, node: Node) -> None:
        if self._nodes.get(node.process.pid) is node:
            del self._nodes[node.process.pid]


def _is_same(node: Node, seen: Process, time_ms: int) -> bool:
    """Whether the event's process is the one that the tree has under this pid, as far as the log tells."""
    known = node.process
    if known.ppid == seen.ppid:
        return True
    same_login = known.auid == seen.auid and known.session == seen.session
    if seen.ppid is None or known.ppid is None:  # what programs report themselves lacks it; LOGIN has the new login
        return same_login or _is_image(node, seen)
    if not same_login or time_ms + _START_TOLERANCE_MS < known.key.start_ms:
        return False
    # A process whose parent died is given to an ancestor that reaps, in the end to init.
    pids = _list_pids(node)
    return seen.ppid == 1 or seen.ppid in pids or 1 not in pids


def _believes(maker: Node, ppid: int | None, live: Whereabouts | None, time_ms: int) -> bool:
    """Whether the number that a fork returned is that of a child, as far as /proc can tell."""
    if live is None:
        return maker.process.container is None
    if live.start_ms < time_ms - _START_TOLERANCE_MS:
        return False
    return live.ppid in {ppid, 1, *_list_pids(maker)}


def _is_image(node: Node, seen: Process) -> bool:
    if node.process.exe is None or seen.exe is None or node.process.exe == seen.exe:
        return True
    known, exe = node.process.exe.removesuffix(_DELETED), seen.exe.removesuffix(_DELETED)
    # In a chroot or a container the log has the path that the process sees, /proc the host's.
    return known == exe or (node.from_proc and known.rpartition("/")[2] == exe.rpartition("/")[2])


def _is_new_image(node: Node, seen: Process, time_ms: int) -> bool:
    """Whether it runs another program than the tree has (an exec that was not audited), or first names its parent."""
    if seen.ppid is None:
        return False
    return node.process.ppid is None or (time_ms >= node.since_ms and not _is_image(node, seen))


def _update_login(node: Node, seen: Process) -> None:
    """Take over who the process is now: setuid and logins need no exec."""
    known = node.process
    if _lacks_login(seen):
        if seen.uid is not None and seen.uid != known.uid:
            node.process = replace(known, uid=seen.uid, user=seen.user)
        return
    if (known.uid, known.auid, known.session) != (seen.uid, seen.auid, seen.session):
        node.process = replace(
            known, uid=seen.uid, user=seen.user, auid=seen.auid, login=seen.login, session=seen.session
        )


def _lacks_login(seen: Process) -> bool:
    """Whether the record does not say who logged in, as io_uring's do: they name no program either."""
    return seen.exe is None and seen.comm is None and seen.auid is None and seen.session is None


def _inherit_unit(seen: Process, parent: Node | None) -> str | None:
    """A child is in its parent's unit, unless its parent's business is to put it elsewhere, or it logged in."""
    if parent is None or parent.process.unit is None or parent.process.session != seen.session:
        return None
    name = (parent.process.exe or "").rpartition("/")[2]
    return None if name in _MOVERS or name.startswith(_MOVERS_LIKE) else parent.process.unit


def _list_pids(node: Node) -> set[int]:
    return {ancestor.pid for ancestor in _trace(node)}


def _cut_argv(process: Process) -> Process:
    """The process with an argv of bounded size: an attacker chooses how long it is."""
    argv = process.argv
    chars = sum(map(len, argv))
    if 4 * chars + _ARGUMENT_BYTES * len(argv) <= ARGV_LIMIT_BYTES:
        return process
    if chars <= ARGV_LIMIT_CHARS and sum(map(sys.getsizeof, argv)) <= ARGV_LIMIT_BYTES:
        return process
    kept: list[str] = []
    chars, room = ARGV_LIMIT_CHARS, ARGV_LIMIT_BYTES
    for argument in argv:
        fits = min(chars, max(0, room - _ARGUMENT_BYTES) // (1 if argument.isascii() else 4))
        if len(argument) > fits or room < _ARGUMENT_BYTES:
            kept.append(f"{argument[:fits]}...[cut, {len(argv)} arguments in all]")
            break
        kept.append(argument)
        chars -= len(argument)
        room -= sys.getsizeof(argument)
    return replace(process, argv=tuple(kept))


def _complete(seen: Process, node: Node) -> Process:
    """What this event says, completed by what earlier events said of the same process."""
    known = node.process
    login = known if _lacks_login(seen) else seen
    return Process(
        key=known.key,
        pid=seen.pid,
        ppid=seen.ppid if seen.ppid is not None else known.ppid,
        exe=seen.exe or known.exe,
        comm=seen.comm or known.comm,
        argv=seen.argv or (known.argv if _is_image(node, seen) else ()),
        cwd=seen.cwd or known.cwd,
        uid=seen.uid,
        user=seen.user,
        auid=login.auid,
        login=login.login,
        session=login.session,
        tty=login.tty,
        unit=known.unit,
        container=known.container,
    )


def _trace(node: Node) -> tuple[Process, ...]:
    lineage: list[Process] = []
    parent = node.parent
    while parent is not None and len(lineage) < LINEAGE_LIMIT:
        lineage.append(parent.process)
        parent = parent.parent
    return tuple(lineage)
