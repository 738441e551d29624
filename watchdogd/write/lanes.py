"""What the deliverer knows of each sink: how busy it is, how well, and until when it is left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from watchdogd.ports import Sink

GIVE_UP_S = 86_400.0
LONGEST_PAUSE_S = 3600.0
"""Of what the database remembers no more is believed: a clock that was set must not silence a sink for days."""

MIN_FAILURES = 5
"""After a long downtime everything is old: nothing is given up before this life has tried so often."""


class Backoff(msgspec.Struct, frozen=True):
    """Exponential waiting: `first_s` doubles with each attempt up to `most_s`; jitter takes off up to a half."""

    first_s: float = 1.0
    most_s: float = 300.0

    def delay_s(self, attempts: int, chance: float) -> float:
        """Wait after so many failed attempts (1 or more); `chance` is 0 to 1."""
        full = min(self.most_s, self.first_s * 2.0 ** min(max(attempts, 1) - 1, 30))
        return full * (1.0 - 0.5 * chance)


class Terms(msgspec.Struct, frozen=True):
    """How a sink is dealt with."""

    give_up_s: float = GIVE_UP_S
    """Age from which a delivery may be given up; `math.inf` for never."""
    at_once: int = 1
    """How many deliveries it is sent at the same time, of different groups."""


class Lane:
    """One sink. It fails as a whole: after a failure it is left alone, then one delivery tries whether it works again.

    Times are of the monotonic clock. What was begun before a failure neither ends that pause nor lengthens the next.
    """

    def __init__(self, sink: Sink | None, terms: Terms) -> None:
        """`sink` is None where the configuration knows it no more."""
        self.sink = sink
        self.terms = terms
        self.using: list[Sink | None] = []
        """The sink of each delivery in flight: older ones after a reload."""
        self.failures = 0
        self.paused_until_s = 0.0
        self.down_since_s: float | None = None
        self.is_noted = False
        """Whether the database knows of trouble with it."""

    def room(self, now_s: float) -> int:
        """How many deliveries it may be sent now."""
        if now_s < self.paused_until_s:
            return 0
        return max(0, (1 if self.failures else self.terms.at_once) - len(self.using))

    def fail(self, begun: int, now_s: float, backoff: Backoff, chance: float, least_s: float) -> float:
        """Note a failure of what began when there had been `begun`; how long the sink is left alone from now, in s."""
        if begun == self.failures:
            self.failures += 1
        if self.down_since_s is None:
            self.down_since_s = now_s
        pause_s = max(backoff.delay_s(self.failures, chance), least_s)
        self.paused_until_s = max(self.paused_until_s, now_s + pause_s)
        self.is_noted = True
        return self.paused_until_s - now_s

    def succeed(self, begun: int) -> bool:
        """Note a success; True where it ends trouble that the database knows of."""
        if begun != self.failures:
            return False
        ended, self.is_noted = self.is_noted, False
        self.resume()
        return ended

    def resume(self) -> None:
        """Forget all trouble: it is tried at once."""
        self.failures, self.paused_until_s, self.down_since_s = 0, 0.0, None

    def remember(self, now_s: float, pause_s: float, down_s: float | None) -> None:
        """Take over what the database knows: left alone for `pause_s` more, failing for `down_s` by now."""
        self.paused_until_s = now_s + min(max(pause_s, 0.0), LONGEST_PAUSE_S)
        self.down_since_s = None if down_s is None else now_s - max(down_s, 0.0)
        self.is_noted = True

    def is_hopeless(self, now_s: float) -> bool:
        """Whether it has failed for so long, and been tried so often, that all that is old enough may be given up."""
        if self.down_since_s is None or self.failures < MIN_FAILURES:
            return False
        return now_s - self.down_since_s >= self.terms.give_up_s
