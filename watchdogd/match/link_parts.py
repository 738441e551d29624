"""What a correlation is made of, as far as that alerts by itself: its alert makes theirs superfluous."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watchdogd.entities import Part

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from watchdogd.match import syntax


def find_parts(correlations: Sequence[syntax.Correlation], silent: Collection[str]) -> dict[str, tuple[Part, ...]]:
    """By the id of a correlation that alerts: the rules and correlations below it that do, too."""
    by_id = {one.rule.id: one for one in correlations}
    found = {}
    for one in correlations:
        if one.rule.id not in silent and not one.silent:
            own = {part: None for part in _walk(one, one.group_by, one.group_by, by_id) if part.rule_id not in silent}
            if own:
                found[one.rule.id] = tuple(own)
    return found


def _walk(
    correlation: syntax.Correlation,
    names: tuple[str, ...],
    fields: tuple[str, ...],
    by_id: Mapping[str, syntax.Correlation],
) -> Iterator[Part]:
    """Parts at every depth. `fields`: what this correlation calls what the topmost one groups by as `names`."""
    places = [correlation.group_by.index(field) for field in fields]
    for feed in correlation.feeds:
        below = tuple(feed.group_by[place] for place in places)
        yield Part(feed.rule_id.partition("#")[0], names, below)
        lower = by_id.get(feed.rule_id)
        if lower is not None and set(below) <= set(lower.group_by):
            yield from _walk(lower, names, below, by_id)
