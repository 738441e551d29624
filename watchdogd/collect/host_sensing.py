"""How sensors are read: one that is not there is left out and counted once, and so is what goes beyond a limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from watchdogd.telemetry import Counters

    ValueT = TypeVar("ValueT")


class Sensing:
    """Reads sensors by name, and remembers which of them gave nothing."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._missing: set[str] = set()
        self._cut: set[str] = set()
        for name in ("collect_metric_sensors_missing_total", "collect_metric_series_cut_total"):
            counters.add(name, 0)

    @property
    def missing(self) -> frozenset[str]:
        """Sensors that gave nothing when they were last read."""
        return frozenset(self._missing)

    def read(self, sensor: str, read: Callable[[], ValueT | None]) -> ValueT | None:
        """The sensor's value; None where it is not there or gives nothing, counted when that begins."""
        try:
            value = read()
        except (OSError, ValueError, LookupError, AttributeError, ArithmeticError, NotImplementedError, psutil.Error):
            value = None
        if value is not None:
            self._missing.discard(sensor)
        elif sensor not in self._missing:
            self._missing.add(sensor)
            self._counters.add("collect_metric_sensors_missing_total")
        return value

    def limit(self, what: str, found: Sequence[ValueT], most: int) -> Sequence[ValueT]:
        """The first `most` of them; that some were left out is counted when it begins."""
        self.note_cut(what, is_cut=len(found) > most)
        return found[:most]

    def note_cut(self, what: str, *, is_cut: bool) -> None:
        """Something was left out, or is no longer."""
        if not is_cut:
            self._cut.discard(what)
        elif what not in self._cut:
            self._cut.add(what)
            self._counters.add("collect_metric_series_cut_total")
