"""Where in a log and its rotated files reading begins."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from watchdogd.collect.log_files import hash_head

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from watchdogd.collect.log_files import LogFile
    from watchdogd.entities import Checkpoint
    from watchdogd.telemetry import Counters

_log = logging.getLogger("watchdogd.collect")


def find_start(
    files: Sequence[LogFile], checkpoint: Checkpoint | None, *, from_start: bool, counters: Counters
) -> tuple[int, int]:
    """Index into `files` (oldest first, the log itself last) and byte offset where reading begins.

    Without a checkpoint: the start of the oldest file with `from_start`, else the end of the log (the start of its
    last line, where that is still being written). With one: its offset in its file. Should that file have been
    truncated, its start (`collect_truncated_total`); should it be gone, the start of the oldest file that is left
    (`collect_lost_files_total`): reading twice is mended by alert ids, not reading is not. A checkpoint of another
    log, which is not found here, counts as none. One without a hash was made when the log was empty and alone:
    everything is newer.
    """
    first = (0, 0) if from_start else (len(files) - 1, files[-1].align(files[-1].size))
    if checkpoint is None:
        return first
    if checkpoint.file_id.endswith(":"):
        return 0, 0
    twins = _find_twins(files, checkpoint)
    for index in twins:
        if _holds(files[index], checkpoint.offset):
            return index, checkpoint.offset
    if twins:
        counters.add("collect_truncated_total")
        _log.warning(
            "%s is not what it was at the checkpoint (byte %d): read again from its start",
            files[twins[0]].path,
            checkpoint.offset,
        )
        return twins[0], 0
    if checkpoint.path != str(files[-1].path):
        _log.warning("%s replaces %s, whose checkpoint is dropped: a first start", files[-1].path, checkpoint.path)
        return first
    counters.add("collect_lost_files_total")
    _log.warning(
        "%s: the file of the checkpoint (%s, byte %d) is gone: reading from the start of %s; what lay between is lost "
        "(keep more rotated files, uncompressed: num_logs in auditd.conf)",
        checkpoint.path,
        checkpoint.file_id,
        checkpoint.offset,
        files[0].path,
    )
    return 0, 0


def _find_twins(files: Sequence[LogFile], checkpoint: Checkpoint) -> list[int]:
    """Indices of the files that may be the checkpoint's, best first.

    The same first line is what counts: device numbers may change at a boot, and the copy that copytruncate makes has
    an inode of its own.
    """
    device, _, rest = checkpoint.file_id.partition(":")
    inode, _, digest = rest.partition(":")

    def closeness(index: int) -> tuple[bool, bool, int]:
        file = files[index]
        return str(file.inode) == inode, str(file.device) == device, index

    found = [i for i, file in enumerate(files) if file.head is not None and hash_head(file.head) == digest]
    return sorted(found, key=closeness, reverse=True)


def _holds(file: LogFile, offset: int) -> bool:
    """Whether a line can begin at `offset`: a log that lost its end in a power cut and grew again fails this."""
    size = file.size
    return offset in (0, size) or (offset < size and file.read(offset - 1, 1) == b"\n")


def find_copy(files: Sequence[LogFile], truncated: LogFile, offset: int) -> int | None:
    """Index of the copy that copytruncate made of a file before truncating it.

    It begins with the same first line and reaches at least to `offset`; the longest one where there are several.
    """
    alike = [
        (file.size, index)
        for index, file in enumerate(files)
        if file.node != truncated.node and file.head is not None and file.head == truncated.head
    ]
    size, index = max(alike, default=(-1, -1))
    return index if size >= offset else None


def forget_gone(passed: set[str], files: Sequence[LogFile]) -> set[str]:
    """Those of the finished files' ids that still exist, so that the set stays small."""
    return passed & {file.id for file in files}


def warn_unreadable(path: Path, counters: Counters) -> None:
    """Count and report a rotated file that cannot be opened; the others are read."""
    counters.add("collect_unreadable_files_total")
    _log.warning("%s: a rotated file that cannot be opened is passed over (check its mode)", path)
