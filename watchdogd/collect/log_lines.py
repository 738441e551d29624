"""Bytes of a growing file cut into lines with their positions, in bounded memory."""

from __future__ import annotations

import operator
from itertools import repeat
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.entities import Position, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watchdogd.telemetry import Counters


_START: Final = operator.attrgetter("start")
_END: Final = operator.attrgetter("end")
_DATA: Final = operator.attrgetter("data")


class Line(msgspec.Struct, frozen=True, gc=False):
    """One line without its ending; bytes `start` to `end` of the file, newline included."""

    start: int
    end: int
    data: bytes

    def record(self, source: str, file_id: str | None) -> Record:
        """The line as the pipeline takes it; without `file_id` it has no position."""
        position = None if file_id is None else Position(source, file_id, self.start, self.end)
        return Record(source, position, self.data)


def make_records(lines: Sequence[Line], source: str, file_id: str) -> list[Record]:
    """As `Line.record` of each, in less time."""
    spans = map(Position, repeat(source), repeat(file_id), map(_START, lines), map(_END, lines))
    return list(map(Record, repeat(source), spans, map(_DATA, lines)))


class LineCutter:
    """Cuts what is fed to it, from byte `offset` of a file, which begins a line.

    A carriage return before the newline is stripped. Empty lines are passed over. A line above `max_line_bytes` is cut
    to that and counted (`collect_overlong_lines_total`); the rest of it is never held. A last line without a newline is
    kept until it gets one or `finish` is called.
    """

    def __init__(self, offset: int, max_line_bytes: int, counters: Counters) -> None:
        self.offset = offset
        """First byte of the unfinished line."""
        self.held = b""
        """The unfinished line so far, at most `max_line_bytes`."""
        self._skipped = 0
        self._max_line_bytes = max_line_bytes
        self._counters = counters

    @property
    def read_offset(self) -> int:
        """The byte to read next."""
        return self.offset + len(self.held) + self._skipped

    def feed(self, data: bytes) -> list[Line]:
        """The lines that these bytes, read at `read_offset`, complete."""
        lines: list[Line] = []
        if self._skipped:
            end = data.find(b"\n")
            if end < 0:
                self._skipped += len(data)
                return lines
            self._skipped += end
            lines.append(self._end_line(self.held, newline=1))
            data = data[end + 1 :]
        data = self.held + data
        *complete, rest = data.split(b"\n")
        self.held = b""
        sizes = list(map(len, complete))
        if b"\r" not in data and max(sizes, default=0) <= self._max_line_bytes:
            return lines + self._take(complete, sizes, rest)
        for line in complete:
            if len(line) > self._max_line_bytes:
                self._skipped = len(line) - self._max_line_bytes
                lines.append(self._end_line(line[: self._max_line_bytes], newline=1))
                continue
            end = self.offset + len(line) + 1
            text = line.removesuffix(b"\r")
            if text:
                lines.append(Line(self.offset, end, text))
            self.offset = end
        self._hold(rest)
        return lines

    def finish(self) -> list[Line]:
        """The last line, if it never got its newline (`collect_torn_lines_total`)."""
        if not self.held:
            return []
        self._counters.add("collect_torn_lines_total")
        if self._skipped:
            return [self._end_line(self.held, newline=0)]
        line = Line(self.offset, self.offset + len(self.held), self.held)
        self.offset, self.held = line.end, b""
        return [line]

    def _take(self, complete: list[bytes], sizes: list[int], rest: bytes) -> list[Line]:
        """Lines of a chunk in which all is as usual."""
        end = self.offset
        bounds = [end, *[end := end + size + 1 for size in sizes]]
        lines = list(map(Line, bounds, bounds[1:], complete))
        self.offset = end
        self._hold(rest)
        return [line for line in lines if line.data] if b"" in complete else lines

    def _hold(self, rest: bytes) -> None:
        self.held = rest[: self._max_line_bytes]
        self._skipped = len(rest) - len(self.held)

    def _end_line(self, data: bytes, *, newline: int) -> Line:
        """End an over-long line of which `_skipped` bytes were dropped."""
        self._counters.add("collect_overlong_lines_total")
        line = Line(self.offset, self.offset + len(data) + self._skipped + newline, data)
        self.offset, self.held, self._skipped = line.end, b"", 0
        return line
