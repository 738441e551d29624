"""Files that were read one by one become one rule set. Pure, and without pySigma: it runs in the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from watchdogd.errors import Problem, RuleError
from watchdogd.match import syntax
from watchdogd.match.layers import Chosen
from watchdogd.match.link_correlations import CorrelationLinker, find_below
from watchdogd.match.link_filters import covers, restrict, warn_unused
from watchdogd.match.link_parts import find_parts
from watchdogd.match.names import Directory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from watchdogd.entities import Part

_Silent = TypeVar("_Silent", syntax.RuleBody, syntax.Correlation)
_NO_OVERRIDES = syntax.Overrides()


def link(layers: Sequence[Sequence[syntax.FileReading]], overrides: syntax.Overrides = _NO_OVERRIDES) -> syntax.RuleSet:
    """Put the files of all layers together: a later layer's document replaces an earlier one's of the same id.

    Filters go into their rules, and correlations get what they refer to. Raises RuleError with every problem, warnings
    among them, where at least one is an error.
    """
    problems = [problem for layer in layers for reading in layer for problem in reading.problems]
    is_complete = not _has_error(problems)
    chosen, doubts = Chosen(), list[Problem]()
    for layer in layers:
        chosen.add_layer(layer, problems, doubts)
    chosen.override(overrides, doubts)
    linked = _Linker(chosen, problems, doubts, is_complete=is_complete).link()
    if is_complete:  # what is missing may stand in a file that could not be read
        problems += doubts
    problems = _sort(problems, layers)
    if _has_error(problems):
        raise RuleError(tuple(problems))
    return msgspec.structs.replace(linked, warnings=tuple(problems))


class _Linker:
    def __init__(self, chosen: Chosen, problems: list[Problem], doubts: list[Problem], *, is_complete: bool) -> None:
        self._disabled = {rule_id: f"disabled at {place}" for rule_id, place in chosen.disabled.items()}
        self._bodies = {
            rule_id: _disable(body, self._disabled[rule_id])
            if rule_id in self._disabled and isinstance(body, syntax.RuleBody)
            else body
            for rule_id, body in chosen.bodies.items()
        }
        self._directory = Directory(self._bodies, is_complete=is_complete)
        self._problems = problems
        self._doubts = doubts

    def link(self) -> syntax.RuleSet:
        rules = {body.rule.id: body for body in self._bodies.values() if isinstance(body, syntax.RuleBody)}
        correlations = [body for body in self._bodies.values() if isinstance(body, syntax.CorrelationBody)]
        on_correlations: dict[str, list[syntax.FilterBody]] = {}
        for found in self._bodies.values():
            if isinstance(found, syntax.FilterBody) and found.id not in self._disabled:
                for rule_id in self._find_filtered(found, on_correlations):
                    rules[rule_id] = restrict(rules[rule_id], found)
        linker = CorrelationLinker(self._directory, self._disabled, on_correlations, self._problems)
        linked = linker.link_all(correlations)
        silent = self._find_silent(correlations)
        parts = find_parts(linked, silent)
        return syntax.RuleSet(
            tuple(_silence(body) if rule_id in silent else _join(body, parts) for rule_id, body in rules.items()),
            (),
            tuple(_silence(found) if found.rule.id in silent else _join(found, parts) for found in linked),
        )

    def _find_filtered(
        self, found: syntax.FilterBody, on_correlations: dict[str, list[syntax.FilterBody]]
    ) -> list[str]:
        """Ids of the rules that the filter changes; correlations that it names are noted."""
        if found.rules is None:
            bodies = [body for body in self._bodies.values() if isinstance(body, syntax.RuleBody)]
            covered = [body.rule.id for body in bodies if covers(found, body.rule)]
            if not covered:
                self._doubts.append(warn_unused(found))
            return covered
        ids = []
        for reference in found.rules:
            target = self._directory.find(reference, self._problems, "warning")
            if target is None:
                continue
            below = (
                list(find_below(target, self._directory)) if isinstance(target, syntax.CorrelationBody) else [target]
            )
            if not any(covers(found, body.rule) for body in below):
                self._doubts.append(warn_unused(found, reference, target.rule.title))
            elif isinstance(target, syntax.CorrelationBody):
                on_correlations.setdefault(target.rule.id, []).append(found)
            else:
                ids.append(target.rule.id)
        return ids

    def _find_silent(self, correlations: list[syntax.CorrelationBody]) -> set[str]:
        """Ids of what only correlations hear of."""
        heard: set[str] = set()
        silent: set[str] = set()
        for body in correlations:
            targets = (self._directory.find(reference, None) for reference in body.rules)
            (heard if body.generate else silent).update(target.rule.id for target in targets if target is not None)
        return silent - heard


def _disable(body: syntax.RuleBody, reason: str) -> syntax.RuleBody:
    return msgspec.structs.replace(body, view="", detections={}, condition=None, reason=reason)


def _join(body: _Silent, parts: Mapping[str, tuple[Part, ...]]) -> _Silent:
    """Tell the rule what it is made of, and what is made of it."""
    own = parts.get(body.rule.id, ())
    part_of = {part.fields: None for found in parts.values() for part in found if part.rule_id == body.rule.id}
    if not own and not part_of:
        return body
    timespan_ms = body.timespan_ms if isinstance(body, syntax.Correlation) else 0
    rule = msgspec.structs.replace(body.rule, parts=own, part_of=tuple(part_of), timespan_ms=timespan_ms)
    return msgspec.structs.replace(body, rule=rule)


def _silence(body: _Silent) -> _Silent:
    return msgspec.structs.replace(body, silent=True)


def _has_error(problems: Sequence[Problem]) -> bool:
    return any(problem.severity == "error" for problem in problems)


def _sort(problems: Sequence[Problem], layers: Sequence[Sequence[syntax.FileReading]]) -> list[Problem]:
    """In the order of the files and of their lines; what stands in no rule file comes last."""
    paths = dict.fromkeys(reading.path for layer in layers for reading in layer)
    order = {path: number for number, path in enumerate(paths)}

    def key(problem: Problem) -> tuple[int, int, int]:
        place = problem.place
        return order.get(place.path, len(order)), place.line or 0, place.column or 0

    return sorted(problems, key=key)
