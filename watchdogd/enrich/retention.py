"""Which processes are remembered when there are too many: those that others still descend from, go last."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from watchdogd.entities import Process

LINEAGE_LIMIT = 32
"""Longest lineage kept; a deeper tree is cut at the old end."""

_PROBES = 3
_Queue = OrderedDict["Node", None]


class Node:
    """One image of one process: a further exec by the same process is a new node with the same parent.

    `since_ms` is the event time from which this image ran, `kept` how many nodes on the shelf hang below it, `heir` a
    process that a fork record announced under this pid and that has not been seen to act yet.
    """

    __slots__ = (
        *("checked_ms", "current", "depth", "ended_ms", "from_proc", "heir", "kept", "parent", "process", "queue"),
        "since_ms",
    )

    def __init__(self, process: Process, parent: Node | None, since_ms: int, *, from_proc: bool = False) -> None:
        self.process = process
        self.parent = parent
        self.since_ms = since_ms
        self.checked_ms = since_ms
        self.from_proc = from_proc
        self.ended_ms: int | None = None
        self.heir: Node | None = None
        self.current = True
        self.kept = 0
        self.depth: int = parent.depth + 1 if parent else 0
        self.queue: _Queue | None = None


class Shelf:
    """All nodes in four queues, each least recently used first.

    Ended leaves, leaves that never had a child, leaves that had one, and ancestors of what is kept are given up in
    this order, so that a storm of short-lived processes pushes out its own kind, and neither the ancestors of anything
    nor idle shells. New processes always have a quarter of the room.

    A node more than `LINEAGE_LIMIT` deep protects nobody: a process that replaces itself by its child for ever
    must not fill the shelf with ancestors. Every operation costs the same however much is kept.
    """

    def __init__(self, limit: int, is_gone: Callable[[Process], bool] | None = None) -> None:
        self._limit = 2
        self.resize(limit)
        self._is_gone = is_gone
        self._ended: _Queue = OrderedDict()
        self._fresh: _Queue = OrderedDict()
        self._former: _Queue = OrderedDict()
        self._inner: _Queue = OrderedDict()

    def __len__(self) -> int:
        return len(self._ended) + len(self._fresh) + len(self._former) + len(self._inner)

    def resize(self, limit: int) -> None:
        """Have room for so many, at least two; `evict` says who has to go."""
        self._limit = max(2, limit)

    def add(self, node: Node) -> None:
        """Put a new node on the shelf, below its parent."""
        node.queue = self._fresh
        self._fresh[node] = None
        parent = node.parent
        if parent is not None and node.depth <= LINEAGE_LIMIT:
            parent.kept += 1
            if parent.queue is not None:
                _move(parent, self._inner)

    def touch(self, node: Node) -> None:
        """Note that the node was used just now."""
        if node.queue is not None:
            node.queue.move_to_end(node)

    def retire(self, node: Node) -> None:
        """The node is not its pid's image any more: keep it only while others descend from it."""
        node.current = False
        if not node.kept:
            self.drop(node)

    def end(self, node: Node) -> None:
        """The process is gone."""
        if not node.kept and node.queue is not None:
            _move(node, self._ended)

    def take_ended(self, before_ms: int) -> Node | None:
        """The leaf that ended first, dropped, if it ended before that time."""
        node = next(iter(self._ended), None)
        if node is None or (node.ended_ms is not None and node.ended_ms >= before_ms):
            return None
        self.drop(node)
        return node

    def evict(self) -> Node | None:
        """The node that is missed least, dropped; None while there is room."""
        if len(self) <= self._limit:
            return None
        if self._ended:
            node = next(iter(self._ended))
        elif len(self._fresh) > max(1, self._limit // 4):
            node = self._choose(self._fresh)
        else:
            node = self._choose(self._former or self._inner or self._fresh)
        self.drop(node)
        return node

    def drop(self, node: Node) -> None:
        """Take the node from the shelf; what still hangs below it ends its lineage there."""
        if node.queue is not None:
            del node.queue[node]
            node.queue = None
        node.current = False
        node.heir = None
        self._release(node)

    def clear(self) -> None:
        """Forget everything."""
        for queue in (self._ended, self._fresh, self._former, self._inner):
            queue.clear()

    def _choose(self, queue: _Queue) -> Node:
        """The least recently used; where the host can be asked, rather one that is gone than one that only idles."""
        if self._is_gone is not None and len(queue) > _PROBES:
            for node in [node for node, _ in zip(queue, range(_PROBES), strict=False)]:
                if self._is_gone(node.process):
                    return node
                queue.move_to_end(node)
        return next(iter(queue))

    def _release(self, node: Node) -> None:
        """Tell the parent that one descendant less is kept, and so on upwards through images nobody needs any more."""
        parent, node.parent = node.parent, None
        counted = node.depth <= LINEAGE_LIMIT
        while parent is not None and counted:
            parent.kept -= 1
            if parent.kept or parent.queue is None:
                return
            if parent.current:
                _move(parent, self._former if parent.ended_ms is None else self._ended)
                return
            del parent.queue[parent]
            parent.queue = None
            counted = parent.depth <= LINEAGE_LIMIT
            parent.parent, parent = None, parent.parent


def _move(node: Node, queue: _Queue) -> None:
    if node.queue is queue:
        queue.move_to_end(node)
        return
    if node.queue is not None:
        del node.queue[node]
    queue[node] = None
    node.queue = queue
