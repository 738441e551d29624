"""What one figure usually is, by hour of the week, and how far it usually strays from that."""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.enrich.trend import take_median

if TYPE_CHECKING:
    from collections.abc import Sequence

DAY_HOURS: Final = 24
WEEK_HOURS: Final = 168
MAD_TO_SIGMA: Final = 1.4826
"""1 / (the normal distribution's 75 % quantile): makes the MAD of normal noise its standard deviation."""
RELATIVE_SPREAD: Final = 0.02
"""No spread is less than this share of the figure itself."""

_CLIP: Final = 3.0
"""An hour teaches no more than it would at so many spreads from what was expected (winsorised)."""
_LEVEL_SHARE: Final = 1 / 24
_DAY_SHARE: Final = 0.1
_WEEK_SHARE: Final = 0.25
_RHYTHM_SHARE: Final = 0.5
_MAD_SHARE: Final = 0.1
_TAIL_SHARE: Final = 0.99
_TAIL_TO_SIGMA: Final = 1 / 2.326
"""1 / (the normal distribution's 99 % quantile)."""
_TAIL_STEP: Final = 0.01
_HOURS_SHARE: Final = 0.96
_HOURS_TO_SIGMA: Final = 1 / 2.054
_HOURS_STEP: Final = 0.1
_MEAN_TO_SIGMA: Final = 1.2533
"""Square root of pi/2: makes the mean deviation of normal noise its standard deviation."""
_SEEN_MOST: Final = 255


class Learnt(msgspec.Struct, frozen=True, array_like=True):
    """All of a season, as it is stored; the tables are 32-bit floats."""

    level: float
    hours: int
    tail: float
    hours_mean: float
    hours_tail: float
    day: bytes
    week: bytes
    mad: bytes
    seen: bytes
    past: bytes
    last: bytes


class Season:
    """Level + hour of the day + hour of the week, each learnt from medians of hours, and the spread about them.

    An hour moves the level by 1/24 of what it differs, its hour of the day by a tenth, its hour of the week by a
    quarter (by more while little is known), all of it clipped at three spreads; what an hour strays by in two weeks
    running is its rhythm, and is learnt by half. The spread is the largest of
    `resolution`, two hundredths of the figure, 1.4826 MAD of the samples at this hour of the day, and the 99 % quantile
    of five-minute medians / 2.326; that quantile is followed by steps of 1 % (stochastic approximation, Robbins and
    Monro 1951), so that no single value moves it by more.
    """

    def __init__(self, resolution: float, learnt: Learnt | None = None) -> None:
        """Begin anew, or with what was learnt before. Raises ValueError where that has not the right length."""
        self._resolution = resolution
        known = learnt or Learnt(0.0, 0, 0.0, 0.0, 0.0, b"", b"", b"", b"", b"", b"")
        self.hours = known.hours
        """How many hours were learnt from."""
        self._level = known.level
        self._tail = known.tail
        self._hours_mean, self._hours_tail = known.hours_mean, known.hours_tail
        self._day = make_table(DAY_HOURS, known.day)
        self._week = make_table(WEEK_HOURS, known.week)
        self._mad = make_table(DAY_HOURS, known.mad)
        self._seen = bytearray(known.seen or WEEK_HOURS)
        self._past = make_table(WEEK_HOURS, known.past, math.nan)
        self._last = make_table(WEEK_HOURS, known.last)
        if len(self._seen) != WEEK_HOURS:
            raise ValueError(f"hours of a week: {len(self._seen)}")

    def freeze(self) -> Learnt:
        """What was learnt, as it is stored."""
        return Learnt(
            self._level,
            self.hours,
            self._tail,
            self._hours_mean,
            self._hours_tail,
            self._day.tobytes(),
            self._week.tobytes(),
            self._mad.tobytes(),
            bytes(self._seen),
            self._past.tobytes(),
            self._last.tobytes(),
        )

    def expect(self, slot: int) -> float:
        """What is usual in that hour of the week."""
        return self._level + self._day[slot % DAY_HOURS] + self._week[slot]

    def spread(self, slot: int) -> float:
        """One spread of samples and five-minute medians in that hour."""
        mad = MAD_TO_SIGMA * self._mad[slot % DAY_HOURS]
        return max(self._floor(slot), mad, _TAIL_TO_SIGMA * self._tail)

    def guess_spread(self, center: float, medians: Sequence[float], deviations: Sequence[float]) -> float:
        """One spread in the very first hour, from what it has had of minutes so far."""
        mad = take_median([*(abs(median - center) for median in medians), *deviations])
        return max(self._resolution, RELATIVE_SPREAD * abs(center), MAD_TO_SIGMA * mad)

    def hours_spread(self, slot: int) -> float:
        """One spread of the medians of whole hours, which is less: short bursts are not seen there."""
        return max(self._floor(slot), _MEAN_TO_SIGMA * self._hours_mean, _HOURS_TO_SIGMA * self._hours_tail)

    def note_window(self, size: float) -> None:
        """Learn how far a five-minute median strayed."""
        self._tail = follow_tail(self._tail or max(size, self._resolution), size, _TAIL_SHARE, _TAIL_STEP)

    def note_past(self, median: float) -> None:
        """Remember the median of an hour for the trend, NaN for one without; nothing else is learnt."""
        self._past.append(median)
        del self._past[0]

    def follow_rhythm(self, slot: int, median: float) -> None:
        """Learn what this hour strayed by both now and a week ago, by half and unclipped: that is the week's rhythm."""
        rest, last = median - self.expect(slot), self._last[slot]
        self._last[slot] = rest
        both = min(abs(rest), abs(last)) if rest * last > 0 else 0.0
        if self.hours >= WEEK_HOURS and both > _CLIP * self.hours_spread(slot):
            self._week[slot] += math.copysign(_RHYTHM_SHARE * both, rest)

    def learn(self, slot: int, median: float, deviation: float) -> None:
        """Learn from an hour: its median, and the median distance of its samples from what was expected."""
        if not self.hours:
            self._level = median
        rest, hour, days = median - self.expect(slot), slot % DAY_HOURS, self.hours // DAY_HOURS
        spread, hours_spread = self.spread(slot), self.hours_spread(slot)
        moved = min(max(rest, -_CLIP * spread), _CLIP * spread) if days else rest
        self._level += moved * _LEVEL_SHARE
        self._day[hour] += moved * (max(1 / (days + 1), _DAY_SHARE) if days else 0.5)
        if self.hours >= WEEK_HOURS:
            self._week[slot] += moved * max(1 / (self._seen[slot] + 1), _WEEK_SHARE)
        mad = self._mad[hour]
        clipped = min(deviation, _CLIP * mad + self._resolution) if days else deviation
        self._mad[hour] = mad + (clipped - mad) * max(1 / (days + 1), _MAD_SHARE)
        self._seen[slot] = min(self._seen[slot] + 1, _SEEN_MOST)
        if self.hours:
            size = abs(rest)
            share = max(1 / (self.hours + 1), 1 / WEEK_HOURS)
            self._hours_mean += (min(size, _CLIP * hours_spread) - self._hours_mean) * share
            tail = self._hours_tail or max(size, self._resolution)
            self._hours_tail = follow_tail(tail, size, _HOURS_SHARE, _HOURS_STEP)
        self.hours += 1

    def accept(self, slot: int, median: float) -> None:
        """Take a level that has lasted for the usual one; the shape of the week stays."""
        self._level += median - self.expect(slot)

    def list_rests(self, slot: int, hours: int) -> list[float]:
        """The medians of the last hours, up to `slot`, without what the hour of the week explains; NaN for gaps."""
        first = slot - hours + 1
        return [
            value - self._day[(first + place) % DAY_HOURS] - self._week[(first + place) % WEEK_HOURS]
            for place, value in enumerate(self._past[-hours:])
        ]

    def _floor(self, slot: int) -> float:
        return max(self._resolution, RELATIVE_SPREAD * abs(self.expect(slot)))


def make_table(length: int, data: bytes = b"", empty: float = 0.0) -> array[float]:
    """32-bit floats: those of `data`, else `empty`. Raises ValueError where there are not so many."""
    table = array("f", data) if data else array("f", [empty]) * length
    if len(table) != length:
        raise ValueError(f"{len(table)} numbers for {length}")
    return table


def follow_tail(tail: float, size: float, share: float, step: float) -> float:
    """The quantile of that share after one more value: up or down by a step, whatever the value."""
    return tail * (1 + step * (share if size > tail else share - 1))
