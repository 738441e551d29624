"""Which document counts where several bear one id: layers, amendments, and what the configuration says of rules."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from watchdogd.errors import Place, Problem
from watchdogd.match import syntax

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from watchdogd.entities import Level

    Whole: TypeAlias = syntax.RuleBody | syntax.CorrelationBody | syntax.FilterBody

_SHOWN = 3


def id_of(body: Whole) -> str:
    """Return the id that the document bears."""
    return body.id if isinstance(body, syntax.FilterBody) else body.rule.id


def title_of(body: Whole) -> str:
    """Return the title that the document bears."""
    return body.title if isinstance(body, syntax.FilterBody) else body.rule.title


class Chosen:
    """The documents that count, by id, in the order of their files; and which of them are disabled, where."""

    def __init__(self) -> None:
        self.bodies: dict[str, Whole] = {}
        self.disabled: dict[str, Place] = {}

    def add_layer(self, readings: Sequence[syntax.FileReading], problems: list[Problem], doubts: list[Problem]) -> None:
        """Put a layer above those before it. Two documents of one id within a layer are an error.

        `doubts` are about ids that no document bears.
        """
        here: dict[str, Whole] = {}
        amendments: dict[str, syntax.Amendment] = {}
        for body in (body for reading in readings for body in reading.bodies):
            earlier: Whole | syntax.Amendment
            if isinstance(body, syntax.Amendment):
                earlier, hint = amendments.setdefault(body.id, body), "say it once"
            else:
                earlier, hint = here.setdefault(id_of(body), body), "give each rule an id of its own"
            if earlier is not body:
                found = body.id if isinstance(body, syntax.Amendment) else id_of(body)
                problems.append(Problem(body.place, f"the id {found} is used already, at {earlier.place}", hint))
        for rule_id, body in here.items():
            self.bodies.pop(rule_id, None)
            self.disabled.pop(rule_id, None)
            if not isinstance(body, syntax.FilterBody) and body.extras.disabled:
                self.disabled[rule_id] = body.place
        self.bodies |= here
        for amendment in amendments.values():
            self._amend(amendment, doubts)

    def override(self, overrides: syntax.Overrides, problems: list[Problem]) -> None:
        """Do what the configuration says; an id or name that nothing bears is a warning."""
        for named, place in overrides.disabled.items():
            if (rule_id := self._find(named, place, problems)) is not None:
                self.disabled[rule_id] = place
        for named, (level, place) in overrides.levels.items():
            if (rule_id := self._find(named, place, problems)) is not None:
                self._set_level(rule_id, level, place, problems)

    def _amend(self, amendment: syntax.Amendment, problems: list[Problem]) -> None:
        rule_id = self._find(amendment.id, amendment.place, problems)
        if rule_id is None:
            return
        if amendment.disabled:
            self.disabled[rule_id] = amendment.place
        elif amendment.disabled is False:
            self.disabled.pop(rule_id, None)
        if amendment.level is not None:
            self._set_level(rule_id, amendment.level, amendment.place, problems)

    def _set_level(self, rule_id: str, level: Level, place: Place, problems: list[Problem]) -> None:
        body = self.bodies[rule_id]
        if isinstance(body, syntax.FilterBody):
            problems.append(Problem(place, f"{rule_id} is a filter, which has no level", "", "warning"))
            return
        rule = msgspec.structs.replace(body.rule, level=level)
        self.bodies[rule_id] = msgspec.structs.replace(body, rule=rule)

    def _find(self, named: str, place: Place, problems: list[Problem]) -> str | None:
        """The id as the rules write it, None (and a warning) where no rule bears it."""
        if named.lower() in self.bodies:
            return named.lower()
        hint = suggest_rule(named, self.bodies)
        problems.append(Problem(place, f"no rule has the id {named!r}", hint, "warning"))
        return None


def suggest_rule(named: str, bodies: Mapping[str, Whole]) -> str:
    """Hint at the rule that was meant: by a name or title that is the same, or an id or name that is near."""
    for rule_id, body in bodies.items():
        if named.lower() in (body.name.lower(), title_of(body).lower()):
            return f"give it by its id, {rule_id}"
    names = {body.name: rule_id for rule_id, body in bodies.items() if body.name}
    near = difflib.get_close_matches(named, [*bodies, *names], n=1)
    if not near:
        return _list_names(names)
    found = bodies[names.get(near[0], near[0])]
    return f"did you mean {near[0]!r} ({title_of(found)})?"


def _list_names(names: Iterable[str]) -> str:
    few = sorted(names)
    return f"names are: {', '.join(few)}" if 0 < len(few) <= _SHOWN else ""
