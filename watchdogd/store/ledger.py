"""Which lines are still open, and so where a restart must read from."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from watchdogd.entities import Checkpoint

if TYPE_CHECKING:
    from watchdogd.entities import Position


class _Entry:
    __slots__ = ("opens", "position")

    def __init__(self, position: Position) -> None:
        self.position = position
        self.opens = 1


class OffsetLedger:
    """A `PositionLedger` for one source. Positions are opened in the order of reading and closed in any order.

    "Lowest" is first opened: across rotated files offsets do not compare, the order of reading does. Every operation
    takes constant time, amortised. Memory grows with the lines between the oldest open one and the newest. Not
    thread-safe: one thread (or the loop) uses it. `start` is the checkpoint that holds until a line is closed: the
    loaded one, or the tail's `resume_point`.
    """

    def __init__(self, source: str, path: str, start: Checkpoint | None = None) -> None:
        self._source = source
        self._path = path
        self._settled = start
        self._order: deque[_Entry] = deque()
        self._open: dict[Position, _Entry] = {}

    @property
    def source(self) -> str:
        """Whose positions it keeps."""
        return self._source

    def __len__(self) -> int:
        """How many positions are open."""
        return len(self._open)

    def begin(self, start: Checkpoint) -> None:
        """Reading begins here; holds until a line is closed."""
        self._settled = start

    def open(self, position: Position) -> None:
        """A line was read and is not judged yet. Opened twice (read again), it must be closed twice."""
        entry = self._open.get(position)
        if entry is not None:
            entry.opens += 1
            return
        entry = _Entry(position)
        self._open[position] = entry
        self._order.append(entry)

    def close(self, position: Position) -> bool:
        """Its event was judged, or the line holds none. False where it was not open (nothing happens then)."""
        entry = self._open.get(position)
        if entry is None:
            return False
        entry.opens -= 1
        if entry.opens:
            return True
        del self._open[position]
        last = None
        while self._order and not self._order[0].opens:
            last = self._order.popleft().position
        if last is not None:
            self._settled = self._at(last, last.end)
        return True

    def checkpoint(self) -> Checkpoint | None:
        """Start of the open line that was opened first; with none open, the end of the last line.

        `start` as long as no line was opened.
        """
        if self._order:
            first = self._order[0].position
            return self._at(first, first.start)
        return self._settled

    def _at(self, position: Position, offset: int) -> Checkpoint:
        return Checkpoint(self._source, self._path, position.file_id, offset)
