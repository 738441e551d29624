"""The kernel's word that a log was written to (inotify(7)), so that a quiet one need not be polled often.

inotify is blind where the writer is on another host or writes below an overlay. So it only shortens and lengthens the
polls: lines that were found without its word make the polls quick, until it has told of lines again.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

QUIET_POLL_S: Final = 0.25
"""How often a log is looked at of whose writes the kernel tells."""
_READ_BYTES: Final = 1 << 16
_log = logging.getLogger("watchdogd.collect")


class LogWatch:
    """Waits between two looks at a log. For one thread, but for `wake`, which is safe from any.

    An isolated write ends the wait at once; in a storm there is a look every `poll_s` seconds and no more.
    """

    def __init__(self, poll_s: float, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._poll_s = poll_s
        self._monotonic_s = monotonic_s
        self._fd = -1
        self._number = -1
        self._aimed_at: tuple[int, int] | None = None
        self._told = self._is_trusted = True
        self._looked_s = 0.0
        self._lock = threading.Lock()
        self._wake = -1
        self._is_woken = False

    def wake(self) -> None:
        """End the wait, and every later one at once."""
        with self._lock:
            self._is_woken = True
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def note_lines(self) -> None:
        """Lines were found; whether the kernel had told of them decides how often is looked."""
        self._is_trusted = self._told and self._fd >= 0

    def wait(self, log_fd: int, node: tuple[int, int], *, quick: bool) -> None:
        """Until the open log is written to, or the time for a look has come; `quick`: something else is awaited."""
        with self._lock:
            if self._is_woken:
                return
            if self._wake < 0:
                self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._aim(log_fd, node)
        is_slow = self._is_trusted and self._fd >= 0 and not quick
        ready = self._poll(max(self._poll_s, QUIET_POLL_S) if is_slow else self._poll_s, self._fd, self._wake)
        self._told = self._fd in ready
        if self._told:
            with contextlib.suppress(BlockingIOError):
                os.read(self._fd, _READ_BYTES)
            since_s = self._monotonic_s() - self._looked_s
            if since_s < self._poll_s:
                self._poll(self._poll_s - since_s, self._wake)
        self._looked_s = self._monotonic_s()

    def close(self) -> None:
        """End the watch; again is harmless."""
        with self._lock:
            for descriptor in (self._fd, self._wake):
                if descriptor >= 0:
                    os.close(descriptor)
            self._fd, self._wake, self._number, self._aimed_at = -1, -1, -1, None

    def _aim(self, log_fd: int, node: tuple[int, int]) -> None:
        """Watch the file that is open there. Where the kernel will not, polls are all there is: they lose nothing."""
        if node == self._aimed_at:
            return
        from watchdog.observers import inotify_c  # noqa: PLC0415 - for the daemon only

        self._aimed_at = node
        if self._fd < 0:
            self._fd = inotify_c.inotify_init()
            if self._fd < 0:
                _log.debug("no inotify for the log (%s): it is polled", os.strerror(ctypes.get_errno()))
                return
            os.set_inheritable(self._fd, False)  # noqa: FBT003 - its only argument
            os.set_blocking(self._fd, False)
        if self._number >= 0:
            inotify_c.inotify_rm_watch(self._fd, inotify_c.WatchDescriptor(self._number))  # fails where it went itself
        names = inotify_c.InotifyConstants
        mask = names.IN_MODIFY | names.IN_MOVE_SELF | names.IN_ATTRIB
        self._number = inotify_c.inotify_add_watch(self._fd, f"/proc/self/fd/{log_fd}".encode(), mask)
        self._is_trusted = self._number >= 0

    @staticmethod
    def _poll(timeout_s: float, *descriptors: int) -> set[int]:
        poller = select.poll()
        for descriptor in descriptors:
            if descriptor >= 0:
                poller.register(descriptor, select.POLLIN)
        return {descriptor for descriptor, _ in poller.poll(timeout_s * 1000)}
