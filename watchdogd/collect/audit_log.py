"""Tails auditd's log through rotation by rename, copytruncate and downtime, at least once."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from watchdogd.collect.log_files import HEAD_BYTES, LogFile, cut_head, survey
from watchdogd.collect.log_lines import Line, LineCutter, make_records
from watchdogd.collect.log_resume import find_copy, find_start, forget_gone, warn_unreadable
from watchdogd.collect.log_watch import LogWatch
from watchdogd.entities import Checkpoint, Record
from watchdogd.errors import SourceError
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from watchdogd.ports import Emit

SOURCE = "audit_log"
"""`source` of every record, position and checkpoint of this module, where no other is given."""

_CHUNK_BYTES = 64 * 1024
_MISSING_POLLS = 20
_GRACE_POLLS = 4
_COUNTERS = ("lost_files", "truncated", "torn_lines", "overlong_lines", "log_missing", "unreadable_files")

_log = logging.getLogger("watchdogd.collect")


class AuditLogTail:
    """A `LineSource` over one log file and its rotated siblings.

    Promises: every line that is still in the log or an uncompressed rotated file is emitted at least once, in order,
    from the checkpoint on; with copytruncate what the copy and the file hold. Position ids are
    `device:inode:hash of the first line`.

    Polls every `poll_s` seconds (two system calls when idle), or four times a second where the kernel tells of writes
    (`log_watch`: it does not over overlays and network file systems). Without a checkpoint it begins at the end of the
    log, or, with `from_start`, at the oldest rotated file that is still there. When the log is rotated, the old file is
    read until the new one has lines and a short grace (four polls) has passed.

    `resume_point`, `history`, `step` and `run` belong to one thread at a time; `stop` is safe from any. One object is
    one run: after an error or a stop, make another from the ledger's checkpoint.
    """

    def __init__(  # noqa: PLR0913 -- each has its default but what and where
        self,
        path: Path,
        *,
        checkpoint: Checkpoint | None,
        from_start: bool,
        counters: Counters,
        poll_s: float = 0.05,
        batch_lines: int = 64,
        max_line_bytes: int = 1 << 20,
        history_bytes: int = 1 << 20,
        source: str = SOURCE,
    ) -> None:
        if max_line_bytes < HEAD_BYTES:
            raise ValueError(f"max_line_bytes is {max_line_bytes}, must be at least {HEAD_BYTES}")
        self._path = path
        self._source = source
        self._checkpoint = checkpoint
        self._start = Checkpoint(source, str(path), "", 0)
        self._from_start = from_start
        self._counters = counters
        self._poll_s = poll_s
        self._batch_lines = batch_lines
        self._max_line_bytes = max_line_bytes
        self._history_bytes = history_bytes
        self._stopped = threading.Event()
        self._is_probed = False
        self._watch = LogWatch(poll_s)
        self._file: LogFile | None = None
        self._cutter = self._cut_from(0)
        self._previous: LogFile | None = None
        self._newer: deque[LogFile] = deque()
        self._newer_since_s: float | None = None
        self._passed: set[str] = set()
        self._unreadable: set[Path] = set()
        self._seen: tuple[int, int] | None = None
        self._empty_node: tuple[int, int] | None = None
        self._missing_since_s: float | None = None
        self._missing_reported = False
        for name in _COUNTERS:
            counters.add(f"collect_{name}_total", 0)

    def stop(self) -> None:
        """Ask `run` to return after the batch in hand."""
        self._stopped.set()
        self._watch.wake()

    def probe(self) -> None:
        """Have `run` emit an empty batch at its next look."""
        self._is_probed = True

    def run(self, emit: Emit) -> None:
        """Read until `stop`. Raises SourceError where the log is missing at the start, or cannot be read."""
        try:
            while not self._stopped.is_set():
                if self._is_probed:
                    self._is_probed = False
                    emit([])
                if self.step(emit):
                    self._watch.note_lines()
                elif not self._stopped.is_set():
                    file = self._opened()
                    self._watch.wait(file.fd, file.node, quick=bool(self._newer))
        finally:
            self.close()

    def close(self) -> None:
        """Release all files; `run` does it itself."""
        for file in (self._file, self._previous, *self._newer):
            if file is not None:
                file.close()
        self._watch.close()
        self._file = self._previous = None
        self._newer.clear()
        self._stopped.set()

    def resume_point(self) -> Checkpoint:
        """Where reading begins.

        Commit this before the first line is read: a crash before the first commit then loses nothing. Where the log is
        empty it is the end of the newest rotated file. Raises SourceError as `run` does.
        """
        self._opened()
        return self._start

    def history(self) -> Iterator[list[Record]]:
        """The last `history_bytes` of lines before the resume point, without positions; call it before `run`.

        They have been judged, or were there before the first start: they only warm what must know the past. Raises
        SourceError as `run` does.
        """
        file = self._opened()
        end = self._cutter.offset
        spans = [(file, max(0, end - self._history_bytes), end)]
        if self._previous is not None and end < self._history_bytes:
            size = self._previous.size
            spans.insert(0, (self._previous, max(0, size - (self._history_bytes - end)), size))
        for past, start, stop in spans:
            yield from self._read_span(past, past.align(start), stop)
        if self._previous is not None:
            self._previous.close()
            self._previous = None

    def step(self, emit: Emit) -> bool:
        """Read one chunk, or move on to the next file. False where there is nothing to do for now."""
        file, cutter = self._opened(), self._cutter
        seen = file.status()
        if seen == self._seen:
            return self._try_next(emit)
        data = file.read(cutter.read_offset, _CHUNK_BYTES)
        # Only now: had the file been truncated and grown anew before the read, its beginning would have changed.
        if seen[0] < cutter.read_offset or not file.begins_with(file.head or b""):
            self._mend_truncation(emit)
            return True
        if cutter.read_offset == 0 and self._find_missed():
            return True
        if file.head is None:
            file.head = cut_head(data, complete=False)
        if file.head is None or not data:
            self._seen = seen
            return self._try_next(emit)
        self._pass_on(cutter.feed(data), emit)
        return True

    def _opened(self) -> LogFile:
        if self._file is None:
            if self._stopped.is_set():
                raise SourceError(f"{self._path}: this tail has ended: make another one")
            self._file = self._resume()
        return self._file

    def _resume(self) -> LogFile:
        files = self._survey()
        if not files or files[-1].path != self._path:
            for file in files:
                file.close()
            raise SourceError(
                f"{self._path}: no such file: start auditd (systemctl enable --now auditd), or name its log_file"
            )
        index, offset = find_start(files, self._checkpoint, from_start=self._from_start, counters=self._counters)
        for file in files[:index]:
            self._passed.add(file.id)
        for file in files[: max(0, index - 1)]:
            file.close()
        self._previous = files[index - 1] if index > 0 else None
        if any(file.size for file in files[index + 1 :]):
            self._newer.extend(files[index + 1 :])
        else:
            for file in files[index + 1 :]:
                file.close()
        self._cutter = self._cut_from(offset)
        known, end = files[index], offset
        if known.head is None and self._previous is not None:
            known, end = self._previous, self._previous.size
        self._start = Checkpoint(self._source, str(self._path), known.id, end)
        return files[index]

    def _cut_from(self, offset: int) -> LineCutter:
        return LineCutter(offset, self._max_line_bytes, self._counters)

    def _survey(self) -> list[LogFile]:
        return survey(self._path, self._note_unreadable)

    def _note_unreadable(self, path: Path) -> None:
        if path not in self._unreadable:
            self._unreadable.add(path)
            warn_unreadable(path, self._counters)

    def _pass_on(self, lines: list[Line], emit: Emit) -> None:
        file_id = self._opened().id
        for start in range(0, len(lines), self._batch_lines):
            if self._stopped.is_set():
                return
            emit(make_records(lines[start : start + self._batch_lines], self._source, file_id))

    def _try_next(self, emit: Emit) -> bool:
        """At the end of a file: go on to a newer one, if there is one and the grace has passed."""
        if not self._newer:
            self._newer.extend(self._find_newer())
            if not self._newer:
                self._newer_since_s = None
                return False
        now_s = time.monotonic()
        if self._newer_since_s is None:
            self._newer_since_s = now_s
        if len(self._newer) == 1 and now_s - self._newer_since_s < _GRACE_POLLS * self._poll_s:
            return False
        self._finish(emit)
        return True

    def _finish(self, emit: Emit) -> None:
        """Nothing more is written to the present file: its torn last line goes out, the next file is up."""
        file = self._opened()
        if file.head is None:
            file.identify(complete=True)
            self._cutter.feed(file.read(0, HEAD_BYTES))
        self._pass_on(self._cutter.finish(), emit)
        if file.head is not None:
            self._passed.add(file.id)
        file.close()
        self._open_next(self._newer.popleft(), 0)

    def _open_next(self, file: LogFile, offset: int) -> None:
        self._file = file
        self._cutter = self._cut_from(offset)
        self._newer_since_s = None
        self._seen = None
        self._empty_node = None

    def _find_newer(self) -> list[LogFile]:
        """The files that came after the present one, oldest first; none while all of them are empty."""
        file = self._opened()
        try:
            status = self._path.stat()
        except FileNotFoundError:
            self._note_missing()
            return []
        except OSError as error:
            raise SourceError(f"{self._path}: cannot be examined ({error.strerror})") from error
        self._missing_since_s, self._missing_reported = None, False
        node = (status.st_dev, status.st_ino)
        if node == file.node or (status.st_size == 0 and node == self._empty_node):
            return []
        files = self._survey()
        newer = self._keep_newer(files, [other.node for other in files])
        if any(other.size for other in newer):
            return newer
        self._empty_node = node
        for other in newer:
            other.close()
        return []

    def _keep_newer(self, files: list[LogFile], nodes: list[tuple[int, int]]) -> list[LogFile]:
        node = self._opened().node
        after = nodes.index(node) + 1 if node in nodes else 0
        newer = [other for other in files[after:] if other.id not in self._passed]
        self._passed = forget_gone(self._passed, files)
        for other in files:
            if other not in newer:
                other.close()
        return newer

    def _note_missing(self) -> None:
        now_s = time.monotonic()
        if self._missing_since_s is None:
            self._missing_since_s = now_s
        elif not self._missing_reported and now_s - self._missing_since_s >= _MISSING_POLLS * self._poll_s:
            self._missing_reported = True
            self._counters.add("collect_log_missing_total")
            _log.warning("%s: the log has disappeared: waiting for it (is auditd running?)", self._path)

    def _mend_truncation(self, emit: Emit) -> None:
        """The present file was truncated (copytruncate): read the rest from its copy, then the file from its start."""
        file, cutter = self._opened(), self._cutter
        self._counters.add("collect_truncated_total")
        files = self._survey()
        index = find_copy(files, file, cutter.offset)
        later = files if index is None else files[index + 1 :]
        newer = [file if other.node == file.node else other for other in later if other.id not in self._passed]
        if file not in newer:
            newer.append(file)
        copy = None if index is None else files[index]
        self._passed = forget_gone(self._passed, files)
        for other in files:
            if other is not copy and other not in newer:
                other.close()
        for other in self._newer:
            other.close()
        self._newer = deque(newer)
        if copy is None:
            _log.warning(
                "%s: truncated, and no uncompressed copy found: what came after byte %d may be lost",
                file.path,
                cutter.offset,
            )
            self._pass_on(cutter.finish(), emit)
        file.identify(complete=False)
        if copy is None:
            self._open_next(self._newer.popleft(), 0)
        else:
            self._open_next(copy, cutter.offset)

    def _find_missed(self) -> bool:
        """Before the first byte of a file: read older files first that nobody has read.

        A log that was empty when last seen may have been written, copied and truncated since.
        """
        file = self._opened()
        files = self._survey()
        nodes = [other.node for other in files]
        older = files[: nodes.index(file.node)] if file.node in nodes else []
        missed = [other for other in older if other.id not in self._passed and other.size]
        for other in files:
            if other not in missed:
                other.close()
        if not missed:
            return False
        self._newer.extendleft((file, *reversed(missed[1:])))
        self._open_next(missed[0], 0)
        return True

    def _read_span(self, file: LogFile, start: int, end: int) -> Iterator[list[Record]]:
        cutter = LineCutter(start, self._max_line_bytes, Counters())
        while (offset := cutter.read_offset) < end:
            data = file.read(offset, min(_CHUNK_BYTES, end - offset))
            if not data:
                return
            lines = cutter.feed(data)
            for first in range(0, len(lines), self._batch_lines):
                yield [line.record(self._source, None) for line in lines[first : first + self._batch_lines]]
