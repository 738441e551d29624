"""How high one figure usually bursts: in which hour, and at all. What bursts often is no news."""

from __future__ import annotations

from typing import Final

import msgspec

from watchdogd.enrich.season import DAY_HOURS, WEEK_HOURS, make_table

_MARGIN: Final = 1.5
_DECAY: Final = 0.8
_GROWTH: Final = 4.0
_FIRST_MARGIN: Final = 1.2
_SECOND_MARGIN: Final = 1.3
_HOURLY_DECAY: Final = 0.999
"""Half of it is forgotten in four weeks."""


class Habits(msgspec.Struct, frozen=True, array_like=True):
    """All of it, as it is stored; the tables are 32-bit floats."""

    first: float
    second: float
    day: bytes
    week: bytes


class Bursts:
    """Heights are distances from what is usual: the highest of each hour of day and week, and the two highest of all.

    Those of an hour fade by a fifth each time that the hour comes, the two highest by a half in four weeks.
    """

    def __init__(self, habits: Habits | None = None) -> None:
        """Begin anew, or with what was known. Raises ValueError where that has not the right length."""
        known = habits or Habits(0.0, 0.0, b"", b"")
        self._first, self._second = known.first, known.second
        self._day, self._week = make_table(DAY_HOURS, known.day), make_table(WEEK_HOURS, known.week)

    def freeze(self) -> Habits:
        """What is known, as it is stored."""
        return Habits(self._first, self._second, self._day.tobytes(), self._week.tobytes())

    def find_usual(self, slot: int) -> float:
        """What a burst must exceed in that hour of the week, or one beside it, to be unusual."""
        day, week, hour = self._day, self._week, slot % DAY_HOURS
        beside = max(day[hour - 1], day[hour], day[hour + 1 - DAY_HOURS])
        weekly = max(week[slot - 1], week[slot], week[slot + 1 - WEEK_HOURS])
        return max(_MARGIN * beside, _MARGIN * weekly, _FIRST_MARGIN * self._first, _SECOND_MARGIN * self._second)

    def note_hour(self, slot: int, height: float, limit: float) -> None:
        """Learn the highest five minutes of an hour; at most `limit`, or four times what was known."""
        for table, place in ((self._day, slot % DAY_HOURS), (self._week, slot)):
            old = table[place]
            table[place] = max(_DECAY * old, min(height, max(_GROWTH * old, limit)))
        self._first *= _HOURLY_DECAY
        self._second *= _HOURLY_DECAY

    def note_burst(self, height: float) -> None:
        """Learn the height of a burst that is over."""
        if height > self._first:
            self._first, self._second = height, self._first
        else:
            self._second = max(self._second, height)
