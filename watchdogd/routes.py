"""Where alerts go."""

from __future__ import annotations

import msgspec

from watchdogd.entities import Level  # noqa: TC001 - msgspec reads the annotations


class Routes(msgspec.Struct, frozen=True):
    """Where alerts go: each sink's name with the least level that it wants to hear of."""

    sinks: tuple[tuple[str, Level], ...]

    def choose(self, level: Level) -> tuple[str, ...]:
        """Names of the sinks for an alert of this level."""
        return tuple(name for name, least in self.sinks if level.rank >= least.rank)
