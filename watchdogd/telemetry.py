"""Counters of everything that passes, and of everything that is lost; gauges. One registry, handed to each room."""

from __future__ import annotations

import threading
from collections import Counter


class Counters:
    """Named monotonic counters; safe to raise from any thread.

    Names end in `_total`. Those of loss are documented in docs/architecture.md ("What can be lost").
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: Counter[str] = Counter()
        self._gauges: dict[str, float] = {}

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
