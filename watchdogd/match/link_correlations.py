"""Correlations with what they refer to looked up, in an order in which each stands behind those that it builds on."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec

from watchdogd.errors import Problem
from watchdogd.match import syntax
from watchdogd.match.link_filters import covers, rename

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from watchdogd.errors import Place
    from watchdogd.match.names import Directory

    Target: TypeAlias = syntax.RuleBody | syntax.CorrelationBody

_MAX_DEPTH = 16
_TEMPORAL = ("temporal", "temporal_ordered")


class CorrelationLinker:
    """Links every correlation of a rule set once."""

    def __init__(
        self,
        directory: Directory,
        disabled: Mapping[str, str],
        filters: Mapping[str, Sequence[syntax.FilterBody]],
        problems: list[Problem],
    ) -> None:
        """`disabled` are reasons by rule id; `filters` those that name a correlation, by its id."""
        self._directory = directory
        self._disabled = disabled
        self._filters = filters
        self._problems = problems
        self._linked: dict[str, syntax.Correlation | None] = {}
        """None where it cannot be linked (reported)."""
        self._copies: dict[str, syntax.Correlation] = {}
        """By `id#top`; each stands behind those that it builds on."""
        self._restricted: set[tuple[str, str]] = set()
        self._path: list[syntax.CorrelationBody] = []
        self._heights: dict[str, int] = {}

    def link_all(self, bodies: Sequence[syntax.CorrelationBody]) -> tuple[syntax.Correlation, ...]:
        """Return all that could be linked, each behind what it builds on."""
        for body in bodies:
            self._link(body)
        answer = []
        for rule_id, linked in self._linked.items():
            answer += [copy for copied_id, copy in self._copies.items() if copied_id.endswith(f"#{rule_id}")]
            answer += [] if linked is None else [linked]
        return tuple(answer)

    def _link(self, body: syntax.CorrelationBody) -> syntax.Correlation | None:
        if body.rule.id in self._linked:
            return self._linked[body.rule.id]
        self._path.append(body)
        targets = self._find_targets(body)
        lower = [self._link(target) for _, target in targets if isinstance(target, syntax.CorrelationBody)]
        self._heights[body.rule.id] = 1 + max((self._heights[one.rule.id] for one in lower if one), default=0)
        if self._heights[body.rule.id] > _MAX_DEPTH:
            self._problems.append(_refuse_depth(body.place))
        self._path.pop()
        if any(one is None for one in lower) or len(targets) < len(body.rules):
            self._linked[body.rule.id] = None
            return None
        linked = self._build(body, targets)
        # Linked behind those below it: the order of this dictionary is the order of the answer.
        self._linked[body.rule.id] = linked
        return linked

    def _find_targets(self, body: syntax.CorrelationBody) -> list[tuple[syntax.Reference, Target]]:
        targets: list[tuple[syntax.Reference, Target]] = []
        for reference in body.rules:
            target = self._directory.find(reference, self._problems)
            if target is None:
                continue
            if any(target is earlier for _, earlier in targets):
                message = f"{reference.to!r} is a rule that is named already"
                self._problems.append(Problem(reference.place, message, "once is enough"))
            elif any(target is above for above in self._path):
                ids = [above.rule.id for above in self._path]
                titles = [above.rule.title for above in self._path[ids.index(target.rule.id) :]]
                message = f"the correlation builds on itself: {' -> '.join(map(repr, (*titles, target.rule.title)))}"
                self._problems.append(Problem(reference.place, message, "take one of them out"))
            elif len(self._path) > _MAX_DEPTH:
                self._problems.append(_refuse_depth(reference.place))
            else:
                targets.append((reference, target))
        return targets

    def _build(
        self, body: syntax.CorrelationBody, targets: list[tuple[syntax.Reference, Target]]
    ) -> syntax.Correlation:
        aliases = self._find_aliases(body, targets)
        feeds = []
        for reference, target in targets:
            names = aliases.get(target.rule.id, {})
            group_by = tuple(names.get(field, field) for field in body.group_by)
            if isinstance(target, syntax.CorrelationBody):
                self._check_group_by(group_by, reference, target)
            fields = tuple(names.get(field, field) for field in body.fields)
            feeds.append(syntax.Feed(target.rule.id, reference.to, group_by, fields))
        linked = syntax.Correlation(
            rule=body.rule,
            place=body.place,
            kind=body.kind,
            feeds=tuple(feeds),
            group_by=body.group_by,
            timespan_ms=body.timespan_s * 1000,
            bounds=body.bounds,
            percentile=body.percentile,
            expression=body.expression,
            extras=body.extras,
            reason=self._find_reason(body, targets),
        )
        for found in self._filters.get(body.rule.id, ()):
            linked = self._apply(linked, found, linked.rule.id)
        return linked

    def _find_aliases(
        self, body: syntax.CorrelationBody, targets: list[tuple[syntax.Reference, Target]]
    ) -> dict[str, dict[str, str]]:
        """By rule id: the rule's own field by the alias."""
        ids = {target.rule.id for _, target in targets}
        found: dict[str, dict[str, str]] = {}
        for alias in body.aliases:
            for reference, field in alias.fields:
                target = self._directory.find(reference, self._problems)
                if target is not None and target.rule.id in ids:
                    found.setdefault(target.rule.id, {})[alias.name] = field
                elif target is not None:
                    message = f"the alias {alias.name!r} is for {reference.to!r}, which the correlation does not count"
                    self._problems.append(Problem(reference.place, message, "add it to `rules`", "warning"))
            for reference, target in targets:
                if alias.name not in found.get(target.rule.id, {}):
                    message = f"the alias {alias.name!r} says nothing of {reference.to!r}"
                    hint = f"add `{reference.to}: Field`: until then, its own field {alias.name!r} counts"
                    self._problems.append(Problem(reference.place, message, hint, "warning"))
        return found

    def _check_group_by(
        self, group_by: tuple[str, ...], reference: syntax.Reference, target: syntax.CorrelationBody
    ) -> None:
        for field in group_by:
            if field not in target.group_by:
                known = ", ".join(target.group_by)
                message = f"{reference.to!r} is a correlation that is not grouped by {field!r}"
                hint = f"it is grouped by {known}" if known else "it is not grouped at all: add `group-by` there"
                self._problems.append(Problem(reference.place, message, hint))

    def _find_reason(self, body: syntax.CorrelationBody, targets: list[tuple[syntax.Reference, Target]]) -> str:
        if body.rule.id in self._disabled:
            return self._disabled[body.rule.id]
        reasons = {reference.to: reason for reference, target in targets if (reason := self._reason_of(target))}
        if body.kind not in _TEMPORAL or body.bounds:
            possible = len(reasons) < len(targets)
        elif body.expression is not None:
            possible = _can_hold(body.expression, reasons)
        else:
            possible = not reasons
        if possible:
            return ""
        named, reason = next(iter(reasons.items()))
        return f"it needs {named!r}, which is inactive: {reason}"

    def _reason_of(self, target: Target) -> str:
        if isinstance(target, syntax.RuleBody):
            return target.reason
        linked = self._linked[target.rule.id]
        return "" if linked is None else linked.reason

    def _apply(self, linked: syntax.Correlation, found: syntax.FilterBody, top: str) -> syntax.Correlation:
        """Let only events count for which the filter holds; correlations below are copied for this one alone."""
        feeds = []
        for feed in linked.feeds:
            target = self._directory.by_id[feed.rule_id.partition("#")[0]]
            if isinstance(target, syntax.RuleBody):
                restrictions = (*feed.restrictions, rename(found)) if covers(found, target.rule) else feed.restrictions
                feeds.append(msgspec.structs.replace(feed, restrictions=restrictions))
            elif isinstance(target, syntax.CorrelationBody):
                feeds.append(msgspec.structs.replace(feed, rule_id=self._copy(feed.rule_id, found, top)))
        return msgspec.structs.replace(linked, feeds=tuple(feeds))

    def _copy(self, rule_id: str, found: syntax.FilterBody, top: str) -> str:
        """Return the id of the copy that only `top` hears of; it is made, or restricted once more by the filter."""
        copied_id = rule_id if rule_id.endswith(f"#{top}") else f"{rule_id}#{top}"
        if (copied_id, found.id) in self._restricted:
            return copied_id  # it is reached in two ways
        self._restricted.add((copied_id, found.id))
        lower = self._copies.get(copied_id) or self._copies.get(rule_id) or self._linked[rule_id]
        if lower is not None:  # always: what builds on a broken correlation is not linked
            rule = msgspec.structs.replace(lower.rule, id=copied_id)
            restricted = self._apply(lower, found, top)
            original = rule_id.partition("#")[0]
            self._copies[copied_id] = msgspec.structs.replace(restricted, rule=rule, silent=True, copy_of=original)
        return copied_id


def _refuse_depth(place: Place) -> Problem:
    message = f"correlations build on one another more than {_MAX_DEPTH} deep"
    return Problem(place, message, "count the rules at the bottom directly")


def find_below(body: Target, directory: Directory) -> Iterator[syntax.RuleBody]:
    """All rules that a correlation builds on, directly or not; what cannot be found is left out. A rule is its own."""
    if isinstance(body, syntax.RuleBody):
        yield body
        return
    pending, seen = [body], {body.rule.id}
    while pending:
        for reference in pending.pop().rules:
            target = directory.find(reference, None)
            if target is None or target.rule.id in seen:
                continue
            seen.add(target.rule.id)
            if isinstance(target, syntax.RuleBody):
                yield target
            else:
                pending.append(target)


def _can_hold(condition: syntax.Condition, never: Mapping[str, str]) -> bool:
    """Tell whether the condition can hold although some rules never match. Any rule may fail to match."""
    match condition:
        case syntax.Named():
            return condition.name not in never
        case syntax.Not():
            return True
    items = [_can_hold(item, never) for item in condition.items]
    return all(items) if condition.every else any(items)
