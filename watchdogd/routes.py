"""Where alerts go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.entities import Level  # noqa: TC001 - msgspec reads the annotations

if TYPE_CHECKING:
    from collections.abc import Collection

    from watchdogd.entities import Rule

JOURNALD: Final = "journald"


class Wish(msgspec.Struct, frozen=True):
    """Which alerts a sink wants: all that is given must hold, of each list one."""

    levels: tuple[Level, ...] = ()
    rules: tuple[str, ...] = ()
    """Ids or titles."""
    tags: tuple[str, ...] = ()

    def holds(self, level: Level, rule: Rule) -> bool:
        """Whether it wants an alert of this level and rule."""
        names = {name.casefold() for name in self.rules}
        tags = {tag.casefold() for tag in self.tags}
        return (
            (not self.levels or level in self.levels)
            and (not names or rule.id.casefold() in names or rule.title.casefold() in names)
            and (not tags or any(tag.casefold() in tags for tag in rule.tags))
        )


class Routes(msgspec.Struct, frozen=True):
    """Where alerts go: each sink's name with the least level that it wants to hear of."""

    sinks: tuple[tuple[str, Level], ...]

    wishes: tuple[tuple[str, Wish], ...] = ()
    """What some of them want beside the level."""

    def choose(self, level: Level, notify: Collection[str] = (), rule: Rule | None = None) -> tuple[str, ...]:
        """Names of the sinks for an alert of this level; or those in `notify` that there are, and the journal.

        Without `rule` (what watchdogd says about itself) nobody's wishes are asked.
        """
        named = tuple(name for name, _ in self.sinks if name in notify)
        if named:
            return tuple(name for name, _ in self.sinks if name in named or name == JOURNALD)
        refused = {name for name, wish in self.wishes if rule is not None and not wish.holds(level, rule)}
        return tuple(name for name, least in self.sinks if level.rank >= least.rank and name not in refused)
