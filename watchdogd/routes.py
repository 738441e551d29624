"""Where alerts go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.entities import Label, Level

if TYPE_CHECKING:
    from collections.abc import Collection

    from watchdogd.entities import Rule

JOURNALD: Final = "journald"
FLOOR: Final = Level.HIGH
"""From this level up no verdict keeps an alert from every webhook."""


class Wish(msgspec.Struct, frozen=True):
    """Which alerts a sink wants: all that is given must hold, of each list one."""

    levels: tuple[Level, ...] = ()
    rules: tuple[str, ...] = ()
    """Ids or titles."""
    tags: tuple[str, ...] = ()
    verdicts: tuple[Label, ...] = ()

    def holds(self, level: Level, rule: Rule) -> bool:
        """Whether it wants an alert of this level and rule, verdict aside."""
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

    def choose(
        self, level: Level, notify: Collection[str] = (), rule: Rule | None = None, label: Label = Label.UNTRIAGED
    ) -> tuple[str, ...]:
        """Names of the sinks for an alert of this level; or those in `notify` that there are, and the journal.

        Without `rule` (what watchdogd says about itself) nobody's wishes are asked.
        """
        refused = self.refuse(level, notify, rule, label)
        return tuple(name for name in self._list_candidates(level, notify, rule) if name not in refused)

    def refuse(
        self, level: Level, notify: Collection[str] = (), rule: Rule | None = None, label: Label = Label.UNTRIAGED
    ) -> tuple[str, ...]:
        """Names of the sinks that do not hear of such an alert for its verdict alone.

        Nobody, where the alert is high or critical and no webhook would hear of it.
        """
        candidates = self._list_candidates(level, notify, rule)
        if rule is None or any(name in notify for name in candidates):
            return ()
        wishes = {name: wish.verdicts for name, wish in self.wishes if wish.verdicts}
        refused = tuple(name for name in candidates if label not in wishes.get(name, (label,)))
        is_heard = any(name != JOURNALD and name not in refused for name in candidates)
        return refused if is_heard or level.rank < FLOOR.rank else ()

    def _list_candidates(self, level: Level, notify: Collection[str], rule: Rule | None) -> tuple[str, ...]:
        """Who hears of it whatever its verdict says, but for wishes about verdicts."""
        named = tuple(name for name, _ in self.sinks if name in notify)
        if named:
            return tuple(name for name, _ in self.sinks if name in named or name == JOURNALD)
        refused = {name for name, wish in self.wishes if rule is not None and not wish.holds(level, rule)}
        return tuple(name for name, least in self.sinks if level.rank >= least.rank and name not in refused)
