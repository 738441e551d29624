"""A circuit breaker: a server that keeps failing is left alone for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watchdogd.ports import Clock


class Breaker:
    """After `failures` failures in a row, refuses for `open_s`; then lets one question through to see."""

    def __init__(self, failures: int, open_s: float, clock: Clock) -> None:
        self._limit = failures
        self._open_s = open_s
        self._clock = clock
        self._failures = 0
        self._open_until_s = 0.0
        self._probing = False

    def admit(self) -> bool:
        """May a question be asked now? After True, exactly one of `succeed`, `fail` or `release` must follow."""
        if self._failures < self._limit:
            return True
        if self._probing or self._clock.monotonic_s() < self._open_until_s:
            return False
        self._probing = True
        return True

    @property
    def state(self) -> str:
        """`closed` (asking), `open` (not asking) or `half-open` (the next question, or the present one, is a probe)."""
        if self._failures < self._limit:
            return "closed"
        waiting = not self._probing and self._clock.monotonic_s() < self._open_until_s
        return "open" if waiting else "half-open"

    def succeed(self) -> None:
        """The server answered: ask on."""
        self._failures = 0
        self._probing = False

    def fail(self) -> None:
        """The server did not answer usefully."""
        self._failures += 1
        self._probing = False
        if self._failures >= self._limit:
            self._open_until_s = self._clock.monotonic_s() + self._open_s

    def release(self) -> None:
        """The question ended without saying anything about the server."""
        self._probing = False
