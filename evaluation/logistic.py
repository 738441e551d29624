"""Logistic regression by coordinate descent: sparse rows, a ridge, weights that may be held at zero or above."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROUNDS = 40
CLOSE = 1e-3
_MOST_STEP = 2.0
_LEAST_CURVE = 1e-3


class Row(msgspec.Struct, frozen=True):
    """One example: what is so of it (name to value), whether it is of the wanted kind, how much it counts."""

    values: dict[str, float]
    wanted: bool
    share: float = 1.0


class Fit(msgspec.Struct, frozen=True):
    """A fitted sum of log-odds."""

    bias: float
    weights: dict[str, float]

    def weigh(self, values: Mapping[str, float]) -> float:
        """Log-odds of an example; names that were not fitted say nothing."""
        return self.bias + sum(value * self.weights.get(name, 0.0) for name, value in values.items())


def fit(rows: Sequence[Row], ridge: Callable[[str], float], is_free: Callable[[str], bool]) -> Fit:
    """The weights that suit the rows best. Names that are not `is_free` never get a weight below zero.

    `ridge` says by name how strongly a weight is held at zero; the bias is not. Deterministic.
    """
    places: dict[str, list[tuple[int, float]]] = {"": [(place, 1.0) for place in range(len(rows))]}
    for place, row in enumerate(rows):
        for name, value in row.values.items():
            places.setdefault(name, []).append((place, value))
    weights = dict.fromkeys(places, 0.0)
    log_odds = [0.0] * len(rows)
    names = sorted(places)
    for _ in range(ROUNDS):
        farthest = 0.0
        for name in names:
            slope, curve = _derive(rows, log_odds, places[name])
            if name:
                slope, curve = slope + ridge(name) * weights[name], curve + ridge(name)
            step = max(-_MOST_STEP, min(_MOST_STEP, -slope / max(curve, _LEAST_CURVE)))
            if name and not is_free(name):
                step = max(step, -weights[name])
            weights[name] += step
            farthest = max(farthest, abs(step))
            for place, value in places[name]:
                log_odds[place] += step * value
        if farthest < CLOSE:
            break
    bias = weights.pop("")
    return Fit(bias, weights)


def chance(log_odds: float) -> float:
    """Log-odds as a probability."""
    return 1 / (1 + math.exp(-max(-500.0, min(500.0, log_odds))))


def _derive(rows: Sequence[Row], log_odds: Sequence[float], places: Sequence[tuple[int, float]]) -> tuple[float, float]:
    slope = curve = 0.0
    for place, value in places:
        row = rows[place]
        found = chance(log_odds[place])
        slope += row.share * (found - row.wanted) * value
        curve += row.share * found * (1 - found) * value * value
    return slope, curve
