"""How much may be asked: in a minute altogether, and about one group of alerts."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watchdogd.ports import Clock

SESSIONS = 4_096


class Budget:
    """At most `per_minute` questions in any minute on the long run; a quarter of that, but at least one, at once."""

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self._clock = clock
        self._per_second = per_minute / 60
        self._most = max(1.0, per_minute / 4)
        self._left = self._most
        self._counted_s = clock.monotonic_s()

    def spend(self) -> float:
        """0 where a question may be asked now, which is taken for asked; else how many seconds to wait for that."""
        self._count()
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self._per_second

    def remaining(self) -> int:
        """How many questions may be asked at once."""
        self._count()
        return int(self._left)

    def _count(self) -> None:
        now_s = self._clock.monotonic_s()
        self._left = min(self._most, self._left + (now_s - self._counted_s) * self._per_second)
        self._counted_s = now_s


class _Session:
    __slots__ = ("asked", "until_s")

    def __init__(self, until_s: float) -> None:
        self.until_s = until_s
        self.asked = 0


class Sessions:
    """A group's session begins with its first question and lasts `lasts_s`; in it at most `questions` are asked.

    Bounded: the session that began first is forgotten for lack of room.
    """

    def __init__(self, questions: int, lasts_s: float, clock: Clock) -> None:
        self._questions = questions
        self._lasts_s = lasts_s
        self._clock = clock
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self.opened = 0
        """How many there have been."""

    def admit(self, group: str) -> bool:
        """Whether one more question about the group may be asked, which is taken for asked."""
        now_s = self._clock.monotonic_s()
        session = self._sessions.get(group)
        if session is None or now_s >= session.until_s:
            self._sessions.pop(group, None)
            session = self._sessions[group] = _Session(now_s + self._lasts_s)
            self.opened += 1
            while len(self._sessions) > SESSIONS:
                self._sessions.popitem(last=False)
        if session.asked >= self._questions:
            return False
        session.asked += 1
        return True

    def refund(self, group: str) -> None:
        """The question taken for asked got no answer, for nobody was there: the group has it back."""
        session = self._sessions.get(group)
        if session is not None and session.asked > 0:
            session.asked -= 1

    def count(self) -> int:
        """How many are open."""
        now_s = self._clock.monotonic_s()
        while self._sessions and next(iter(self._sessions.values())).until_s <= now_s:
            self._sessions.popitem(last=False)
        return len(self._sessions)
