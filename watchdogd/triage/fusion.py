"""One opinion out of two: the scorer's log-odds and the model's, weighed as cases with a known label suggest.

A logistic regression with three weights, held by a ridge to the scorer alone: few cases move it little, and a model
that says nothing new gets no weight. A weight is never negative: nobody is believed the contrary of what they say.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from watchdogd.background import Fusion

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RIDGE = 2.0
"""As much as about two cases of medium doubt say."""
MOST_LOG_ODDS = 6.0
"""Nobody is believed to be surer than 400 to 1."""
_LEAST_SHARE = 1e-6
_ROUNDS = 50
_CLOSE = 1e-9

_Weights = tuple[float, float, float]
_PRIOR: _Weights = (0.0, 1.0, 0.0)


class Sample(msgspec.Struct, frozen=True):
    """One alert with a known label, and what scorer and model said of it, in log-odds of an attack."""

    malicious: bool
    scorer: float
    model: float


def weigh_shares(shares: Mapping[str, float]) -> float:
    """Log-odds of `malicious` against `benign` by how a model's probability falls on the labels."""
    malicious, benign = (max(shares.get(name, 0.0), _LEAST_SHARE) for name in ("malicious", "benign"))
    return bound(math.log(malicious / benign))


def find_log_odds(chance: float) -> float:
    """A probability as log-odds."""
    chance = max(_LEAST_SHARE, min(1 - _LEAST_SHARE, chance))
    return bound(math.log(chance / (1 - chance)))


def bound(log_odds: float) -> float:
    """Log-odds as far as anybody is believed."""
    return max(-MOST_LOG_ODDS, min(MOST_LOG_ODDS, log_odds))


def fuse(fusion: Fusion, scorer: float, model: float) -> float:
    """Log-odds of an attack by both opinions."""
    return fusion.bias + fusion.scorer * bound(scorer) + fusion.model * bound(model)


def probability(log_odds: float) -> float:
    """Log-odds as a probability."""
    return 1 / (1 + math.exp(-max(-700.0, min(700.0, log_odds))))


def fit(samples: Sequence[Sample]) -> Fusion:
    """The weights that suit the samples best, not far from those of the scorer alone; without samples just those."""
    weights = _descend(samples, (True, True, True))
    if weights[2] < 0:
        weights = _descend(samples, (True, True, False))
    if weights[1] < 0:
        weights = _descend(samples, (True, False, weights[2] > 0), (0.0, 0.0, 0.0))
    bias, scorer, model = (round(max(weight, 0.0) if place else weight, 6) for place, weight in enumerate(weights))
    return Fusion(bias, scorer, model)


def judge_unseen(samples: Sequence[Sample], folds: int = 10) -> list[float]:
    """Fused log-odds of each sample, by weights that were fitted without it."""
    counted = {True: 0, False: 0}
    parts = []
    for sample in samples:  # each part holds as much of both kinds: else what is left out shifts the bias against it
        parts.append(counted[sample.malicious] % folds)
        counted[sample.malicious] += 1
    fitted = {
        part: fit([sample for sample, other in zip(samples, parts, strict=True) if other != part])
        for part in set(parts)
    }
    return [fuse(fitted[part], sample.scorer, sample.model) for sample, part in zip(samples, parts, strict=True)]


def _descend(samples: Sequence[Sample], free: tuple[bool, bool, bool], start: _Weights = _PRIOR) -> _Weights:
    """Newton's method on the penalised loss; weights that are not `free` stay where they start."""
    rows = [(1.0, bound(sample.scorer), bound(sample.model), float(sample.malicious)) for sample in samples]
    places = [place for place in range(3) if free[place]]
    weights = list(start)
    loss = _measure(rows, weights)
    for _ in range(_ROUNDS):
        step = _solve(*_slope(rows, weights, places))
        size = 1.0
        while size > _CLOSE:
            tried = list(weights)
            for place, part in zip(places, step, strict=True):
                tried[place] -= size * part
            if (reached := _measure(rows, tried)) <= loss:
                break
            size /= 2
        else:
            break
        gained, loss, weights = loss - reached, reached, tried
        if gained < _CLOSE:
            break
    return weights[0], weights[1], weights[2]


def _measure(rows: Sequence[tuple[float, float, float, float]], weights: Sequence[float]) -> float:
    """The loss, with its penalty."""
    penalty = RIDGE / 2 * sum((weight - prior) ** 2 for weight, prior in zip(weights, _PRIOR, strict=True))
    return penalty + math.fsum(_surprise(_weigh(row, weights), row[3]) for row in rows)


def _surprise(log_odds: float, truth: float) -> float:
    return max(log_odds, 0.0) + math.log1p(math.exp(-abs(log_odds))) - truth * log_odds


def _weigh(row: tuple[float, float, float, float], weights: Sequence[float]) -> float:
    return row[0] * weights[0] + row[1] * weights[1] + row[2] * weights[2]


def _slope(
    rows: Sequence[tuple[float, float, float, float]], weights: Sequence[float], places: Sequence[int]
) -> tuple[list[list[float]], list[float]]:
    """Second and first derivatives of the loss."""
    first = [RIDGE * (weights[place] - _PRIOR[place]) for place in places]
    second = [[RIDGE * float(a == b) for b in places] for a in places]
    for row in rows:
        chance = probability(_weigh(row, weights))
        for i, a in enumerate(places):
            first[i] += (chance - row[3]) * row[a]
            for j, b in enumerate(places):
                second[i][j] += chance * (1 - chance) * row[a] * row[b]
    return second, first


def _solve(matrix: list[list[float]], vector: list[float]) -> list[float]:
    """`x` of `matrix x = vector`; the matrix is positive definite, so that no pivoting is needed."""
    rows = [[*row, value] for row, value in zip(matrix, vector, strict=True)]
    for place, pivot in enumerate(rows):
        for lower in rows[place + 1 :]:
            factor = lower[place] / pivot[place]
            lower[:] = [a - factor * b for a, b in zip(lower, pivot, strict=True)]
    found = [0.0] * len(rows)
    for place in reversed(range(len(rows))):
        known = sum(rows[place][other] * found[other] for other in range(place + 1, len(rows)))
        found[place] = (rows[place][-1] - known) / rows[place][place]
    return found
