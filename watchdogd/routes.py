"""Where alerts go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.entities import Level  # noqa: TC001 - msgspec reads the annotations

if TYPE_CHECKING:
    from collections.abc import Collection

JOURNALD: Final = "journald"


class Routes(msgspec.Struct, frozen=True):
    """Where alerts go: each sink's name with the least level that it wants to hear of."""

    sinks: tuple[tuple[str, Level], ...]

    def choose(self, level: Level, notify: Collection[str] = ()) -> tuple[str, ...]:
        """Names of the sinks for an alert of this level; or those in `notify` that there are, and the journal."""
        named = tuple(name for name, _ in self.sinks if name in notify)
        if named:
            return tuple(name for name, _ in self.sinks if name in named or name == JOURNALD)
        return tuple(name for name, least in self.sinks if level.rank >= least.rank)
