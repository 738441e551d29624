"""Figures of once a minute that no walk gives: logins, clock, failed units, temperatures, graphics cards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from watchdogd.collect.host_figures import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from watchdogd.collect.host_sensing import Sensing
    from watchdogd.collect.host_upkeep import UpkeepReader

MAX_SENSORS: Final = 16
MAX_GPUS: Final = 8


class Rounds:
    """Goes round the sensors, and remembers which units had failed."""

    def __init__(self, reader: UpkeepReader, sensing: Sensing) -> None:
        self._reader = reader
        self._sensing = sensing
        self._failed = 0
        self.failed_units: tuple[str, ...] = ()
        """Their names, as far as systemd told them."""

    def measure(self) -> Iterator[Figure]:
        """All of it; what is not there is left out."""
        sessions = self._sensing.read("users", self._reader.read_sessions)
        if sessions is not None:
            yield Figure("users.logged_in", sessions.users)
            yield Figure("users.sessions", sessions.sessions)
        clock = self._sensing.read("clock", self._reader.read_clock)
        if clock is not None:
            yield Figure("clock.offset_seconds", clock.offset_s)
            yield Figure("clock.max_error_seconds", clock.max_error_s)
            yield Figure("clock.unsynchronised", 0 if clock.is_synchronised else 1)
        yield from self._measure_units()
        heat = self._sensing.read("temperatures", self._reader.read_temperatures) or {}
        for sensor, celsius in self._sensing.limit("sensor", sorted(heat.items()), MAX_SENSORS):
            yield Figure("sensors.temperature_celsius", celsius, sensor)
        yield from self._measure_gpus()

    def _measure_units(self) -> Iterator[Figure]:
        failed = self._sensing.read("units", self._reader.count_failed_units)
        if failed is None:
            return
        if failed != self._failed:
            names = self._sensing.read("names of units", self._reader.list_failed_units) if failed else ()
            self._failed, self.failed_units = failed, names or ()
        yield Figure("services.failed", failed)

    def _measure_gpus(self) -> Iterator[Figure]:
        gpus = self._sensing.read("gpu", self._reader.read_gpus) or ()
        for gpu in self._sensing.limit("gpu", gpus, MAX_GPUS):
            for metric, value in (
                ("gpu.busy_percent", gpu.busy_percent),
                ("gpu.memory_percent", gpu.memory_percent),
                ("gpu.temperature_celsius", gpu.celsius),
            ):
                if value is not None:
                    yield Figure(metric, value, gpu.name)
