"""The kernel's word that something happened in a watched folder (inotify(7)), read without a thread.

The `watchdog` library's own calls are used, not its observers: those take two threads each, keep a Python object for
every watch, and tell nobody how many events were lost.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import struct
from typing import TYPE_CHECKING, Final

from watchdog.observers import inotify_c
from watchdog.observers.inotify_c import InotifyConstants as In

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from watchdogd.telemetry import Counters

log = logging.getLogger("watchdogd.collect")

OVERFLOWS: Final = "collect_integrity_overflows_total"
UNWATCHED: Final = "collect_integrity_unwatched_total"

_HEADER: Final = struct.Struct("iIII")
_READ_BYTES: Final = 1 << 16
_READS: Final = 4
"""How often one call reads: a flood must not keep the loop from everything else."""
_MASK: Final = (
    In.IN_MODIFY
    | In.IN_ATTRIB
    | In.IN_CLOSE_WRITE
    | In.IN_CREATE
    | In.IN_DELETE
    | In.IN_MOVED_FROM
    | In.IN_MOVED_TO
    | In.IN_DELETE_SELF
    | In.IN_MOVE_SELF
    | In.IN_ONLYDIR
    | In.IN_DONT_FOLLOW
    | In.IN_EXCL_UNLINK
)
_FULL: Final = frozenset({errno.ENOSPC, errno.ENOMEM, errno.EMFILE})


class FolderWatch:
    """Watches folders, not what is below them; `fd` is readable when there is something. For one thread.

    What the kernel refuses to watch is counted, and said once.
    """

    def __init__(self, counters: Counters) -> None:
        """Raises OSError where the kernel gives no inotify (its limit is fs.inotify.max_user_instances)."""
        self._counters = counters
        for name in (OVERFLOWS, UNWATCHED):
            counters.add(name, 0)
        self.fd = inotify_c.inotify_init()
        if self.fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        os.set_inheritable(self.fd, False)  # noqa: FBT003 - its only argument
        os.set_blocking(self.fd, False)
        self._paths: dict[int, bytes] = {}
        self._numbers: dict[bytes, int] = {}
        self._refused: set[bytes] = set()

    def __len__(self) -> int:
        """How many folders are watched."""
        return len(self._paths)

    @property
    def refused(self) -> int:
        """How many folders the kernel would not watch when it was last asked."""
        return len(self._refused)

    def close(self) -> None:
        """End all watches; again is harmless."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1
        self._paths, self._numbers = {}, {}

    def keep(self, wanted: AbstractSet[bytes]) -> None:
        """Watch none but these any longer."""
        for path in [path for path in self._numbers if path not in wanted]:
            self._drop(path)
        self._refused &= wanted

    def add(self, path: bytes) -> bool:
        """Watch a folder. True where it was not watched under this name; gone ones are left out."""
        number = inotify_c.inotify_add_watch(self.fd, path, _MASK)
        if number < 0:
            self._note_refusal(path, ctypes.get_errno())
            return False
        self._refused.discard(path)
        former = self._paths.get(number)
        if former == path:
            return False
        if former is not None:  # the folder has been renamed: the watch goes with it
            self._numbers.pop(former, None)
        stale = self._numbers.get(path)
        if stale is not None and stale != number:
            self._paths.pop(stale, None)
        self._paths[number], self._numbers[path] = path, number
        return True

    def read(self) -> tuple[set[bytes], bool]:
        """Paths that something happened to since the last call, and whether the kernel lost some of it (counted)."""
        paths: set[bytes] = set()
        lost = False
        for _ in range(_READS):
            try:
                data = os.read(self.fd, _READ_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            lost = self._parse(data, paths) or lost
        if lost:
            self._counters.add(OVERFLOWS)
        return paths, lost

    def _parse(self, data: bytes, paths: set[bytes]) -> bool:
        offset, lost = 0, False
        while offset + _HEADER.size <= len(data):
            number, mask, _, length = _HEADER.unpack_from(data, offset)
            name = data[offset + _HEADER.size : offset + _HEADER.size + length].rstrip(b"\0")
            offset += _HEADER.size + length
            lost = lost or bool(mask & In.IN_Q_OVERFLOW)
            folder = self._paths.get(number)
            if folder is None:
                continue
            paths.add(folder + (b"" if folder == b"/" else b"/") + name if name else folder)
            if mask & In.IN_IGNORED:
                self._paths.pop(number, None)
                if self._numbers.get(folder) == number:
                    del self._numbers[folder]
        return lost

    def _drop(self, path: bytes) -> None:
        number = self._numbers.pop(path)
        self._paths.pop(number, None)
        inotify_c.inotify_rm_watch(self.fd, inotify_c.WatchDescriptor(number))

    def _note_refusal(self, path: bytes, number: int) -> None:
        if number in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP} or path in self._refused:
            return
        if not self._refused:
            hint = "; raise fs.inotify.max_user_watches" if number in _FULL else ""
            log.warning(
                "file integrity: folders that the kernel does not watch (%s) are looked at in the full scans only%s",
                os.strerror(number),
                hint,
            )
        self._refused.add(path)
        self._counters.add(UNWATCHED)
