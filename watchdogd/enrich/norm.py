"""Whether one figure of this host is unusual now, and since when it has been."""

from __future__ import annotations

import math
from array import array
from typing import Final

import msgspec

from watchdogd.enrich.bursts import Bursts, Habits
from watchdogd.enrich.season import Learnt, Season
from watchdogd.enrich.trend import find_trend, take_median

WARM_UP_MINUTES: Final = 5
"""Before that there is no z-score."""
ANOMALY_WARM_UP_HOURS: Final = 336
"""Two weeks: before that there is no anomaly, for no weekend is known."""
GAP_MINUTES: Final = 15
"""After a longer silence, or a clock that was set by more, what was measured before says nothing of now."""
QUIET_MINUTES: Final = 30
"""For so long after such a gap nothing begins: which hour it is may be wrong."""

WINDOW_MINUTES: Final = 5
HOLD_MINUTES: Final = 5
END_MINUTES: Final = 10
SHIFT_MINUTES: Final = 60
ACCEPT_MINUTES: Final = 1440
Z_BURST: Final = 6.0
Z_HOUR: Final = 4.0
Z_QUIET: Final = 3.0
HOLD_HOURS: Final = 3
LEAST_A_HOUR: Final = 6
"""With fewer minutes measured, an hour teaches nothing."""

LEAK_HOURS: Final = 72
LEAK_BLOCK_HOURS: Final = 3
_LEAK_SPREADS: Final = 4.0
_LEAK_TIMES_USUAL: Final = 3.0
_LEAK_TIMES_NOISE: Final = 6.0
_LEAK_TAU, _LEAK_TAU_OFF = 0.75, 0.5
_LEAK_SHARE: Final = 1 / 28


class Standing(msgspec.Struct, frozen=True, array_like=True):
    """All that is known of one figure, as it is stored. Minutes are those since the epoch; 0 is never."""

    season: Learnt
    bursts: Habits
    growth: float
    minute: int
    slot: int
    medians: bytes
    deviations: bytes
    top: float
    height: float
    sign: int
    since: int
    leak_since: int
    by_hours: bool
    off: float
    hours_out: int


class Norm:
    """One series: samples in, `center`, `spread` and `anomaly` out.

    A minute's samples are one median, five of these a window, those of a clock hour what is learnt from. An anomaly is

    - a `spike`: five windows in a row stray by six spreads, and by more than this figure's bursts usually do;
    - a `shift`: a spike that lasts an hour, or three hours in a row whose medians stray by four spreads of hours;
    - a `leak`: the medians of 72 hours grow, without the usual course of the week, steadily (tau 0.75), by four spreads
      of hours, by three times what is usual, and by six times their own noise.

    Spike and shift are over after ten minutes (an hour, where hours told of it) near the usual; what lasts a day is
    the usual level from then on. While they last nothing is learnt but the hour's usual burst, within limits.
    """

    def __init__(self, resolution: float, standing: Standing | None = None) -> None:
        """Begin anew, or where an earlier life stopped. Raises ValueError where that cannot be."""
        self._season = Season(resolution, standing.season if standing else None)
        self._bursts = Bursts(standing.bursts if standing else None)
        self._growth = standing.growth if standing else 0.0
        self._minute = standing.minute if standing else 0
        self._slot = standing.slot if standing else 0
        self._medians = array("d", standing.medians if standing else b"")
        self._deviations = array("d", standing.deviations if standing else b"")
        self._top = standing.top if standing else 0.0
        self._height = standing.height if standing else 0.0
        self._sign = standing.sign if standing else 0
        self._since = standing.since if standing else 0
        self._leak_since = standing.leak_since if standing else 0
        self._by_hours = standing.by_hours if standing else False
        self._off = standing.off if standing else 0.0
        self._hours_out = standing.hours_out if standing else 0
        self._values: list[float] = []  # of this minute
        self._window: list[float] = []
        self._sizes: list[float] = []
        self._inside = 0
        self._quiet_until = 0
        self._bar = math.inf
        self.center: float | None = None
        """What is usual now; None in the warm-up."""
        self.spread = resolution
        self.window_zscore: float | None = None
        """How far the median of the last five minutes strays, in spreads; None where they were not all measured."""
        self._place()

    def freeze(self) -> Standing:
        """All that is known, as it is stored."""
        return Standing(
            self._season.freeze(),
            self._bursts.freeze(),
            self._growth,
            self._minute,
            self._slot,
            self._medians.tobytes(),
            self._deviations.tobytes(),
            self._top,
            self._height,
            self._sign,
            self._since,
            self._leak_since,
            self._by_hours,
            self._off,
            self._hours_out,
        )

    @property
    def minute(self) -> int:
        """That of the last sample, since the epoch."""
        return self._minute

    @property
    def is_seasoned(self) -> bool:
        """Whether the hour of the week is known well enough to speak of it."""
        return self._season.hours >= ANOMALY_WARM_UP_HOURS

    @property
    def anomaly(self) -> tuple[str, int] | None:
        """What is unusual (`spike`, `shift`, `leak`), and since which minute."""
        if self._sign and not (self._leak_since and self._by_hours):  # hours that stray are what a leak comes to
            return "spike" if self._minute - self._since < SHIFT_MINUTES else "shift", self._since
        return ("leak", self._leak_since) if self._leak_since else None

    def add(self, value: float, minute: int, slot: int) -> None:
        """Take a sample of that minute since the epoch, in that hour of the week (0: Monday, midnight)."""
        if minute != self._minute:
            self._turn(minute, slot)
        self._values.append(value)

    def _turn(self, minute: int, slot: int) -> None:
        """Another minute than the sample before: close that one, and the hour where it is over."""
        if not self._minute:
            self._slot = slot
        elif 0 < minute - self._minute <= GAP_MINUTES:
            if self._values:
                self._close_minute()
        else:
            self._forget_now(minute)
        self._minute = minute
        self._values = []
        if slot != self._slot:
            if len(self._medians) >= LEAST_A_HOUR:
                self._close_hour()
            else:
                self._season.note_past(math.nan)
            self._medians, self._deviations, self._top = array("d"), array("d"), 0.0
            self._slot = slot
        self._place()

    def _forget_now(self, minute: int) -> None:
        """After a gap: of the hours between nothing is known, and what was under way is not learnt from."""
        for _ in range(min(max(minute - self._minute, 0) // 60, LEAK_HOURS)):
            self._season.note_past(math.nan)
        self._medians, self._deviations, self._top = array("d"), array("d"), 0.0
        self._window, self._sizes, self._inside, self.window_zscore = [], [], 0, None
        self._quiet_until = minute + QUIET_MINUTES

    def _close_minute(self) -> None:
        median = take_median(self._values)
        center = median if self.center is None else self.center
        self._medians.append(median)
        self._deviations.append(take_median([abs(value - center) for value in self._values]))
        window = self._window
        window.append(median)
        if len(window) > WINDOW_MINUTES:
            del window[0]
        if len(window) < WINDOW_MINUTES or self.center is None:
            return
        rest = sorted(window)[WINDOW_MINUTES // 2] - self.center
        self.window_zscore = rest / self.spread
        if self._season.hours:
            if not self._sign:
                self._top = max(self._top, abs(rest))
                self._season.note_window(abs(rest))
            self._watch_window(rest)

    def _watch_window(self, rest: float) -> None:
        """Follow a burst: how high it stood for five minutes, whether that is unusual, and whether it is over."""
        sizes = self._sizes
        sizes.append(abs(rest))
        if len(sizes) > HOLD_MINUTES:
            del sizes[0]
        held = min(sizes) if len(sizes) == HOLD_MINUTES else 0.0
        if held > Z_QUIET * self.spread:
            self._height, self._inside = max(self._height, held), 0
        elif self._height or (self._sign and not self._by_hours):
            self._inside += 1
            if self._inside >= END_MINUTES:
                self._end_burst()
        if held >= self._bar and not self._sign and self._may_begin():
            self._begin(rest, self._minute + 1 - HOLD_MINUTES - WINDOW_MINUTES // 2)
            self._top = min(self._top, 2 * self._bar)

    def _end_burst(self) -> None:
        # What was an anomaly teaches no more than twice what was unusual already: a height is learnt in steps.
        self._bursts.note_burst(min(self._height, 2 * self._bar) if self._sign else self._height)
        self._height, self._inside = 0.0, 0
        if not self._by_hours:
            self._sign = 0

    def _close_hour(self) -> None:
        season, slot = self._season, self._slot
        median = take_median(self._medians)
        season.note_past(median)
        if season.hours:
            self._watch_hours(median - season.expect(slot), season.hours_spread(slot))
        if season.hours:
            season.follow_rhythm(slot, median)
        if not self._sign:
            season.learn(slot, median, take_median(self._deviations))
        elif self._minute - self._since >= ACCEPT_MINUTES:
            season.accept(slot, median)
            self._sign = 0
        self._bursts.note_hour(slot, self._top, 2 * Z_BURST * self.spread)
        if season.hours % LEAK_BLOCK_HOURS == 0 or self._sign:
            self._look_for_leak(season.hours_spread(slot))

    def _watch_hours(self, rest: float, spread: float) -> None:
        if self._sign:
            if self._by_hours and rest * self._sign < self._off:
                self._sign = 0
            return
        is_out = abs(rest) >= Z_HOUR * spread and self._may_begin()
        self._hours_out = self._hours_out + 1 if is_out else 0
        if self._hours_out >= HOLD_HOURS:
            self._begin(rest, self._minute - 60 * HOLD_HOURS, off=Z_HOUR * spread / 2)

    def _may_begin(self) -> bool:
        return self.is_seasoned and self._minute >= self._quiet_until

    def _begin(self, rest: float, since: int, *, off: float = 0.0) -> None:
        """An anomaly; `off` where whole hours told of it: it is over once one strays by less."""
        self._sign, self._since = 1 if rest > 0 else -1, since
        self._by_hours, self._off, self._hours_out = off > 0, off, 0

    def _look_for_leak(self, spread: float) -> None:
        if not self.is_seasoned:
            trend = None
        else:
            trend = find_trend(self._season.list_rests(self._slot, LEAK_HOURS), LEAK_BLOCK_HOURS)
        if trend is None:
            return
        need = max(_LEAK_SPREADS * spread, _LEAK_TIMES_USUAL * self._growth)
        if trend.rise >= max(need, _LEAK_TIMES_NOISE * trend.spread) and trend.tau >= _LEAK_TAU:
            self._leak_since = self._leak_since or self._minute - 60 * LEAK_HOURS
        elif trend.tau < _LEAK_TAU_OFF or trend.rise < need / 2:
            self._leak_since = 0
        if not self._leak_since:
            usual = min(abs(trend.rise), 2 * self._growth + spread)
            self._growth += (usual - self._growth) * _LEAK_SHARE

    def _place(self) -> None:
        """What is usual in this hour."""
        slot = self._slot
        if self._season.hours:
            self.center = self._season.expect(slot)
            self.spread = self._season.spread(slot)
            self._bar = max(Z_BURST * self.spread, self._bursts.find_usual(slot))
        elif len(self._medians) >= WARM_UP_MINUTES:
            self.center = take_median(self._medians)
            self.spread = self._season.guess_spread(self.center, self._medians, self._deviations)
