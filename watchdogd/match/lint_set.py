"""Warnings that need more than one file: correlations over fields that a rule's events lack, filters that silence."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from watchdogd.errors import Place, Problem
from watchdogd.match import fields, syntax
from watchdogd.match.contradictions import find_conflict, list_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Locate = Callable[[Place, tuple[str | int, ...]], Place]

_FILTER = re.compile(r"(.*) \(filter ([0-9a-f-]{36})\)")
"""How the linker names a filter's detections within a rule."""


def lint_set(ruleset: syntax.RuleSet, readings: Sequence[syntax.FileReading], locate: Locate) -> list[Problem]:
    """Warn of what linking has shown. `locate` finds a key, from the top of the document whose id is at a place."""
    views = {body.rule.id: body.view for body in ruleset.bodies}
    found = [problem for one in ruleset.correlations for problem in _lint_correlation(one, views, locate)]
    filters = {body.id: body for reading in readings for body in reading.bodies if isinstance(body, syntax.FilterBody)}
    found += [problem for body in ruleset.bodies for problem in _lint_filters(body, filters)]
    return found


def _lint_correlation(found: syntax.Correlation, views: dict[str, str], locate: Locate) -> Iterator[Problem]:
    if found.copy_of:
        return
    for feed in found.feeds:
        view = views.get(feed.rule_id, "")
        for number, field in enumerate(feed.group_by):
            if not _has_field(view, field):
                place = locate(found.place, ("correlation", "group-by", number))
                yield Problem(place, _say(feed, field, view, "is never grouped"), _hint(field, view), "warning")
        for field in feed.fields:
            if not _has_field(view, field):
                place = locate(found.place, ("correlation", "condition", "field"))
                yield Problem(place, _say(feed, field, view, "is never counted"), _hint(field, view), "warning")


def _has_field(view: str, field: str) -> bool:
    if view == syntax.RECORDS:
        return fields.is_record_field(field)
    known = fields.fields_of_view(view)
    return not known or field in known


def _say(feed: syntax.Feed, field: str, view: str, what: str) -> str:
    return f"events of {feed.reference!r} have no field {field!r} ({view}): what it matches {what}"


def _hint(field: str, view: str) -> str:
    near = fields.suggest_field(
        field, fields.record_fields() if view == syntax.RECORDS else fields.fields_of_view(view)
    )
    return near or "a field of all of its rules, or an alias for each"


def _lint_filters(body: syntax.RuleBody, filters: dict[str, syntax.FilterBody]) -> Iterator[Problem]:
    """Warn of a filter by which a rule that could match no longer can: its own condition was fine."""
    own = body.condition
    restricting: list[syntax.Condition] = []
    while isinstance(own, syntax.Junction) and len(own.items) > 1 and _is_filter(own.items[1]):
        restricting.append(own.items[1])
        own = own.items[0]
    if own is None or not restricting:
        return
    in_records = body.view == syntax.RECORDS
    if find_conflict(own, body.detections, in_records=in_records) is not None:
        return  # said of the rule itself
    for restriction in restricting:
        condition = syntax.Junction((own, restriction), every=True)
        conflict = find_conflict(condition, body.detections, in_records=in_records)
        found = _FILTER.fullmatch(next(iter(list_names(restriction))))
        if conflict is not None and found is not None and found[2] in filters:
            why = conflict[1].replace(f" (filter {found[2]})", "")
            message = f"the filter silences {body.rule.title!r} altogether: {why}"
            yield Problem(filters[found[2]].place, message, "disable the rule instead, if that is meant", "warning")


def _is_filter(condition: syntax.Condition) -> bool:
    return all(_FILTER.fullmatch(name) for name in list_names(condition))
