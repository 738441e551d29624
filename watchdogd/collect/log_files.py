"""One log and its rotated siblings as files: who is who, who is older, and what is read of them."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from typing import TYPE_CHECKING

from watchdogd.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEAD_BYTES = 4096
"""How much of the first line makes a file's identity."""

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_NUMBER = re.compile(r"\.(\d{1,4})")
_DATE = re.compile(r"[.-]\d{8}[0-9T._:-]*|[.-]\d{4}-\d{2}-\d{2}[0-9T._:-]*|\.old")
_SURVEY_TRIES = 20


class LogFile:
    """An open log file. It stays readable when it is renamed or deleted; `close` it in the end.

    `head` is what identifies the content: the first bytes up to the end of the first line that is not empty, at most
    HEAD_BYTES; None while that line is not complete.
    """

    def __init__(self, fd: int, path: Path) -> None:
        self.fd = fd
        self.path = path
        status = os.fstat(fd)
        self.device = status.st_dev
        self.inode = status.st_ino
        self.head: bytes | None = None

    @property
    def node(self) -> tuple[int, int]:
        """Device and inode: unique as long as this descriptor is open."""
        return self.device, self.inode

    @property
    def id(self) -> str:
        """`device:inode:hash of the first line`; the hash is empty while there is no first line."""
        return f"{self.device}:{self.inode}:{'' if self.head is None else hash_head(self.head)}"

    def status(self) -> tuple[int, int]:
        """Present size in bytes and time of the last write in ns. Raises SourceError."""
        try:
            status = os.fstat(self.fd)
        except OSError as error:
            raise SourceError(f"{self.path}: cannot be examined ({error.strerror}): check its mount") from error
        return status.st_size, status.st_mtime_ns

    @property
    def size(self) -> int:
        """Present size in bytes. Raises SourceError."""
        return self.status()[0]

    def read(self, offset: int, count: int) -> bytes:
        """At most `count` bytes from `offset`, b"" at the end. Raises SourceError where the device fails."""
        try:
            return os.pread(self.fd, count, offset)
        except OSError as error:
            raise SourceError(f"{self.path}: cannot be read ({error.strerror}): check the file system") from error

    def identify(self, *, complete: bool) -> None:
        """Read `head`. With `complete` a first line without its newline counts: nobody will write it on."""
        self.head = cut_head(self.read(0, HEAD_BYTES), complete=complete)

    def begins_with(self, head: bytes) -> bool:
        """Whether the file still begins with these bytes (it does not after being truncated)."""
        return self.read(0, len(head)) == head

    def align(self, offset: int) -> int:
        """Start of the line that holds byte `offset`: the nearest byte at or before it that follows a newline."""
        while offset > 0:
            start = max(0, offset - 65536)
            found = self.read(start, offset - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            offset = start
        return 0

    def close(self) -> None:
        """Release the descriptor; again is harmless."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def cut_head(data: bytes, *, complete: bool) -> bytes | None:
    """`LogFile.head` out of a file's first bytes; None while the first line may still grow."""
    head = data[:HEAD_BYTES]
    end = head.find(b"\n", len(head) - len(head.lstrip(b"\r\n")))
    if end >= 0:
        return head[: end + 1]
    return head if len(head) == HEAD_BYTES or (complete and head) else None


def hash_head(head: bytes) -> str:
    """What stands for the first line in a file id: 16 hexadecimal digits of its SHA-256, newlines left out."""
    return hashlib.sha256(head.strip(b"\r\n")).hexdigest()[:16]


def open_log(path: Path) -> LogFile | None:
    """Open the log itself, None where there is none. Raises SourceError where it is no readable file."""
    try:
        fd = os.open(path, _FLAGS)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SourceError(
            f"{path}: cannot be opened ({error.strerror}): run as root or grant CAP_DAC_READ_SEARCH"
        ) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        kind = "a directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "no regular file"
        os.close(fd)
        raise SourceError(f"{path}: is {kind}: name auditd's log_file here (see /etc/audit/auditd.conf)")
    file = LogFile(fd, path)
    file.identify(complete=False)
    return file


def survey(path: Path, on_unreadable: Callable[[Path], None]) -> list[LogFile]:
    """Open every rotated sibling of a log and the log itself, oldest first; the log is last if it is there.

    Siblings are `NAME.N` (a higher number is older) and dated ones (`NAME-20260131`, `NAME.old`); compressed ones are
    left out. With other than numbered siblings the time of the last write decides. Names move while a rotation is
    under way, so the look is repeated until the names stayed what they were. Raises SourceError as `open_log` does,
    and where the names never stay: a survey that may lack a file is no survey.
    """
    for _ in range(_SURVEY_TRIES):
        files, skipped, stable = _look(path)
        if stable:
            for name in skipped:
                on_unreadable(name)
            return files
        for file in files:
            file.close()
        time.sleep(0.001)
    raise SourceError(f"{path}: the log and its rotated files are being renamed all the time")


def _look(path: Path) -> tuple[list[LogFile], list[Path], bool]:
    names = _list_siblings(path)
    files: list[LogFile] = []
    skipped: list[Path] = []
    for name in names:
        try:
            fd = os.open(name, _FLAGS | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        except OSError:
            skipped.append(name)
            continue
        if stat.S_ISREG(os.fstat(fd).st_mode):
            files.append(LogFile(fd, name))
            files[-1].identify(complete=True)
        else:
            os.close(fd)
    try:
        current = open_log(path)
    except SourceError:
        for file in files:
            file.close()
        raise
    if current is not None:
        files.append(current)
    stable = _list_siblings(path) == names and all(_is_at(file) for file in files)
    return _drop_repeats(files), skipped, stable


def _list_siblings(path: Path) -> list[Path]:
    prefix = path.name
    try:
        found = [entry.name for entry in path.parent.iterdir() if entry.name.startswith(prefix)]
    except OSError as error:
        raise SourceError(f"{path.parent}: cannot be listed ({error.strerror}): check the path and its mode") from error
    numbered: list[tuple[int, str]] = []
    dated: list[str] = []
    for name in found:
        number = _NUMBER.fullmatch(name, len(prefix))
        if number is not None:
            numbered.append((-int(number[1]), name))
        elif _DATE.fullmatch(name, len(prefix)):
            dated.append(name)
    names = [name for _, name in sorted(numbered)]
    if dated:
        names = sorted(names + dated, key=lambda name: (_mtime_ns(path.parent / name), name))
    return [path.parent / name for name in names]


def _mtime_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _is_at(file: LogFile) -> bool:
    try:
        status = file.path.stat()
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == file.node


def _drop_repeats(files: list[LogFile]) -> list[LogFile]:
    kept: dict[tuple[int, int], LogFile] = {}
    for file in files:
        if file.node in kept:
            file.close()
        else:
            kept[file.node] = file
    return list(kept.values())
