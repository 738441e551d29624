"""`make eval-anomalies`: how many known changes of made-up hosts' metrics are found, and how much is told that is none.

Beside our norms stand a threshold that never moves and an EWMA. Their one number is set on the tuning hosts, as low as
one false alarm a host and week allows; all figures are of other hosts. Writes the second half of docs/anomalies.md.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import sys
from collections import Counter, deque
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from evaluation.detection import Share
from evaluation.host_weeks import DAY, HOST, KNOWN_WEEKS, WEEK, WEEKS, Kind, Life, make_host
from watchdogd.enrich.norm import HOLD_MINUTES, Norm
from watchdogd.enrich.trend import take_median

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REPORT = Path(__file__).resolve().parents[1] / "docs" / "anomalies.md"
MARK: Final = "<!-- measured -->\n"
TUNING, REPORTED = range(3), range(100, 108)
"""Seeds of hosts."""
FACTORS: Final = (1.0, 1.1, 1.25, 1.5, 2.0)
SPREADS: Final = (3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
NORMS, STATIC, EWMA = "watchdogd", "static threshold", "EWMA"
_EWMA_SHARE: Final = 1 / DAY
_GRACE: Final = {"spike": 30, "shift": 180, "leak": DAY}
"""Minutes for which a change may still be told after it is over."""
_AFTER: Final = 2 * DAY
"""For so long after a change what is told is neither right nor wrong: it was there."""
_APART: Final = 60
"""Alarms of one series within so many minutes are one."""


class Minute(msgspec.Struct, frozen=True, gc=False):
    """A minute's samples, their median, and that of five minutes."""

    number: int
    values: list[float]
    median: float
    window: float


class Detector(Protocol):
    """Judges one series."""

    def see(self, minute: Minute) -> str | None:
        """Take a minute's samples; what is unusual now and rises, None where nothing is."""


class NormDetector:
    """Ours, as the rules ask it: what rises."""

    def __init__(self, kind: Kind) -> None:
        self._norm = Norm(kind.resolution)

    def see(self, minute: Minute) -> str | None:
        """As Detector says."""
        for value in minute.values:
            self._norm.add(value, minute.number, minute.number // 60 % 168)
        found = self._norm.anomaly
        if found is None or (found[0] != "leak" and (self._norm.window_zscore or 0) < 0):
            return None
        return found[0]


class StaticDetector:
    """Five minutes in a row above `factor` times the highest five-minute median of the first weeks."""

    def __init__(self, kind: Kind, factor: float) -> None:
        self._factor, self._least = factor, kind.resolution
        self._highest = 0.0
        self._held = 0

    def see(self, minute: Minute) -> str | None:
        """As Detector says."""
        if minute.number < KNOWN_WEEKS * WEEK:
            self._highest = max(self._highest, minute.window)
            return None
        self._held = self._held + 1 if minute.window > self._factor * self._highest + self._least else 0
        return "unusual" if self._held >= HOLD_MINUTES else None


class EwmaDetector:
    """Five minutes in a row above mean + `spreads` deviations, both exponentially weighted over a day."""

    def __init__(self, kind: Kind, spreads: float) -> None:
        self._spreads, self._least = spreads, kind.resolution
        self._mean: float | None = None
        self._variance = 0.0
        self._held = 0

    def see(self, minute: Minute) -> str | None:
        """As Detector says."""
        if self._mean is None:
            self._mean = minute.median
        spread = max(self._variance**0.5, self._least, 0.02 * abs(self._mean))
        is_out = minute.window > self._mean + self._spreads * spread and minute.number >= KNOWN_WEEKS * WEEK
        self._held = self._held + 1 if is_out else 0
        moved = minute.median - self._mean
        self._mean += _EWMA_SHARE * moved
        self._variance = (1 - _EWMA_SHARE) * (self._variance + _EWMA_SHARE * moved * moved)
        return "unusual" if self._held >= HOLD_MINUTES else None


class Told(msgspec.Struct, frozen=True):
    """What one detector made of one series."""

    change: str
    """Empty where there was none."""
    times: float
    after: int | None
    """Minutes from the change to the first alarm about it, None where it was missed."""
    called: str
    right: int
    wrong: int
    """Alarms that were about nothing."""


def watch(life: Life, detectors: Sequence[Detector]) -> list[Told]:
    """Live through a series with all of them."""
    alarms: list[list[tuple[int, str]]] = [[] for _ in detectors]
    last = [-DAY] * len(detectors)
    kinds: list[str | None] = [None] * len(detectors)
    window: deque[float] = deque(maxlen=5)
    for minute, values in life.minutes():
        window.append(take_median(values))
        seen = Minute(minute, values, window[-1], take_median(window))
        for place, detector in enumerate(detectors):
            kind = detector.see(seen)
            if kind is not None:
                if kinds[place] is None and minute - last[place] > _APART:
                    alarms[place].append((minute, kind))
                last[place] = minute
            kinds[place] = kind
    return [sort_out(life, found) for found in alarms]


def sort_out(life: Life, alarms: Sequence[tuple[int, str]]) -> Told:
    """Which alarms were about the change: while it was there, or a while after; what comes then is neither."""
    change = life.change
    judged = [(minute, kind) for minute, kind in alarms if minute >= KNOWN_WEEKS * WEEK]
    if change is None:
        return Told("", 0.0, None, "", 0, len(judged))
    end = change.start + change.minutes
    right = [(minute, kind) for minute, kind in judged if change.start <= minute < end + _GRACE[change.kind]]
    wrong = sum(not change.start <= minute < end + _GRACE[change.kind] + _AFTER for minute, _ in judged)
    first = right[0] if right else None
    after = None if first is None else first[0] - change.start
    return Told(change.kind, change.times, after, first[1] if first else "", len(right), wrong)


def judge_host(seed: int, factors: Sequence[float], spreads: Sequence[float]) -> list[list[Told]]:
    """By series, what each detector made of it: ours, then the thresholds, then the EWMAs."""
    return [
        watch(
            life,
            [
                NormDetector(life.kind),
                *(StaticDetector(life.kind, factor) for factor in factors),
                *(EwmaDetector(life.kind, one) for one in spreads),
            ],
        )
        for life in make_host(seed)
    ]


def tune(found: Sequence[list[Told]]) -> tuple[float, float]:
    """The lowest threshold and the fewest spreads with one false alarm a host and week at most; else the highest."""
    allowed = len(TUNING) * (WEEKS - KNOWN_WEEKS)
    wrong = [sum(told[place].wrong for told in found) for place in range(1 + len(FACTORS) + len(SPREADS))]
    static = next((one for one, count in zip(FACTORS, wrong[1:], strict=False) if count <= allowed), FACTORS[-1])
    moving = zip(SPREADS, wrong[1 + len(FACTORS) :], strict=True)
    return static, next((one for one, count in moving if count <= allowed), SPREADS[-1])


def render(found: Sequence[list[Told]], static: float, spreads: float) -> Iterator[str]:
    """The report's lines."""
    weeks = len(REPORTED) * (WEEKS - KNOWN_WEEKS)
    yield "## Measured"
    yield ""
    yield (
        f"Written by `make eval-anomalies`: {len(REPORTED)} made-up hosts of {len(HOST)} series, {WEEKS} weeks each; "
        f"the first {KNOWN_WEEKS} are learnt from (`evaluation/host_weeks.py`: days, weekends, days that differ, "
        "daily and weekly jobs, bursts at any time, growing disks, heavy tails, gaps of three hours). Changes are 2 to "
        "4 times (spikes of 15 to 60 minutes) or 3 to 6 times (shifts of two days, leaks of three to five) what the "
        "series does by itself. Chosen on other hosts: our constants, the static threshold "
        f"({static:g} times the highest five minutes of the first weeks), and the deviations ({spreads:g}"
        f"{', the most that was tried' if spreads == SPREADS[-1] else ''}) from the EWMA of a day. "
        "Intervals are Wilson's, 95 %."
    )
    yield ""
    yield "| | recall | precision of alarms | false alarms a host and week | spikes | shifts | leaks |"
    yield "|---|---|---|---|---|---|---|"
    for place, name in enumerate((NORMS, STATIC, EWMA)):
        told = [series[place] for series in found]
        changed = [one for one in told if one.change]
        right, wrong = sum(one.right for one in told), sum(one.wrong for one in told)
        by_kind = " | ".join(_count_found([one for one in changed if one.change == kind]) for kind in _GRACE)
        yield (f"| {name} | {_share(changed)} | {Share(right, right + wrong)} | {wrong / weeks:.2f} | {by_kind} |")
    yield ""
    ours = [series[0] for series in found if series[0].change]
    yield "Ours, by how large the change is, and how long it takes until it is told (the median, in minutes):"
    yield ""
    yield "| | smaller half | larger half | told after | called |"
    yield "|---|---|---|---|---|"
    for kind in _GRACE:
        some = sorted((one for one in ours if one.change == kind), key=lambda one: one.times)
        half = len(some) // 2
        after = [one.after for one in some if one.after is not None]
        called = ", ".join(
            f"{name} {count}" for name, count in Counter(one.called for one in some if one.called).most_common()
        )
        told_after = f"{take_median(after):.0f}" if after else "-"
        yield f"| {kind} | {_count_found(some[:half])} | {_count_found(some[half:])} | {told_after} | {called} |"


def _share(told: Sequence[Told]) -> Share:
    return Share(sum(one.after is not None for one in told), len(told))


def _count_found(told: Sequence[Told]) -> str:
    return f"{_share(told).hits}/{len(told)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; `--write` puts the figures into the document."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.anomalies", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/anomalies.md")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    options = parser.parse_args(arguments)
    with multiprocessing.Pool(options.jobs) as pool:
        every = functools.partial(judge_host, factors=FACTORS, spreads=SPREADS)
        static, spreads = tune([told for host in pool.imap(every, TUNING) for told in host])
        chosen = functools.partial(judge_host, factors=(static,), spreads=(spreads,))
        found = [told for host in pool.imap(chosen, REPORTED) for told in host]
    lines = "\n".join(render(found, static, spreads)) + "\n"
    sys.stdout.write(lines)
    if options.write:
        before, _, _ = REPORT.read_text(encoding="utf-8").partition(MARK)
        REPORT.write_text(before.rstrip() + "\n\n" + MARK + lines, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
