"""Signals that end the daemon with who sent them, which a Python handler is not told (sigwaitinfo(2))."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STOPS: Final = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM),
    *(signal.SIGVTALRM, signal.SIGPROF, signal.SIGPOLL, signal.SIGPWR, signal.SIGRTMIN, signal.SIGRTMAX),
)
"""Whatever would end a program that has no handler for it (signal(7)), but what tells of a fault of its own."""

_FROM_KERNEL: Final = 0x80
"""SI_KERNEL: a terminal's Ctrl-C, for instance."""


@contextlib.contextmanager
def stops_let_through() -> Iterator[None]:
    """For the length of a `with` this thread does not block the signals: a child that it starts inherits that."""
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopSignal(msgspec.Struct, frozen=True):
    """One signal. `pid` is 0 where the kernel sent it, or somebody outside of our pid namespace."""

    name: str
    pid: int
    uid: int
    by_kernel: bool = False


class StopListener:
    """Waits for the signals on a thread of its own, for they are blocked everywhere else while this is open.

    Only the main thread opens it, before others are started: those inherit what is blocked. A thread that was there
    before may still get the signal in the ordinary way; so the ordinary handler stays in place beside this.
    """

    def __init__(self, hear: Callable[[StopSignal], None]) -> None:
        """`hear` is called on the thread for each signal; it must be quick and must not raise."""
        self._hear = hear
        self._closing = False
        self._blocked: set[signal.Signals] = set()
        self._thread = threading.Thread(target=self._listen, name="stop signals", daemon=True)

    def open(self) -> None:
        """Listen from now on."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        self._blocked = {number for number in STOPS if number not in before}
        self._thread.start()

    def close(self) -> None:
        """Listen no more, and let the signals through as before."""
        self._closing = True
        if self._thread.ident is not None and self._thread.is_alive():
            with contextlib.suppress(ProcessLookupError):
                signal.pthread_kill(self._thread.ident, signal.SIGTERM)
            self._thread.join()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._blocked)

    def _listen(self) -> None:
        while True:
            found = signal.sigwaitinfo(STOPS)
            if self._closing:
                return
            by_kernel = found.si_code == _FROM_KERNEL
            name = signal.Signals(found.si_signo).name
            self._hear(StopSignal(name, 0 if by_kernel else found.si_pid, found.si_uid, by_kernel))
