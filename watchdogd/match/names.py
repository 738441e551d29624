"""Rules by what others call them: their id or their name."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from watchdogd.errors import Problem
from watchdogd.match import syntax
from watchdogd.match.layers import id_of, suggest_rule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from watchdogd.match.layers import Whole

    Target: TypeAlias = syntax.RuleBody | syntax.CorrelationBody


class Directory:
    """Looks rules up. Where files could not be read, what they hold is unknown: nothing is reported as missing."""

    def __init__(self, by_id: Mapping[str, Whole], *, is_complete: bool = True) -> None:
        self.by_id = by_id
        self._is_complete = is_complete
        self._by_name: dict[str, list[Whole]] = {}
        for body in by_id.values():
            if body.name:
                self._by_name.setdefault(body.name, []).append(body)

    def find(
        self, reference: syntax.Reference, problems: list[Problem] | None, severity: str = "error"
    ) -> Target | None:
        """Return the rule, None where there is none or more than one (reported, unless `problems` is None)."""
        exact = self.by_id.get(reference.to.lower())
        found = [exact] if exact is not None else self._by_name.get(reference.to, [])
        if len(found) == 1 and not isinstance(found[0], syntax.FilterBody):
            return found[0]
        if problems is not None and (found or self._is_complete):
            problems.append(self._explain(reference, found, severity))
        return None

    def _explain(self, reference: syntax.Reference, found: list[Whole], severity: str) -> Problem:
        if len(found) > 1:
            places = ", ".join(str(body.place) for body in found)
            message = f"the name {reference.to!r} is borne by {len(found)} documents: {places}"
            return Problem(reference.place, message, f"give the id, such as {id_of(found[0])}", severity)
        if found:
            return Problem(reference.place, f"{reference.to!r} is a filter, not a rule", "name a rule", severity)
        message = f"no rule has the id or the name {reference.to!r}"
        return Problem(reference.place, message, suggest_rule(reference.to, self.by_id), severity)
