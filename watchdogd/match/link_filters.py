"""Filters put into the rules that they are exceptions of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from watchdogd.errors import Problem
from watchdogd.match import syntax

if TYPE_CHECKING:
    from collections.abc import Mapping

    from watchdogd.entities import Rule


def covers(found: syntax.FilterBody, rule: Rule) -> bool:
    """Tell whether the rule's log source is within the filter's, as Sigma says: what the filter leaves open fits."""
    asked = ((found.product, rule.product), (found.category, rule.category), (found.service, rule.service))
    return all(own is None or own == theirs for own, theirs in asked)


def restrict(body: syntax.RuleBody, found: syntax.FilterBody) -> syntax.RuleBody:
    """Return the rule with the filter's condition as one more that must hold."""
    if body.condition is None:
        return body
    restriction = rename(found)
    condition = syntax.Junction((body.condition, restriction.condition), every=True)
    return msgspec.structs.replace(body, detections=body.detections | restriction.detections, condition=condition)


def rename(found: syntax.FilterBody) -> syntax.Restriction:
    """Return what the filter asks, under names that no rule and no other filter has."""
    names = {name: f"{name} (filter {found.id})" for name in found.detections}
    detections = {names[name]: detection for name, detection in found.detections.items()}
    return syntax.Restriction(detections, _rename_in(found.condition, names))


def _rename_in(condition: syntax.Condition, names: Mapping[str, str]) -> syntax.Condition:
    match condition:
        case syntax.Named():
            return syntax.Named(names[condition.name])
        case syntax.Not():
            return syntax.Not(_rename_in(condition.item, names))
    return syntax.Junction(tuple(_rename_in(item, names) for item in condition.items), every=condition.every)


def warn_unused(found: syntax.FilterBody, reference: syntax.Reference | None = None, title: str = "") -> Problem:
    """Say that a filter does nothing: for the rule of that title, or for any (no reference)."""
    source = ", ".join(part for part in (found.product, found.category, found.service) if part)
    if reference is None:
        return Problem(found.place, f"the filter does nothing: no rule has its log source ({source})", "", "warning")
    message = f"the filter does nothing for {title!r}, whose log source is not within the filter's ({source})"
    return Problem(reference.place, message, "give it the rule's own log source", "warning")
