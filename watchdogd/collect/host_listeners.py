"""Ports that begin to listen: who listened before is not told, nor is a service that comes back as itself."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec

from watchdogd.collect.host_sockets import MAX_LISTENERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from watchdogd.collect.host_sockets import Holder, Listener, SocketTable
    from watchdogd.entities import FieldMap

_IMAGES = 16
KNOWN_LISTENERS = 2 * MAX_LISTENERS
"""So many are remembered; those unseen for longest are forgotten."""


class Opened(msgspec.Struct, frozen=True):
    """A port that listens and did not, or not for this program."""

    listener: Listener
    holder: Holder
    process: FieldMap
    """Who holds it; empty where nobody says."""


class _Known(msgspec.Struct):
    inodes: frozenset[int]
    images: set[str]


class Listeners:
    """What listens, from look to look. The first look is the baseline."""

    def __init__(
        self,
        find_owners: Callable[[frozenset[int]], dict[int, int]],
        describe: Callable[[int], FieldMap],
    ) -> None:
        """`find_owners`: pids by inode, of those inodes whose owner is found."""
        self._find_owners = find_owners
        self._describe = describe
        self._known: OrderedDict[Listener, _Known] = OrderedDict()
        self._begun = False

    def note(self, table: SocketTable) -> list[Opened]:
        """What opened since the last look; owners are sought only of sockets that were not there then."""
        fresh = {
            listener: new for listener, holders in table.listeners.items() if (new := self._list_new(listener, holders))
        }
        owners = self._find_owners(frozenset(holder.inode for new in fresh.values() for holder in new)) if fresh else {}
        people = {pid: self._describe(pid) for pid in set(owners.values())}
        opened = []
        for listener, new in fresh.items():
            is_new_port = listener not in self._known
            known = self._known.setdefault(listener, _Known(frozenset(), set()))
            holder, process = _choose(new, owners, people)
            image = str(process.get("Image") or process.get("ProcessName") or "")
            if self._begun and (is_new_port or (known.images and image not in known.images)):
                opened.append(Opened(listener, holder, process))
            if image:
                known.images = {image, *known.images} if len(known.images) < _IMAGES else {image}
        for listener, holders in table.listeners.items():
            self._known[listener].inodes = frozenset(holder.inode for holder in holders)
            self._known.move_to_end(listener)
        while len(self._known) > KNOWN_LISTENERS:
            self._known.popitem(last=False)
        self._begun = True
        return opened

    def _list_new(self, listener: Listener, holders: Iterable[Holder]) -> list[Holder]:
        known = self._known.get(listener)
        return sorted(holder for holder in holders if known is None or holder.inode not in known.inodes)


def _choose(new: list[Holder], owners: dict[int, int], people: dict[int, FieldMap]) -> tuple[Holder, FieldMap]:
    """The first socket whose owner is known, else the first."""
    for holder in new:
        process = people.get(owners.get(holder.inode, -1))
        if process:
            return holder, process
    return new[0], {}
