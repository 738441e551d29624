"""Whose events a log holds: its own host's, and, where others send theirs (`node=`), a process tree for each."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from watchdogd.enrich.process import ProcessTree
    from watchdogd.entities import Event
    from watchdogd.telemetry import Counters

HOSTS_LIMIT: Final = 64
_EXACT, _LIKELY, _FIRST, _NONE = 3, 2, 1, 0


class Hosts:
    """Trees by node. Other hosts' trees together keep no more images than this host's, and know nothing of its /proc.

    `host` is this host's name, None in replay, where only what has no `node=` is of the log's own host. The daemon's
    own node is the one of that name or of its full name (`name_format` of auditd.conf: hostname, fqd); failing that
    none, where the log has lines without a name; failing that the first one (`name_format` numeric or user, of which
    nothing else tells). A better one that comes later takes its place, and the tree begins anew.
    """

    def __init__(self, tree: ProcessTree, counters: Counters, *, host: str | None) -> None:
        self._tree = tree
        self._counters = counters
        self._host = host
        self._own_node: str | None = None
        self._certainty = _NONE
        self._others: OrderedDict[str, ProcessTree] = OrderedDict()
        counters.add("enrich_forgotten_hosts_total", 0)

    def find_tree(self, event: Event, *, from_file: bool = False) -> ProcessTree:
        """The tree that the event belongs to; `from_file`: its lines are the log's, though they have no positions."""
        node = event.id.node
        if self._host is not None and self._certainty < _EXACT and (node is not None or from_file or _has_place(event)):
            self._weigh(node)
        if node is None or node == self._own_node:
            return self._tree
        tree = self._others.get(node)
        if tree is None:
            return self._plant(node)
        self._others.move_to_end(node)
        return tree

    def is_own(self, tree: ProcessTree) -> bool:
        """Whether this is the tree of the log's own host."""
        return tree is self._tree

    def _plant(self, node: str) -> ProcessTree:
        if len(self._others) >= HOSTS_LIMIT:
            self._others.popitem(last=False)
            self._counters.add("enrich_forgotten_hosts_total")
        tree = self._others[node] = self._tree.make_sibling()
        for other in self._others.values():
            other.resize(self._tree.limit // len(self._others))
        return tree

    def _weigh(self, node: str | None) -> None:
        """Take this node for ours if it is likelier than what we had."""
        certainty = rate_node(node, self._host or "")
        if certainty <= self._certainty:
            return
        if self._certainty and node != self._own_node:
            self._tree.clear()
        self._own_node, self._certainty = node, certainty
        if node is not None:
            self._others.pop(node, None)


def _has_place(event: Event) -> bool:
    """Whether it was read from the log, where a node's name would stand; the kernel's socket has none."""
    return bool(event.records) and event.records[0].position is not None


def rate_node(node: str | None, host: str) -> int:
    """How likely lines of this node are those of the host that has this name: the higher, the likelier."""
    if node is None:
        return _LIKELY
    name, host = node.casefold(), host.casefold()
    if name == host:
        return _EXACT
    return _LIKELY if name.startswith(f"{host}.") or host.startswith(f"{name}.") else _FIRST


def choose_node(nodes: set[str | None], host: str) -> str | None:
    """The node's name that auditd writes for this host, None where it writes none or that cannot be told."""
    rates = {node: rate_node(node, host) for node in nodes}
    best = [node for node, rate in rates.items() if rate == max(rates.values())]
    return best[0] if len(best) == 1 else None
