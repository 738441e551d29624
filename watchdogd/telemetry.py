"""Counters of what passes and of what is lost; gauges, histograms. One registry, handed to each room."""

from __future__ import annotations

import bisect
import threading
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DESCRIPTIONS: Final = {
    "alerts_by_level_total": "Alerts that were stored, by level and state.",
    "verdicts_total": "Verdicts, by label and by whose they are.",
    "ai_request_seconds": "How long the model's server took to answer; cold: it had to load the model.",
    "ai_tokens_total": "Tokens that were read (prompt) and written (answer).",
    "stage_seconds": "How long a stage took: judge (a batch of lines or events), commit, deliver (one attempt).",
}
"""Of what has labels."""
LABELS: Final = {
    "alerts_by_level_total": ("level", "state"),
    "verdicts_total": ("label", "by"),
    "ai_request_seconds": ("start",),
    "ai_tokens_total": ("kind",),
    "stage_seconds": ("stage",),
}
"""Their names; values come from fixed lists, never from events."""
BOUNDS_S: Final = {
    "ai_request_seconds": (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0),
    "stage_seconds": (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0),
}
"""Upper bounds of the buckets of each histogram."""
_MOST_VALUES: Final = 64
"""Combinations of values of one name; a fault of ours must not fill the memory."""


class Histogram:
    """Numbers by size. Not thread-safe by itself."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one number."""
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """How many numbers."""
        return sum(self._counts)

    def cumulated(self) -> Iterator[tuple[float, int]]:
        """For each bound, how many numbers are not above it."""
        count = 0
        for bound, counted in zip(self._bounds, self._counts, strict=False):
            count += counted
            yield bound, count

    def copy(self) -> Histogram:
        """As it is now."""
        copied = Histogram(self._bounds)
        copied._counts = self._counts.copy()
        copied.total = self.total
        return copied


class Counters:
    """Named monotonic counters; safe to raise from any thread.

    Names end in `_total`. Those of loss are documented in docs/architecture.md ("What can be lost").
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: Counter[str] = Counter()
        self._gauges: dict[str, float] = {}
        self._labelled: dict[str, Counter[tuple[str, ...]]] = {}
        self._histograms: dict[str, dict[tuple[str, ...], Histogram]] = {}

    def add(self, name: str, amount: int = 1) -> None:
        """Raise a counter; amount 0 makes the name known."""
        with self._lock:
            self._values[name] += amount

    def get(self, name: str) -> int:
        """Present value, 0 where it was never raised."""
        with self._lock:
            return self._values[name]

    def snapshot(self) -> dict[str, int]:
        """All values, sorted by name."""
        with self._lock:
            return dict(sorted(self._values.items()))

    def add_by(self, name: str, values: tuple[str, ...], amount: int = 1) -> None:
        """Raise a counter that has labels (LABELS); the values come from fixed lists."""
        with self._lock:
            counted = self._labelled.setdefault(name, Counter())
            if values in counted or len(counted) < _MOST_VALUES:
                counted[values] += amount

    def observe(self, name: str, values: tuple[str, ...], number: float) -> None:
        """Add a number to a histogram that has labels (LABELS)."""
        with self._lock:
            histograms = self._histograms.setdefault(name, {})
            if values in histograms or len(histograms) < _MOST_VALUES:
                if values not in histograms:
                    histograms[values] = Histogram(BOUNDS_S[name])
                histograms[values].add(number)

    def labelled(self) -> dict[str, tuple[Sequence[str], dict[tuple[str, ...], int]]]:
        """By name: label names, and each combination of values with its count. Known names are always there."""
        with self._lock:
            return {
                name: (labels, dict(self._labelled.get(name, {})))
                for name, labels in LABELS.items()
                if name.endswith("_total")
            }

    def histograms(self) -> dict[str, tuple[Sequence[str], dict[tuple[str, ...], Histogram]]]:
        """By name: label names, and a histogram for each combination of values. Known names are always there."""
        with self._lock:
            return {
                name: (labels, {key: found.copy() for key, found in self._histograms.get(name, {}).items()})
                for name, labels in LABELS.items()
                if not name.endswith("_total")
            }

    def set_gauge(self, name: str, value: float) -> None:
        """Say how something stands now. Names do not end in `_total`; each is documented beside the counters."""
        with self._lock:
            self._gauges[name] = value

    def gauges(self) -> dict[str, float]:
        """All gauges, sorted by name."""
        with self._lock:
            return dict(sorted(self._gauges.items()))


def count_own_alerts(counters: Counters, number: int) -> None:
    """Count alerts that watchdogd raised and stored beside its rules: none of them passed the judge."""
    for name in ("service_alerts_total", "store_alerts_total", "store_active_alerts_total"):
        counters.add(name, number)
