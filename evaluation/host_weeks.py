"""Weeks of a host's metrics, made up: seasons, jobs, bursts, heavy tails, growth, and changes that are known.

Nobody's recorded weeks are public with labels and a clock; these are harder than calm hosts and easier than the worst.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.enrich.trend import take_median

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DAY, WEEK = 1440, 10_080
"""Minutes."""
WEEKS: Final = 6
KNOWN_WEEKS: Final = 2
"""What a detector learns from; from then on it is judged."""
PER_MINUTE: Final = 2
_LONGEST_GAP: Final = 180


class Kind(msgspec.Struct, frozen=True):
    """What series of one kind have in common, in shares of their base."""

    name: str
    base: float
    noise: float
    by_day: float
    job: float
    resolution: float
    unit: str = "percent"
    top: float = math.inf
    growth: tuple[float, ...] = (0.0,)
    """Percent a day, one of these."""
    is_sparse: bool = False
    """Mostly nothing at all."""


KINDS: Final = (
    Kind("cpu", 8, 0.25, 1.5, 5, 0.5, top=100),
    Kind("load", 0.6, 0.3, 1.5, 4, 0.05, unit="load"),
    Kind("memory", 42, 0.01, 0.12, 0.08, 0.5, top=100),
    Kind("swap", 6, 0.002, 0.03, 0.01, 0.5, top=100),
    Kind("disk", 45, 0.0008, 0.004, 0.004, 0.5, top=100, growth=(0.0, 0.02, 0.05, 0.15)),
    Kind("inodes", 12, 0.0003, 0.001, 0.001, 0.5, top=100, growth=(0.002,)),
    Kind("disk traffic", 4e5, 0.6, 2, 40, 65536, unit="bytes/s"),
    Kind("network traffic", 2e5, 0.5, 3, 30, 65536, unit="bytes/s"),
    Kind("network errors", 0.2, 0.5, 0, 0, 0.1, unit="errors/s", is_sparse=True),
    Kind("processes", 240, 0.01, 0.06, 0.05, 2, unit="processes"),
    Kind("pressure", 0.5, 0.5, 1, 8, 0.5, top=100),
    Kind("files", 4200, 0.02, 0.1, 0.05, 64, unit="files"),
    Kind("sockets", 120, 0.05, 0.5, 0.2, 4, unit="sockets"),
)
HOST: Final = tuple(kind for kind in KINDS for _ in range(4 if kind.name in ("cpu", "load", "disk") else 2))
"""The series of one host: 32."""


class Course:
    """One series, minute by minute, in order; the same seed gives the same one."""

    def __init__(self, kind: Kind, seed: str) -> None:
        rng = self._rng = random.Random(seed)  # noqa: S311 - the same again, not a secret
        self.kind = kind
        self._base = kind.base * rng.uniform(0.6, 1.6)
        self._noise = kind.noise * self._base
        self._by_day = kind.by_day * self._base * rng.choice((0, 0.3, 1, 1))
        self._job = kind.job * self._base * rng.uniform(0.5, 1.5)
        self._growth = rng.choice(kind.growth) / DAY
        self._daily = [(rng.randrange(DAY), rng.choice((3, 5, 8, 12, 20, 40))) for _ in range(rng.choice((0, 1, 2, 3)))]
        self._weekly = [(rng.randrange(WEEK), rng.choice((10, 30, 90))) for _ in range(rng.choice((0, 1)))]
        self._random_share = rng.choice((0, 0.5, 1, 3)) / DAY
        self._weekend = rng.choice((1, 0.15, 0.4))
        self._shift = rng.uniform(-2, 2)
        self._heavy = rng.choice((0, 0, 0.01, 0.03))
        self._slow = self._grown = self._left = self._burst = 0.0
        self._today = 1.0

    def sample(self, minute: int, add: float = 0.0, count: int = PER_MINUTE) -> list[float]:
        """The samples of the next minute, with what a change adds to them."""
        rng, noise = self._rng, 0.7 * self._noise
        usual = self._next(minute)
        found = []
        for _ in range(count):
            value = usual + rng.gauss(0, noise)
            if self._heavy and rng.random() < self._heavy:
                value += noise * min(rng.paretovariate(1), 200)
            if self.kind.is_sparse and rng.random() > 0.05:  # noqa: PLR2004 - as Kind says
                value = 0.0
            found.append(min(max(value + add, 0.0), self.kind.top))
        return found

    def _next(self, minute: int) -> float:
        rng, moment = self._rng, minute % DAY
        if moment == 0:
            self._today = math.exp(rng.gauss(0, 0.12))
            if self._growth and rng.random() < 0.15:  # noqa: PLR2004 - somebody cleans up once a week
                self._grown -= min(0.3 * self._grown, 3)
        work = max(0.0, math.sin((moment / 60 - 7 + self._shift) / 12 * math.pi))
        if minute % WEEK >= 5 * DAY:
            work *= self._weekend
        self._slow = 0.9 * self._slow + rng.gauss(0, 0.3) * self._noise
        self._grown += self._growth
        value = self._base + self._by_day * work * self._today + self._slow + self._grown
        value += sum(self._job for start, length in self._daily if 0 <= moment - start < length)
        value += sum(1.5 * self._job for start, length in self._weekly if 0 <= minute % WEEK - start < length)
        if self._left:
            self._left -= 1
            value += self._burst
        elif rng.random() < self._random_share:
            self._left, self._burst = rng.choice((2, 3, 5, 8, 15, 25)), self._job * rng.uniform(0.3, 1.2)
        return value


class Change(msgspec.Struct, frozen=True):
    """What happens to a series: a `spike` or `shift` adds `size`, a `leak` grows to it."""

    kind: str
    start: int
    minutes: int
    size: float
    times: float
    """How many times what the series does by itself that is."""

    def add(self, minute: int) -> float:
        """What it adds at that minute."""
        done = minute - self.start
        if not 0 <= done < self.minutes:
            return 0.0
        return self.size * (done / self.minutes if self.kind == "leak" else 1.0)


class Life(msgspec.Struct, frozen=True):
    """One series of one host, and what happens to it."""

    kind: Kind
    seed: str
    change: Change | None
    gap: int | None
    """Where three hours of samples are missing."""

    def minutes(self) -> Iterator[tuple[int, list[float]]]:
        """Minute and its samples; minutes of the gap are left out."""
        course = Course(self.kind, self.seed)
        for minute in range(WEEKS * WEEK):
            values = course.sample(minute, self.change.add(minute) if self.change else 0.0)
            if self.gap is None or not self.gap <= minute < self.gap + _LONGEST_GAP:
                yield minute, values


def make_host(seed: int, kinds: Sequence[Kind] = HOST) -> list[Life]:
    """The lives of a host's series: of four, one is left alone, the others have a spike, a shift or a leak each."""
    rng = random.Random(seed)  # noqa: S311 - as above
    lives = []
    for number, kind in enumerate(kinds):
        name = f"{seed}/{number}"
        gap = rng.randrange(KNOWN_WEEKS * WEEK, 4 * WEEK) if rng.random() < 0.3 else None  # noqa: PLR2004 - a third
        lives.append(Life(kind, name, _choose_change(rng, kind, name), gap))
    return lives


def _choose_change(rng: random.Random, kind: Kind, seed: str) -> Change | None:
    """A change that can be seen: as large as the series' own wobbles times 2 to 6, and below its top."""
    what = rng.choice(("", "spike", "shift", "leak"))
    start = rng.randrange(3 * WEEK, (WEEKS - 1) * WEEK)
    minutes = {"spike": rng.choice((15, 30, 60)), "shift": 2 * DAY, "leak": rng.choice((3, 4, 5)) * DAY}.get(what, 0)
    times = rng.uniform(2, 4) if what == "spike" else rng.uniform(3, 6)
    if not what:
        return None
    burst, hour, highest = measure_wobble(kind, seed)
    size = times * {"spike": burst, "shift": hour, "leak": 2 * hour}[what]
    return Change(what, start, minutes, size, times) if highest + size < kind.top else None


def measure_wobble(kind: Kind, seed: str) -> tuple[float, float, float]:
    """How far a series strays by itself from its hours of the week: five minutes, hours; and its highest value.

    Five-minute medians that are exceeded in ten minutes a week, medians of hours that are exceeded once in four days;
    at the least three of the steps that any detector must overlook.
    """
    course = Course(kind, seed)
    values = [course.sample(minute, count=1)[0] for minute in range(4 * WEEK)]
    hours = [take_median(values[start : start + 60]) for start in range(0, len(values), 60)]
    levels = [take_median(hours[max(0, hour - 84) : hour + 84]) for hour in range(len(hours))]
    slots = [take_median([hours[hour] - levels[hour] for hour in range(slot, len(hours), 168)]) for slot in range(168)]
    usual = [level + slots[hour % 168] for hour, level in enumerate(levels)]
    windows = [abs(take_median(values[end - 5 : end]) - usual[(end - 1) // 60]) for end in range(5, len(values) + 1, 5)]
    rests = [abs(median - expected) for median, expected in zip(hours, usual, strict=True)]
    least = max(kind.resolution, 0.02 * abs(take_median(hours)))
    return (
        max(sorted(windows)[int(0.999 * len(windows))], 3 * least),
        max(sorted(rests)[int(0.99 * len(rests))], 2 * least),
        max(take_median(values[end - 5 : end]) for end in range(5, len(values) + 1, 5)),
    )
