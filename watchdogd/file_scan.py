"""One scan of all watched files, in a process of its own: its memory is given back, and the daemon's loop never waits.

The daemon starts it with a ScanRequest on standard input and reads messages from its standard output, each behind its
length (4 bytes, big-endian). It reads the daemon's database and writes nothing. It keeps to a share of one core, and
lowers its own priority where the host allows that.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.collect.file_look import RESTLESS, TOO_LARGE, UNREADABLE, Look, Looker, Throttle
from watchdogd.collect.file_paths import ACCOUNTS, list_closed_mounts, select
from watchdogd.collect.file_walk import Found, Walk
from watchdogd.collect.package_changes import PackageChanges
from watchdogd.file_states import FileRow, FileState, find_differences
from watchdogd.store.file_baseline import iterate_files, load_built, load_files, open_read_only

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from typing import BinaryIO

    from watchdogd.collect.file_paths import Selection

LENGTH: Final = struct.Struct(">I")
_BATCH: Final = 256
_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "i686": 289, "armv7l": 314, "ppc64le": 273}
_IDLE: Final = 3 << 13
"""ioprio_set(2): the class that gets the disk when nobody else wants it."""
_NICE: Final = 19


class ScanRequest(msgspec.Struct, frozen=True):
    """What to scan, and how."""

    database: str
    paths: tuple[str, ...]
    exclude: tuple[str, ...]
    special_folders: tuple[str, ...] = ()
    max_bytes: int = 256 << 20
    max_files: int = 200_000
    share: float = 0.2
    network: bool = False
    deep: bool = False
    """Read every file, also where the file system says that it has not changed."""
    accounts: str = ACCOUNTS


class Scanned(msgspec.Struct, frozen=True, tag="scanned"):
    """A path that is not as the baseline has it."""

    path: bytes
    before: FileRow | None
    look: Look | None
    """None: it is gone."""
    news: bool
    """False: it is to be noted quietly, for its pattern is new, or nothing but a time differs that is no news."""
    package: str | None = None


class Built(msgspec.Struct, frozen=True, tag="built"):
    """Every file that these patterns match was seen; the scan goes on elsewhere."""

    patterns: tuple[str, ...]


class ScanDone(msgspec.Struct, frozen=True, tag="done"):
    """The end of a scan. `patterns` are those of which every file was seen."""

    patterns: tuple[str, ...]
    files: int
    unreadable: int = 0
    too_large: int = 0
    restless: int = 0
    left_out: int = 0
    skipped_mounts: tuple[bytes, ...] = ()
    hashed_bytes: int = 0
    cpu_s: float = 0.0
    elapsed_s: float = 0.0
    memory_bytes: int = 0
    """The most that the process had in memory."""


Message = Scanned | Built | ScanDone


class Scan:
    """One scan. `run` yields what differs, Built once all paths were seen, and at last ScanDone."""

    def __init__(self, request: ScanRequest, database: sqlite3.Connection, packages: PackageChanges) -> None:
        self._request = request
        self._database = database
        self._packages = packages
        self._owners: dict[bytes, str] | None = None
        self._rows: dict[bytes, FileRow] = {}
        self._seen: set[int] = set()
        self._counts = dict.fromkeys((UNREADABLE, TOO_LARGE, RESTLESS), 0)
        self._left_out = 0
        self._selection = select(request.paths, request.exclude, request.accounts)
        built = load_built(database)
        self._built: Selection = self._selection.restrict(built)
        self._special_built = all(f"{folder}//" in built for folder in request.special_folders)
        throttle = Throttle(request.share, cpu_s=time.process_time)
        self._looker = Looker(max_bytes=request.max_bytes, throttle=throttle, md5=True)
        closed = list_closed_mounts(network=request.network)
        self._walk = Walk(self._selection, closed, looker=self._looker, throttle=throttle, known=self._find_known)

    def run(self) -> Iterator[Message]:
        """Raises sqlite3.Error where the baseline cannot be read."""
        began_s = time.monotonic()
        yield from self._compare_all(self._walk.run(), is_special=False)
        if not self._left_out:
            yield Built(self._request.paths)
        roots = tuple(os.fsencode(os.path.realpath(folder)) for folder in self._request.special_folders)
        yield from self._compare_all(self._walk.find_special(roots), is_special=True)
        if not self._left_out:  # else nobody knows which files are there
            yield from self._find_missing()
        patterns = dict.fromkeys((*self._request.paths, *(f"{folder}//" for folder in self._request.special_folders)))
        yield ScanDone(
            patterns=tuple(patterns),
            files=len(self._seen),
            unreadable=self._walk.unreadable + self._counts[UNREADABLE],
            too_large=self._counts[TOO_LARGE],
            restless=self._counts[RESTLESS],
            left_out=self._left_out,
            skipped_mounts=tuple(sorted(self._walk.skipped_mounts))[:_BATCH],
            hashed_bytes=self._looker.hashed_bytes,
            cpu_s=round(time.process_time(), 3),
            elapsed_s=round(time.monotonic() - began_s, 3),
            memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )

    def _find_known(self, path: bytes) -> FileState | None:
        if self._request.deep:
            return None
        row = self._rows.get(path)
        if row is None:
            row = load_files(self._database, (path,)).get(path)
            self._rows = {} if row is None else {path: row}
        return None if row is None else row.state

    def _compare_all(self, found: Iterator[Found], *, is_special: bool) -> Iterator[Scanned]:
        for one in found:
            if len(self._seen) >= self._request.max_files:
                self._left_out += 1
                continue
            self._seen.add(hash(one.path))
            row = self._rows.get(one.path) or load_files(self._database, (one.path,)).get(one.path)
            if one.look is None:
                continue
            if one.look.trouble:
                self._counts[one.look.trouble] += 1
            message = self._compare(one.path, row, one.look, is_special=is_special)
            if message is not None:
                yield message

    def _compare(self, path: bytes, row: FileRow | None, look: Look, *, is_special: bool) -> Scanned | None:
        if row is None or row.state is None:
            is_built = self._special_built if is_special else self._built.covers(path)
            return Scanned(path, None, look, is_built, self._find_owner(path))
        look = keep_hash(row.state, look)
        if look.state == row.state:
            return None
        return Scanned(path, row, look, bool(find_differences(row.state, look.state)), row.package)

    def _find_missing(self) -> Iterator[Scanned]:
        """Rows that no walk came by: gone, no longer watched, or special no longer."""
        for row in iterate_files(self._database):
            if hash(row.path) in self._seen:
                continue
            try:
                look = self._looker.look_path(row.path)
            except OSError:
                continue
            if self._selection.covers(row.path) or (row.state is not None and row.state.is_special):
                yield Scanned(row.path, row, look, news=True, package=row.package)
            else:
                yield Scanned(row.path, row, None, news=False)

    def _find_owner(self, path: bytes) -> str | None:
        if self._owners is None:
            try:
                self._owners = self._packages.list_owners(self._selection.covers)
            except (OSError, ValueError, subprocess.SubprocessError):
                self._owners = {}
        return self._owners.get(path)


def keep_hash(before: FileState, look: Look) -> Look:
    """The look with the earlier hash, where the content was not read now and nothing says that it has changed."""
    after = look.state
    if look.trouble and after.sha256 is None and (before.size, before.mtime_ns) == (after.size, after.mtime_ns):
        return msgspec.structs.replace(look, state=msgspec.structs.replace(after, sha256=before.sha256))
    return look


def lower_priority() -> None:
    """Let everybody else go first, on the processor and on the disk; the host may refuse either."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    number = _IOPRIO_SET.get(os.uname().machine)
    if number is not None:
        ctypes.CDLL(None, use_errno=True).syscall(number, 1, 0, _IDLE)


def write_message(stream: BinaryIO, message: Message) -> None:
    """Write one message behind its length."""
    data = msgspec.msgpack.encode(message)
    stream.write(LENGTH.pack(len(data)) + data)


def main() -> None:
    """Read the request, scan, and tell."""
    request = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=ScanRequest)
    lower_priority()
    with contextlib.closing(open_read_only(Path(request.database))) as database:
        for message in Scan(request, database, PackageChanges()).run():
            write_message(sys.stdout.buffer, message)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
