"""Files that were read one by one become one rule set. Pure, and without pySigma: it runs in the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watchdogd.errors import Problem, RuleError
from watchdogd.match import syntax

if TYPE_CHECKING:
    from collections.abc import Sequence

_NO_OVERRIDES = syntax.Overrides()


def link(layers: Sequence[Sequence[syntax.FileReading]], overrides: syntax.Overrides = _NO_OVERRIDES) -> syntax.RuleSet:
    """Put the files of all layers together: a later layer's rule replaces an earlier one's of the same id.

    Raises RuleError with every problem, warnings among them, where at least one is an error.
    """
    del overrides
    problems = [problem for layer in layers for reading in layer for problem in reading.problems]
    bodies: dict[str, syntax.RuleBody] = {}
    for layer in layers:
        here: dict[str, syntax.RuleBody] = {}
        for reading in layer:
            for body in reading.bodies:
                if not isinstance(body, syntax.RuleBody):
                    continue
                earlier = here.setdefault(body.rule.id, body)
                if earlier is not body:
                    message = f"the id {body.rule.id} is used already, at {earlier.place}"
                    problems.append(Problem(body.place, message, "give each rule an id of its own"))
        for rule_id in here:
            bodies.pop(rule_id, None)
        bodies |= here
    if any(problem.severity == "error" for problem in problems):
        raise RuleError(tuple(problems))
    return syntax.RuleSet(tuple(bodies.values()), tuple(problems))
